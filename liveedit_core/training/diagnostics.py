"""What routing does on held-out entities while a generator is trained, and what to warn about.

Three faults make a generator useless long before its losses say so: no expert passes the hard
filter, nearly all of them pass, or some expert is so large that it drowns the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import RoutingBatch
from liveedit_core.schema import ProbeKind
from liveedit_core.training.recipe import DiagnosticsRecipe

TAUGHT = (ProbeKind.RELIABILITY, ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY)
"""Kinds that the own expert must answer."""
STRANGERS = (ProbeKind.MODAL_LOCALITY, ProbeKind.IMAGE_SWAP_LOCALITY)
"""Kinds that show another image: the sentinel must beat every expert."""


@dataclass(frozen=True, kw_only=True)
class RoutedProbe:
    """Routing of one probe with an image over the whole bank."""

    kind: ProbeKind
    own: int
    """Position of the expert of the probe's edit."""
    relatives: tuple[int, ...]
    """Positions of all experts of the probe's entity, own included."""
    kept_N: Tensor
    """bool: experts that answer."""
    margin_N: Tensor
    """Visual similarity minus the sentinel's."""
    gate_N: Tensor
    """sigmoid(prompt similarity)."""

    @property
    def own_kept(self) -> bool:
        """Whether the expert of the probe's edit answers."""
        return bool(self.kept_N[self.own])


@dataclass(frozen=True, kw_only=True)
class RoutingSamples:
    """Numbers behind the routing histograms."""

    own_margins: tuple[float, ...]
    """Margin of the own expert on probes that it must answer; above 0 it passes the filter."""
    stranger_margins: tuple[float, ...]
    """The largest margin among experts of other entities, on every probe with an image."""
    num_kept: tuple[int, ...]
    """Experts that answer a probe that one must answer."""
    num_kept_strangers: tuple[int, ...]
    """Experts that answer a probe with another image."""
    own_gates: tuple[float, ...]
    """Gate of the own expert on probes that it must answer."""
    other_question_gates: tuple[float, ...]
    """Gate of the own expert on another question about its image."""


def routed_probes(
    routing: RoutingBatch,
    kinds: Sequence[ProbeKind],
    own: Sequence[int],
    relatives: Sequence[tuple[int, ...]],
) -> list[RoutedProbe]:
    """The rows of a routing batch, each with what its probe asks."""
    gates_BN = routing.prompt_BN.sigmoid()
    return [
        RoutedProbe(
            kind=kind,
            own=own[row],
            relatives=relatives[row],
            kept_N=routing.kept_BN[row],
            margin_N=routing.margin_BN[row],
            gate_N=gates_BN[row],
        )
        for row, kind in enumerate(kinds)
    ]


def routing_samples(probes: Sequence[RoutedProbe]) -> RoutingSamples:
    """Collect what the histograms show."""
    taught = [probe for probe in probes if probe.kind in TAUGHT]
    strange = [probe for probe in probes if probe.kind in STRANGERS]
    swapped = [probe for probe in probes if probe.kind is ProbeKind.PROMPT_SWAP_LOCALITY]
    return RoutingSamples(
        own_margins=tuple(float(probe.margin_N[probe.own]) for probe in taught),
        stranger_margins=tuple(_stranger_margins(probes)),
        num_kept=tuple(int(probe.kept_N.sum()) for probe in taught),
        num_kept_strangers=tuple(int(probe.kept_N.sum()) for probe in strange),
        own_gates=tuple(float(probe.gate_N[probe.own]) for probe in taught),
        other_question_gates=tuple(float(probe.gate_N[probe.own]) for probe in swapped),
    )


def _stranger_margins(probes: Sequence[RoutedProbe]) -> list[float]:
    margins = []
    for probe in probes:
        others = probe.margin_N.clone()
        if probe.kind not in STRANGERS:
            others[list(probe.relatives)] = -torch.inf
        largest = float(others.max())
        if largest > float("-inf"):
            margins.append(largest)
    return margins


