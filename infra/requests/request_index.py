"""The request log in memory: numbers and subjects of all edits, without images and texts."""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra.requests.subject_log import SubjectAssignment
from liveedit_core.inputs.same_question import pixel_digest, question_id
from liveedit_core.schema import EditRequest


@dataclass(frozen=True, kw_only=True)
class RequestKey:
    sequence: int
    edit_id: str
    subject_id: str
    supersedes: str
    """The edit of the same image and question that this one replaces, or ""."""
    similarity: float = 0.0
    """With that edit; see `SubjectAssignment`."""


LOST_PLACE = -1
"""Stands in the rows of lost requests."""
_KEY_COLUMNS = ("sequence", "edit_id", "subject_id", "supersedes")
INDEX_COLUMNS = (
    *_KEY_COLUMNS,
    *("pixel_digest", "question_id", "source", "place"),
)


@dataclass(kw_only=True)
class RequestIndex:
    """Rows of the log, and the subjects that were assigned since."""

    version: int
    keys: dict[int, RequestKey] = field(default_factory=dict)
    """By sequence."""
    numbers_of: dict[str, list[int]] = field(default_factory=dict)
    """Sequences of each edit: several after a change of mind."""
    edits_of: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Sequence and edit_id of each subject's edits, in the order of the log."""
    edits_of_image: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """The same by `pixel_digest`."""
    image_of: dict[int, str] = field(default_factory=dict)
    """`pixel_digest` by sequence."""
    lost: set[int] = field(default_factory=set)
    """Numbers of requests whose rows were damaged (`log_integrity`): sent again, they are back."""
    decided: set[str] = field(default_factory=set)
    """Edits whose subject was assigned."""
    _edit_of_question: dict[str, str] = field(default_factory=dict)
    _last_place: dict[str, int] = field(default_factory=dict)
    _num_assigned: int = 0

    def add(self, row: Mapping[str, Any]) -> RequestKey:
        """A row of the log, with `INDEX_COLUMNS`; earlier releases wrote the first four only."""
        edit_id, sequence = row["edit_id"], row["sequence"]
        known = self.numbers_of.get(edit_id)
        key = RequestKey(
            sequence=sequence,
            edit_id=edit_id,
            subject_id=self.keys[known[0]].subject_id if known else row["subject_id"],
            supersedes=row["supersedes"],
            similarity=1.0 if row["supersedes"] else 0.0,
        )
        self.keys[sequence] = key
        self.lost.discard(sequence)
        if row.get("place") == LOST_PLACE:
            self.lost.add(sequence)
            self.numbers_of.setdefault(edit_id, []).append(sequence)
            self.edits_of.setdefault(key.subject_id, []).append((sequence, edit_id))
            return key
        self.numbers_of.setdefault(edit_id, []).append(sequence)
        self.edits_of.setdefault(key.subject_id, []).append((sequence, edit_id))
        if row.get("pixel_digest"):
            self.edits_of_image.setdefault(row["pixel_digest"], []).append((sequence, edit_id))
            self.image_of[sequence] = row["pixel_digest"]
            self._edit_of_question[row["question_id"]] = edit_id
        if row.get("source"):
            self._last_place[row["source"]] = max(self.last_place(row["source"]), row["place"])
        return key

    def last_place(self, source: str) -> int:
        """Place of the last request of a source that the log holds; 0 if there is none."""
        return self._last_place.get(source, 0)

    def newest(self, edit_id: str) -> RequestKey | None:
        """The newest request of an edit."""
        numbers = self.numbers_of.get(edit_id)
        return self.keys[numbers[-1]] if numbers else None

    def new_row(self, request: EditRequest, source: str, place: int) -> dict[str, Any] | None:
        """The columns of the index for a request, or None if it only repeats what is known."""
        edit_id, pixels = request.edit_id, pixel_digest(request)
        known = self.newest(edit_id)
        if known and known.sequence in self.lost:
            return self._found_again(request, known, pixels, source, place)
        is_new_place = bool(source) and place > self.last_place(source)
        if known and not (is_new_place and self._is_overtaken(known, pixels)):
            return None
        asked = question_id(replace(request, pixel_digest=pixels))
        equal = self.newest(self._edit_of_question.get(asked, ""))
        subject_id = (known or equal or request).subject_id
        others = [other for _, other in self.edits_of.get(subject_id, ()) if other != edit_id]
        return {
            "sequence": len(self.keys) + 1,
            "edit_id": edit_id,
            "subject_id": subject_id,
            "supersedes": others[-1] if others else "",
            "pixel_digest": pixels,
            "question_id": asked,
            "source": source,
            "place": place,
        }

    def _found_again(
        self, request: EditRequest, known: RequestKey, pixels: str, source: str, place: int
    ) -> dict[str, Any]:
        return {
            **{name: getattr(known, name) for name in _KEY_COLUMNS},
            "pixel_digest": pixels,
            "question_id": question_id(replace(request, pixel_digest=pixels)),
            "source": source,
            "place": place,
        }

    def _is_overtaken(self, known: RequestKey, pixels: str) -> bool:
        """Whether a later edit replaces this one, or may do so once its subject is decided."""
        if self.edits_of[known.subject_id][-1][1] != known.edit_id:
            return True
        of_image = self.edits_of_image.get(pixels, [])
        later = of_image[bisect.bisect_right(of_image, (known.sequence, known.edit_id)) :]
        return any(other not in self.decided for _, other in later)

    def assign(self, assignments: Sequence[SubjectAssignment]) -> None:
        """Take over the subjects that were assigned since the last call."""
        for item in assignments[self._num_assigned :]:
            self.decided.add(item.edit_id)
            newest = self.newest(item.edit_id)
            if newest and newest.subject_id != item.subject_id:
                # What asks the same by content follows.
                for number, other in list(self.edits_of[newest.subject_id]):
                    if other == item.edit_id or other not in self.decided:
                        self._move(number, item.subject_id)
            if item.supersedes and item.sequence in self.keys:
                self.keys[item.sequence] = replace(
                    self.keys[item.sequence],
                    supersedes=item.supersedes,
                    similarity=item.similarity,
                )
        self._num_assigned = len(assignments)

    def _move(self, sequence: int, subject_id: str) -> None:
        key = self.keys[sequence]
        if key.subject_id != subject_id:
            self.edits_of[key.subject_id].remove((sequence, key.edit_id))
            self.keys[sequence] = replace(key, subject_id=subject_id)
            bisect.insort(self.edits_of.setdefault(subject_id, []), (sequence, key.edit_id))

    def earlier_of_subject(self, key: RequestKey) -> RequestKey | None:
        """The newest earlier request of another edit with the same subject."""
        others = (
            number
            for number, other in reversed(self.edits_of[key.subject_id])
            if number < key.sequence and other != key.edit_id
        )
        return next((self.keys[number] for number in others), None)

    def subjects(self, edit_ids: Iterable[str]) -> dict[str, str]:
        """The subject of each edit that the log holds."""
        found = ((edit_id, self.newest(edit_id)) for edit_id in edit_ids)
        return {edit_id: key.subject_id for edit_id, key in found if key}
