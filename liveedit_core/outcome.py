"""What became of an edit when its expert was written; imports no torch."""

from dataclasses import dataclass
from typing import Literal

WriteState = Literal["written", "verified", "refined", "weak"]
WeakReason = Literal["", "filter", "gate", "text"]


@dataclass(frozen=True, kw_only=True)
class WriteOutcome:
    """What became of an edit when its expert was written (`refine.py`)."""

    state: WriteState = "written"
    """"written": not verified; "verified": right as the generator wrote it; "refined": right after
    some steps; "weak": its own question is not answered."""
    steps: int = 0
    """Refinement steps that were taken."""
    num_target_tokens: int = 0
    """0 where nothing was verified."""
    answer: str = ""
    """What a weak edit answers instead, teacher-forced: later words assume the target's first."""
    reason: WeakReason = ""
    """Why an edit is weak: the hard filter or the prompt gate drops its expert, or another text."""

    def explanation(self, target: str) -> str:
        """Of a weak edit, for the person who submitted it."""
        causes = {
            "filter": "the hard filter drops its expert for the edit's own image",
            "gate": "the prompt gate drops its expert for the edit's own prompt or another wording",
            "text": f"the text is not right after {self.steps} refinement steps",
        }
        return (
            f"weak edit: the model answers {self.answer!r} instead of {target!r}, because "
            f"{causes[self.reason]}"
        )
