"""What a verification of a bank version found."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from liveedit_core.errors import IntegrityError


@dataclass(frozen=True, kw_only=True)
class FileProblem:
    """A file that is not what was written."""

    key: str
    """In the store."""
    problem: str
    """"is missing", "is truncated: ...", "is altered ..."."""
    edit_ids: tuple[str, ...]
    """Edits of the version that are lost with it, as far as they are known."""


@dataclass(frozen=True, kw_only=True)
class EditProblem:
    """An edit whose row is not what it must be."""

    edit_id: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class DamagedFragment:
    """Files of a version that belong together, one of which is damaged."""

    fragment_id: int
    unharmed_rows: pa.Table


@dataclass(kw_only=True)
class IntegrityReport:
    """What a verification found."""

    bank: str
    version: int
    num_edits: int
    """Experts that the version should hold."""
    num_verified: int = 0
    """Rows that were read and are right."""
    num_files: int = 0
    num_bytes: int = 0
    files: list[FileProblem] = field(default_factory=list)
    edits: list[EditProblem] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What concerns the version as a whole."""
    unsealed: list[str] = field(default_factory=list)
    """Files of an earlier release, of a compaction under way, or of a killed process: readable,
    but nothing says what their bytes must be."""
    damaged: list[DamagedFragment] = field(default_factory=list)
    """For the repair."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.files or self.edits or self.problems)

    @property
    def damaged_edits(self) -> tuple[str, ...]:
        """Edits whose rows are gone or wrong."""
        named = [edit_id for item in self.files for edit_id in item.edit_ids]
        return tuple(dict.fromkeys([*named, *(item.edit_id for item in self.edits)]))

    def lines(self) -> list[str]:
        """All that is wrong, a line each."""
        return [
            *(f"{item.key} {item.problem}; {len(item.edit_ids)} edits" for item in self.files),
            *(f"edit {item.edit_id}: {item.problem}" for item in self.edits),
            *self.problems,
        ]

    def content(self) -> dict[str, Any]:
        """For programs."""
        return {
            "bank": self.bank,
            "version": self.version,
            "is_whole": self.is_whole,
            "num_edits": self.num_edits,
            "num_verified": self.num_verified,
            "num_files": self.num_files,
            "num_bytes": self.num_bytes,
            "files": [vars(item) for item in self.files],
            "edits": [vars(item) for item in self.edits],
            "problems": self.problems,
            "unsealed": self.unsealed,
            "damaged_edits": self.damaged_edits,
        }

    def raise_if_damaged(self) -> None:
        """Refuse a version in which something is wrong.

        Raises:
            IntegrityError: Names every file and edit.
        """
        if not self.is_whole:
            raise IntegrityError(
                f"bank {self.bank!r}, version {self.version}: {'; '.join(self.lines())}. The other "
                "rows are unharmed; `liveedit bank repair` writes the experts again from the log"
            )
