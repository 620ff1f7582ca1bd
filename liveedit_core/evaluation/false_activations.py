"""False activations: how often a question that no edit is about keeps an edit or changes.

`false_activations`: beside the budget, on image_swap_locality, an edit's question about an image of
something else. `untouched`: on questions about entities that no edit is about, what is left of the
model's other abilities. An answer for which no expert is kept is the unedited one, bit for bit.
Routing does not depend on the protocol.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from liveedit_core.evaluation.probes import PROTOCOLS, ProbeResult
from liveedit_core.evaluation.statistics import Interval, exact_interval, share_interval
from liveedit_core.evaluation.summaries import Summary
from liveedit_core.schema import ProbeKind

MAX_RATIO = 2.0
"""Of the measured share to the budget."""


@dataclass(frozen=True, kw_only=True)
class FalseActivations:
    share: float
    """Of the probes, with any expert kept."""
    interval: Interval
    """95 %."""
    num_probes: int
    budget: float | None
    """None: the visual filter follows none."""

    @property
    def is_exceeded(self) -> bool:
        """Whether it is more than twice the budget, and that not by the chance of few probes."""
        return (
            self.budget is not None
            and self.share > MAX_RATIO * self.budget
            and self.interval.low > self.budget
        )

    def sentence(self) -> str:
        """ "budget 2 %, measured 3.1 % (n = 97)"."""
        budget = "no budget" if self.budget is None else f"budget {100 * self.budget:g} %"
        return f"{budget}, measured {100 * self.share:.1f} % (n = {self.num_probes:,})"


def false_activations(summary: Summary, budget: float | None) -> FalseActivations | None:
    """Of a version with this budget; None if no probe tells."""
    kind = ProbeKind.IMAGE_SWAP_LOCALITY
    found = next((summary[kind, name] for name in PROTOCOLS if (kind, name) in summary), None)
    if found is None:
        return None
    share, num_entities = 1 - found.empty_fraction, found.num_entities
    return FalseActivations(
        share=share,
        interval=exact_interval(share * num_entities, num_entities),
        num_probes=found.num_samples,
        budget=budget,
    )


def false_activation_values(summary: Summary, budget: float | None) -> dict[str, float]:
    """Measured share and budget, as logged to MLflow."""
    found = false_activations(summary, budget)
    if found is None:
        return {}
    values = {"measured": found.share, "budget": found.budget}
    return {f"false_activations.{name}": v for name, v in values.items() if v is not None}


@dataclass(frozen=True, kw_only=True)
class Untouched:
    """Questions that no edit is about, under one protocol."""

    kept: float
    """Share with any expert kept; 0 for an editor without experts."""
    kept_interval: Interval
    """95 %, over entities."""
    changed: float
    """Share with another answer than that of the unedited model."""
    changed_interval: Interval
    num_changed_unkept: int
    """Answers that changed though no expert was kept; 0 for an editor with experts."""
    num_questions: int
    num_entities: int


def untouched(
    results: Sequence[ProbeResult], entities: Mapping[str, str], *, seed: int
) -> Untouched | None:
    """Of the locality results of one protocol; `entities` names the entity by case_id. None if
    there are none."""
    if not results:
        return None
    groups = [entities.get(result.case_id, result.case_id) for result in results]
    kept = [float(bool(result.kept)) for result in results]
    changed = [float(not result.is_exact) for result in results]
    return Untouched(
        kept=sum(kept) / len(kept),
        kept_interval=share_interval(kept, groups=groups, seed=seed),
        changed=sum(changed) / len(changed),
        changed_interval=share_interval(changed, groups=groups, seed=seed),
        num_changed_unkept=sum(not r.kept and not r.is_exact for r in results),
        num_questions=len(results),
        num_entities=len(set(groups)),
    )
