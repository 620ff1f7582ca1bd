"""What one editor reached after N edits: the results of all groups of N, and their summaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from liveedit_core.baselines.protocol import EditorMemory
from liveedit_core.evaluation.false_activations import Untouched, untouched
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.retention import Retention, retention
from liveedit_core.evaluation.scope import ScopeSummary, scope_classes
from liveedit_core.evaluation.summaries import (
    EARNED_METRICS,
    AverageMetric,
    LabelSummary,
    Summary,
    average_metric,
    summarize,
    summarize_variants,
)
from liveedit_core.schema import PAPER_METRICS, Case, entity_of
from pipelines.baselines.editors import EditorRow
from pipelines.baselines.group_store import RungScores

NO_MEMORY = EditorMemory(fixed_bytes=0, stored_bytes=0)
AVERAGES = {"average": PAPER_METRICS, "average_without_text_locality": EARNED_METRICS}
"""Metrics of each average, teacher-forced."""


@dataclass(frozen=True, kw_only=True)
class EditorScores:
    """What one editor reached after N edits, over all groups of N."""

    name: str
    configuration: str
    """The name of all seeds of a configuration."""
    trained_on: str
    train_s: float | None
    """Seconds of training before the first edit."""
    num_trained: int
    """Parameters that were trained then."""
    num_trials: int
    """On validation, before the settings were chosen."""
    num_edits: int
    num_groups: int
    num_scored_cases: int
    summary: Summary
    by_variant: LabelSummary
    averages: Mapping[str, AverageMetric]
    """By name, where all metrics of an average were measured."""
    scope: ScopeSummary
    retention: Mapping[str, Retention]
    """By protocol; empty at one edit."""
    unrelated: Untouched | None
    """On questions about entities that were not taught, teacher-forced; None: none was asked."""
    teach_s: float
    score_s: float
    cold_s: float
    """Of one edit, from the image's bytes on."""
    memory: EditorMemory
    """After the last group."""

    @property
    def has_experts(self) -> bool:
        """Whether any question kept an expert of its own edit."""
        return any(metric.own_kept_fraction > 0 for metric in self.summary.values())

    @property
    def edit_s(self) -> float:
        """Time of one case's edits."""
        return self.teach_s / (self.num_edits * self.num_groups)


@dataclass(kw_only=True)
class Tally:
    """What adds up over groups."""

    results: list[ProbeResult] = field(default_factory=list)
    right_after: list[ProbeResult] = field(default_factory=list)
    unrelated: list[ProbeResult] = field(default_factory=list)
    teach_s: float = 0.0
    score_s: float = 0.0
    memory: EditorMemory = NO_MEMORY

    def add(self, rung: RungScores) -> None:
        self.results += rung.results
        self.right_after += rung.right_after
        self.unrelated += rung.unrelated
        self.teach_s += rung.teach_s
        self.score_s += rung.score_s
        self.memory = rung.memory

    def scores(
        self,
        row: EditorRow,
        *,
        num_edits: int,
        num_groups: int,
        scored: Sequence[Case],
        entities: Mapping[str, str],
        cold_s: float,
        seed: int,
    ) -> EditorScores:
        """Summaries of everything; `scored` are the cases of `results`, and `entities` knows those
        that were asked about without being taught as well."""
        own = entity_of(scored)
        averages = {
            name: average_metric(self.results, own, kinds, seed=seed)
            for name, kinds in AVERAGES.items()
        }
        return EditorScores(
            name=row.name,
            configuration=row.configuration,
            trained_on=row.trained_on,
            train_s=row.train_s,
            num_trained=row.num_trained,
            num_trials=row.num_trials,
            num_edits=num_edits,
            num_groups=num_groups,
            num_scored_cases=len(scored),
            summary=summarize(self.results, own, seed=seed),
            by_variant=summarize_variants(self.results, scored, seed=seed),
            averages={name: found for name, found in averages.items() if found},
            scope=scope_classes(self.results, own, seed=seed),
            retention=retention(self.right_after, self.results, own, seed=seed),
            unrelated=untouched(self.unrelated, entities, seed=seed),
            teach_s=self.teach_s,
            score_s=self.score_s,
            cold_s=cold_s,
            memory=self.memory,
        )
