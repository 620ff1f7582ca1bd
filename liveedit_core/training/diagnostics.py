"""Routing of held-out entities while a generator is trained, and warnings about it.

Three faults make a generator useless long before its losses show them: no expert passes the hard
filter, nearly all of them pass, or one expert is so large that it drowns out the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from liveedit_core.training.recipe import DiagnosticsRecipe

EDITED = (ProbeKind.RELIABILITY, ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY)
"""Kinds for which the own expert must be kept."""
OTHER_IMAGE = (ProbeKind.MODAL_LOCALITY, ProbeKind.IMAGE_SWAP_LOCALITY)
"""Kinds that show another image, for which no expert may be kept."""


@dataclass(frozen=True, kw_only=True)
class RoutedProbe:
    """Routing of one probe with an image over the whole bank."""

    kind: ProbeKind
    own: int
    """Position of the expert of the probe's edit."""
    same_entity: tuple[int, ...]
    """Positions of all experts of the probe's entity, including its own."""
    kept_N: Tensor
    margin_N: Tensor
    """Visual similarity minus the sentinel's."""
    gate_N: Tensor
    """sigmoid(prompt similarity)."""

    @property
    def own_kept(self) -> bool:
        """Whether the own expert is kept."""
        return bool(self.kept_N[self.own])

    @property
    def nearest_other(self) -> float:
        """Largest margin of an expert of another entity; -inf without one."""
        others = self.margin_N.clone()
        if self.kind not in OTHER_IMAGE:
            others[list(self.same_entity)] = -torch.inf
        return float(others.max())


@dataclass(frozen=True, kw_only=True)
class RoutingSamples:
    """Data of the routing histograms."""

    own_margins: tuple[float, ...]
    """Margin of the own expert, on `EDITED` probes."""
    other_entity_margins: tuple[float, ...]
    """The largest margin among experts of other entities, on every probe with an image."""
    num_kept: tuple[int, ...]
    """Experts kept on `EDITED` probes."""
    num_kept_other_image: tuple[int, ...]
    """Experts kept on `OTHER_IMAGE` probes."""
    own_gates: tuple[float, ...]
    """Gate of the own expert on `EDITED` probes."""
    other_question_gates: tuple[float, ...]
    """Gate of the own expert on another question about its image."""


def routing_samples(probes: Sequence[RoutedProbe]) -> RoutingSamples:
    """Collect the data of the histograms."""
    edited = [probe for probe in probes if probe.kind in EDITED]
    other_image = [probe for probe in probes if probe.kind in OTHER_IMAGE]
    swapped = [probe for probe in probes if probe.kind is ProbeKind.PROMPT_SWAP_LOCALITY]
    nearest = [probe.nearest_other for probe in probes]
    return RoutingSamples(
        own_margins=tuple(float(probe.margin_N[probe.own]) for probe in edited),
        other_entity_margins=tuple(margin for margin in nearest if margin > float("-inf")),
        num_kept=tuple(int(probe.kept_N.sum()) for probe in edited),
        num_kept_other_image=tuple(int(probe.kept_N.sum()) for probe in other_image),
        own_gates=tuple(float(probe.gate_N[probe.own]) for probe in edited),
        other_question_gates=tuple(float(probe.gate_N[probe.own]) for probe in swapped),
    )


def routing_figures(probes: Sequence[RoutedProbe]) -> dict[str, float]:
    """Shares for the training curve; a figure without samples is left out.

    own_kept                  own expert kept, on probes that it must answer
    own_kept_other_drawing    the same, on other drawings of the entity only
    empty_candidates          nothing kept, on probes that an expert must answer
    no_image_match            nothing kept because no expert passes the hard filter; for the rest of
                              `empty_candidates` the prompt gates are shut
    sentinel_beaten           some expert beats the sentinel, on probes with another image
    other_question_answered   own expert kept, on another question about its image
    kept_fraction             share of the bank that is kept, on all probes with an image
    """
    edited = [p for p in probes if p.kind in EDITED]
    others = [p for p in edited if p.kind is ProbeKind.MODAL_GENERALITY]
    swapped = [p for p in probes if p.kind is ProbeKind.PROMPT_SWAP_LOCALITY]
    samples: dict[str, list[float]] = {
        "own_kept": [p.own_kept for p in edited],
        "own_kept_other_drawing": [p.own_kept for p in others],
        "empty_candidates": [not p.kept_N.any() for p in edited],
        "no_image_match": [not (p.kept_N.any() or (p.margin_N > 0).any()) for p in edited],
        "sentinel_beaten": [bool((p.margin_N > 0).any()) for p in probes if p.kind in OTHER_IMAGE],
        "other_question_answered": [p.own_kept for p in swapped],
        "kept_fraction": [float(p.kept_N.float().mean()) for p in probes],
    }
    return {name: sum(values) / len(values) for name, values in samples.items() if values}


def expert_norms(repository: ExpertRepository, gain: float) -> Tensor:
    """Frobenius norm of gain * down^T up of every expert, [N]."""
    ranks = repository.ranks_N.tolist()
    pairs = zip(repository.down_LD.split(ranks), repository.up_LD.split(ranks), strict=True)
    squared = [((down @ down.T) * (up @ up.T)).sum() for down, up in pairs]
    return torch.stack(squared).clamp(min=0).sqrt() * abs(gain)


def routing_warnings(
    figures: dict[str, float], limits: DiagnosticsRecipe, *, first_norm: float = 0.0
) -> list[str]:
    """What a user should look at; `first_norm` is the median of the first validation, if any."""
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
        warnings.append(f"No expert is kept for {empty:.0%} of questions that need one. {cause}")
    if (kept := figures.get("kept_fraction", 0.0)) > limits.max_kept_fraction:
        warnings.append(
            f"{kept:.0%} of the bank passes the hard filter on average: it filters nothing, and "
            "locality depends on the prompt gates alone. Lower visual_key.unedited_fraction, set "
            "model.max_kept, or try another edit layer (--find-layer)."
        )
    median, largest = figures.get("expert_norm_median", 0.0), figures.get("expert_norm_max", 0.0)
    if largest > limits.max_norm_ratio * median:
        warnings.append(
            f"The largest expert has norm {largest:.3g}, the median one {median:.3g}: it drowns "
            "out experts that it is mixed with. Lower the learning rate, or check its image and "
            "target."
        )
    if first_norm and median > limits.max_norm_growth * first_norm:
        warnings.append(
            f"The median norm of experts grew from {first_norm:.3g} to {median:.3g}: training "
            "diverges. Lower the learning rate or lengthen the warm-up."
        )
    return warnings