def routing_figures(probes: Sequence[RoutedProbe]) -> dict[str, float]:
    """Routing accuracies and shares, for the curve; a figure without samples is left out.

    own_kept                  own expert kept, on probes that it must answer
    own_kept_other_drawing    the same, on other drawings of the entity only
    empty_candidates          nothing kept, on probes that an expert must answer
    no_image_match          the part of these where no expert passes the hard filter; where one
                              does, the prompt gates are shut
    sentinel_beaten           some expert beats the sentinel, on probes with another image
    other_question_answered   own expert kept, on another question about its image
    kept_fraction             share of the bank that is kept, on all probes with an image
    """
    taught = [p for p in probes if p.kind in TAUGHT]
    samples: dict[str, list[float]] = {
        "own_kept": [p.own_kept for p in taught],
        "own_kept_other_drawing": [
            p.own_kept for p in taught if p.kind is ProbeKind.MODAL_GENERALITY
        ],
        "empty_candidates": [not p.kept_N.any() for p in taught],
        "no_image_match": [not (p.kept_N.any() or (p.margin_N > 0).any()) for p in taught],
        "sentinel_beaten": [bool((p.margin_N > 0).any()) for p in probes if p.kind in STRANGERS],
        "other_question_answered": [
            p.own_kept for p in probes if p.kind is ProbeKind.PROMPT_SWAP_LOCALITY
        ],
        "kept_fraction": [float(p.kept_N.float().mean()) for p in probes],
    }
    return {name: sum(values) / len(values) for name, values in samples.items() if values}


def expert_norms(repository: ExpertRepository, gain: float) -> Tensor:
    """Frobenius norm of gain * down^T up of every expert, [N]: how strongly it can act."""
    down_NRR = repository.down_NRD @ repository.down_NRD.transpose(1, 2)
    up_NRR = repository.up_NRD @ repository.up_NRD.transpose(1, 2)
    squared_N = (down_NRR * up_NRR).sum((1, 2))
    return squared_N.clamp(min=0).sqrt() * abs(gain)


def routing_warnings(
    figures: dict[str, float], limits: DiagnosticsRecipe, *, first_norm: float = 0.0
) -> list[str]:
    """What a user should look at, in words.

    Args:
        figures: of `routing_figures`, with `expert_norm_median` and `expert_norm_max`.
        limits: when to warn.
        first_norm: `expert_norm_median` of the first validation; 0 when there is none.
    """
    warnings = []
    if (empty := figures.get("empty_candidates", 0.0)) > limits.max_empty_fraction:
        if figures.get("no_image_match", empty) >= empty / 2:
            cause = (
                "Mostly no image passes the hard filter: its threshold is too high, or the "
                "visual features do not recognise entities. Raise visual_key.unedited_fraction, or "
                "try another edit layer (--find-layer)."
            )
        else:
            cause = (
                "Mostly images pass, but the prompt gates are shut: train the phase prompt "
                "longer, or lower model.min_gate."
            )
        warnings.append(f"No expert answers {empty:.0%} of the questions that one must. {cause}")
    if (kept := figures.get("kept_fraction", 0.0)) > limits.max_kept_fraction:
        warnings.append(
            f"{kept:.0%} of the bank passes the hard filter on the average question: it filters "
            "nothing, and locality rests on the prompt gates alone. Lower "
            "visual_key.unedited_fraction, set model.max_kept, or try another edit layer "
            "(--find-layer)."
        )
    median, largest = figures.get("expert_norm_median", 0.0), figures.get("expert_norm_max", 0.0)
    if largest > limits.max_norm_ratio * median:
        warnings.append(
            f"The largest expert has norm {largest:.3g}, the median one {median:.3g}: it drowns "
            "what it is mixed with. Lower the learning rate, or look at its image and target."
        )
    if first_norm and median > limits.max_norm_growth * first_norm:
        warnings.append(
            f"The median norm of experts grew from {first_norm:.3g} to {median:.3g}: training "
            "diverges. Lower the learning rate or lengthen the warm-up."
        )
    return warnings
