"""What an editor must do to be compared: take edits one after another, then be examined.

Every editor is examined on the same prepared probes and gives the same `ProbeResult`s as LiveEdit,
so `metrics.summarize` serves them all.
"""

from collections.abc import Sequence
from typing import Protocol

from liveedit_core.metrics import PreparedCases, ProbeResult
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class ComparedEditor(Protocol):
    """An edited model."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Take edits, in this order, on top of all that were taken before.

        Args:
            requests: the edits.
            states: their rows at l_e, target included.
        """
        ...

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        """Examine the model as it is now.

        Free generation is scored on accuracy probes that were prepared with free answers.
        """
        ...
