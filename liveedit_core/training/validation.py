"""Validation of a generator during training: the metrics on entities that it was not trained on.

    training entities --split_by_entity--> trained on | held out --> bank of edits, probes scored

Held-out entities come from the training split, so no decision depends on another split.
"""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.devices import device_of
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import PreparedCases, ProbeResult
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.evaluation.summaries import paper_average, summarize
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import PAPER_METRICS, Case, ProbeKind
from liveedit_core.state_source import BackboneStates, StateSource
from liveedit_core.states import LayerStates
from liveedit_core.training.diagnostics import (
    RoutedProbe,
    RoutingSamples,
    expert_norms,
    routing_figures,
    routing_samples,
    routing_warnings,
)
from liveedit_core.training.recipe import DiagnosticsRecipe


@dataclass(frozen=True, kw_only=True)
class CaseSplit:
    """Cases to train and to validate on; no entity is in both."""

    training: tuple[Case, ...]
    held_out: tuple[Case, ...]
    """In random order, each subject once; the first ones are scored."""

    @property
    def held_out_entities(self) -> frozenset[str]:
        """Entities that training must not see in any drawing."""
        return frozenset(case.entity for case in self.held_out)


def split_by_entity(cases: Sequence[Case], *, num_held_out: int, seed: int) -> CaseSplit:
    """Hold out whole entities until they have `num_held_out` edits of different subjects.

    The order of the cases does not matter. A training case may show them as a locality image.
    """
    by_entity: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        by_entity.setdefault(case.entity, []).append(case)
    entities = sorted(by_entity)
    draw = random.Random(f"{seed} validation")
    draw.shuffle(entities)
    chosen: set[str] = set()
    held_out: list[Case] = []
    for entity in entities:
        if len(held_out) >= num_held_out:
            break
        chosen.add(entity)
        held_out += {case.edit.subject_id: case for case in by_entity[entity]}.values()
    if 2 * len(chosen) > len(entities) or len(held_out) < num_held_out:
        raise ConfigError(
            f"bank_edits: {num_held_out} edits of held-out entities need {len(chosen)} of the "
            f"{len(entities)} training entities, more than half; lower it or bring more cases"
        )
    draw.shuffle(held_out)
    training = tuple(case for case in cases if case.entity not in chosen)
    return CaseSplit(training=training, held_out=tuple(held_out[:num_held_out]))


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """Results of one validation."""

    figures: dict[str, float]
    """`validation.<metric>`, `validation.average`, `routing.<figure>`."""
    results: tuple[ProbeResult, ...]
    samples: RoutingSamples
    warnings: tuple[str, ...]

    @property
    def score(self) -> float | None:
        """Mean of the paper's metrics that were measured; the best checkpoint has the highest."""
        names = [f"validation.{kind}" for kind in PAPER_METRICS]
        means = [self.figures[name] for name in names if name in self.figures]
        return sum(means) / len(means) if means else None


class Validator:
    """Scores generators on the first `num_cases` held-out cases, in a bank of all their edits."""

    def __init__(
        self,
        backbone: Backbone,
        held_out: Sequence[Case],
        *,
        num_cases: int,
        limits: DiagnosticsRecipe,
        batch_size: int = 16,
        source: StateSource | None = None,
    ) -> None:
        self.backbone = backbone
        self.source = source or BackboneStates(backbone)
        self.bank_cases = list(held_out)
        self.num_cases = num_cases
        self.limits = limits
        self.batch_size = batch_size
        self.first_norm = 0.0
        """`expert_norm_median` of the first validation; a resumed run may set it."""
        self._prepared = PreparedCases(probes=())
        self._edit_states: list[LayerStates] = []
        self._positions = {case.edit.edit_id: i for i, case in enumerate(self.bank_cases)}
        by_entity: dict[str, list[int]] = {}
        for i, case in enumerate(self.bank_cases):
            by_entity.setdefault(case.entity, []).append(i)
        self._same_entity = [tuple(by_entity[case.entity]) for case in self.bank_cases]

    @torch.no_grad()
    def __call__(self, generator: LiveEditGenerator) -> ValidationReport:
        """Write the bank, route and score all probes."""
        if device_of(generator) != self.backbone.device:
            generator = copy.deepcopy(generator).to(self.backbone.device)
        empty = Editor(self.backbone, generator, ExpertRepository.empty(generator.config))
        scorer = CaseScorer(empty, batch_size=self.batch_size)
        if not self._prepared.probes:
            self._prepare(scorer)
        requests = [case.edit for case in self.bank_cases]
        experts = []
        for start in range(0, len(requests), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            experts += empty.write_experts(requests[chunk], self._edit_states[chunk])
        repository = ExpertRepository.from_experts(generator.config, experts)
        results = scorer.score(self._prepared, repository)
        routed = self._route(empty.with_repository(repository))
        routing = routing_figures(routed)
        norms = expert_norms(repository, generator.config.gain)
        routing["expert_norm_median"] = float(norms.median())
        routing["expert_norm_max"] = float(norms.max())
        self.first_norm = self.first_norm or routing["expert_norm_median"]
        return ValidationReport(
            figures=metric_figures(results)
            | {f"routing.{name}": value for name, value in routing.items()},
            results=tuple(results),
            samples=routing_samples(routed),
            warnings=tuple(routing_warnings(routing, self.limits, first_norm=self.first_norm)),
        )

    def _prepare(self, scorer: CaseScorer) -> None:
        """Probes and states of edits; those of scored cases are among the probes."""
        prepared = scorer.prepare(self.bank_cases[: self.num_cases], source=self.source)
        own = [probe for probe in prepared.probes if probe.kind is ProbeKind.RELIABILITY]
        known = {probe.edit_id: probe.states for probe in own}
        missing = [case.edit for case in self.bank_cases if case.edit.edit_id not in known]
        encoded = self.source.states([edit_input(request) for request in missing])
        known |= {request.edit_id: states for request, states in zip(missing, encoded, strict=True)}
        self._edit_states = [known[case.edit.edit_id] for case in self.bank_cases]
        self._prepared = prepared

    def _route(self, editor: Editor) -> list[RoutedProbe]:
        """Routing of every probe with an image."""
        probes = [probe for probe in self._prepared.probes if probe.states.has_image]
        routed, everything = [], editor.repository.held_positions
        for start in range(0, len(probes), self.batch_size):
            batch = probes[start : start + self.batch_size]
            routing = editor.route([probe.states for probe in batch], compared_U=everything)
            gates_BN = routing.prompt_BN.sigmoid()
            for row, probe in enumerate(batch):
                own = self._positions[probe.edit_id]
                routed.append(
                    RoutedProbe(
                        kind=probe.kind,
                        own=own,
                        same_entity=self._same_entity[own],
                        kept_N=routing.kept_BN[row],
                        margin_N=routing.margin_BN[row],
                        gate_N=gates_BN[row],
                    )
                )
        return routed


def metric_figures(results: Sequence[ProbeResult]) -> dict[str, float]:
    """Means of all metrics and the average of the paper's five, by their names in the curve."""
    summary = summarize(results)
    figures = {f"validation.{kind.value}": item.mean for (kind, _), item in summary.items()}
    average = paper_average(summary)
    return figures if average is None else {**figures, "validation.average": average}
