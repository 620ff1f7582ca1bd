"""What the request log says about some edits: numbers, subjects, changes of mind.

Looked up by indexed columns, together with all edits that share a subject with them, so that the
cost does not depend on how long the log is.
"""

import bisect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lance import LanceDataset

from infra.requests.subject_log import SubjectAssignment, SubjectLog
from infra.storage.tables import batches_of, read_rows, select_any
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
_INDEX_COLUMNS = (*_KEY_COLUMNS, "pixel_digest", "question_id", "place")
_MANY = 10_000
"""Reading the whole log is as fast as looking up so many texts."""


@dataclass(kw_only=True)
class RequestIndex:
    """Some rows of the log, and the subjects that were assigned since."""

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

    def add(self, row: Mapping[str, Any]) -> RequestKey:
        """A row of the log, with `_INDEX_COLUMNS`; earlier releases wrote the first four only."""
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
        self.numbers_of.setdefault(edit_id, []).append(sequence)
        self.edits_of.setdefault(key.subject_id, []).append((sequence, edit_id))
        if row.get("place") == LOST_PLACE:
            self.lost.add(sequence)
        elif row.get("pixel_digest"):
            self.edits_of_image.setdefault(row["pixel_digest"], []).append((sequence, edit_id))
            self.image_of[sequence] = row["pixel_digest"]
            self._edit_of_question[row["question_id"]] = edit_id
        return key

    def newest(self, edit_id: str) -> RequestKey | None:
        """The newest request of an edit."""
        numbers = self.numbers_of.get(edit_id)
        return self.keys[numbers[-1]] if numbers else None

    def new_row(
        self,
        request: EditRequest,
        *,
        number: int,
        source: str,
        place: int,
        last_place: Callable[[], int],
    ) -> dict[str, Any] | None:
        """The columns of the index for a request, or None if it only repeats what is known.

        `number` is that of a new request; `last_place` looks up the place of the last request of
        the source that the log holds.
        """
        edit_id, pixels = request.edit_id, pixel_digest(request)
        known = self.newest(edit_id)
        asked = question_id(replace(request, pixel_digest=pixels))
        content = {"pixel_digest": pixels, "question_id": asked, "source": source, "place": place}
        if known and not (source and self._is_overtaken(known, pixels) and place > last_place()):
            return None
        equal = self.newest(self._edit_of_question.get(asked, ""))
        subject_id = (known or equal or request).subject_id
        others = [other for _, other in self.edits_of.get(subject_id, ()) if other != edit_id]
        return {
            "sequence": number,
            "edit_id": edit_id,
            "subject_id": subject_id,
            "supersedes": others[-1] if others else "",
            **content,
        }

    def found_again(self, request: EditRequest, *, source: str, place: int) -> list[dict[str, Any]]:
        """The columns of the index for each lost number of a request's edit."""
        numbers = [n for n in self.numbers_of.get(request.edit_id, ()) if n in self.lost]
        if not numbers:
            return []
        pixels = pixel_digest(request)
        asked = question_id(replace(request, pixel_digest=pixels))
        about = {"pixel_digest": pixels, "question_id": asked, "source": source, "place": place}
        keys = [self.keys[number] for number in numbers]
        return [{**{name: getattr(key, name) for name in _KEY_COLUMNS}, **about} for key in keys]

    def _is_overtaken(self, known: RequestKey, pixels: str) -> bool:
        """Whether a later edit replaces this one, or may do so once its subject is decided."""
        if self.edits_of[known.subject_id][-1][1] != known.edit_id:
            return True
        of_image = self.edits_of_image.get(pixels, [])
        later = of_image[bisect.bisect_right(of_image, (known.sequence, known.edit_id)) :]
        return any(other not in self.decided for _, other in later)

    def assign(self, assignments: Iterable[SubjectAssignment]) -> None:
        """Take over subjects that were assigned, in the order of decision."""
        for item in assignments:
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
        """The subject of each edit that the index holds."""
        found = ((edit_id, self.newest(edit_id)) for edit_id in edit_ids)
        return {edit_id: key.subject_id for edit_id, key in found if key}


def read_index(
    requests: LanceDataset,
    subjects: SubjectLog,
    wanted: Mapping[str, Iterable[str]] | None = None,
    *,
    sequences: Collection[int] = (),
) -> RequestIndex:
    """The part of the log with these numbers or texts (by column), and whatever shares an edit or
    a subject with it; the whole log where `wanted` is None."""
    names = [name for name in _INDEX_COLUMNS if name in requests.schema.names]
    rows = _numbered(requests, names, sequences)
    texts = {column: set(values) for column, values in (wanted or {}).items() if column in names}
    new = _related(rows.values(), texts)
    asked: dict[str, set[str]] = {}
    assigned: list[SubjectAssignment] = []
    while wanted is not None and any(new.values()):
        for column, values in new.items():
            asked.setdefault(column, set()).update(values)
        if sum(map(len, asked.values())) > _MANY:
            wanted = None
            break
        found = select_any(requests, names, new).to_pylist()
        rows |= {row["sequence"]: row for row in found}
        decided = subjects.find({key: new[key] for key in new if key in ("edit_id", "subject_id")})
        assigned += decided
        new = _related([*found, *map(vars, decided)], {})
        new = {column: values - asked.get(column, set()) for column, values in new.items()}
    if wanted is None:
        rows = {row["sequence"]: row for row in read_rows(requests, names).to_pylist()}
    index = RequestIndex()
    for number in sorted(rows):
        index.add(rows[number])
    if wanted is None:
        index.assign(subjects.read())
    elif assigned:
        index.assign(subjects.find({"edit_id": {item.edit_id for item in assigned}}))
    return index


def _numbered(
    requests: LanceDataset, names: Sequence[str], sequences: Collection[int]
) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for part in batches_of([str(number) for number in sorted(sequences)]):
        found = read_rows(requests, names, filter=f"sequence IN ({', '.join(part)})")
        rows |= {row["sequence"]: row for row in found.to_pylist()}
    return rows


def _related(rows: Iterable[Mapping[str, Any]], texts: dict[str, set[str]]) -> dict[str, set[str]]:
    """These texts by column, and the edits and subjects of some rows."""
    for row in rows:
        for column in ("edit_id", "subject_id"):
            texts.setdefault(column, set()).add(row[column])
    return texts
