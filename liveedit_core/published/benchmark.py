"""A published benchmark from its files to cases; one message lists all faults before any is made.

JSON files --read_files--> records --images checked--> usable | refused --> cases, one by one
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from liveedit_core.backbones.load_options import PromptProtocol
from liveedit_core.errors import InputError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, Rejected, RejectType
from liveedit_core.published.derived import (
    NEAREST_IMAGE,
    NEAREST_PROMPT,
    NO_IMAGE,
    derived_questions,
)
from liveedit_core.published.files import read_files
from liveedit_core.published.images import ImageCheck, ImageFolder
from liveedit_core.published.layout import Layout, layout_of
from liveedit_core.published.records import PublishedRecord, Question
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind

MissingImages = Literal["fatal", "skipped"]
MAX_SHOWN = 20
"""Problems of a kind that are listed; the others are counted."""
_DEFAULT_LIMITS = InputLimits()


@dataclass(frozen=True, kw_only=True)
class PublishedBenchmark:
    """Checked records whose cases are made one by one, so that few images are in memory."""

    layout: Layout
    files: tuple[Path, ...]
    records: tuple[PublishedRecord, ...]
    """In the order of the files, no edit twice."""
    refused: tuple[Rejected, ...]
    """Records that were left out, each with its reason."""
    digest: str
    """sha256 over what the files hold."""
    num_bad_images: int
    """Images that `refused` records name and that are missing or cannot be read."""
    protocol: PromptProtocol = "chat"
    """How the prompts are meant to reach the model; a tag of each case."""
    derived: tuple[tuple[Question, ...], ...] = ()
    """Further questions of each record (`derived.py`); empty: none are asked."""
    folder: ImageFolder = field(repr=False)

    @property
    def title(self) -> str:
        """Name and files, for people."""
        return f"{self.layout.title}, {', '.join(map(str, self.files))}"

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def questions(self) -> list[tuple[Question, ...]]:
        """Of each record: the edit, then its probes."""
        derived = self.derived or [()] * len(self.records)
        return [
            (*record.questions, *more) for record, more in zip(self.records, derived, strict=True)
        ]

    def tags_of(self, record: PublishedRecord) -> dict[str, str]:
        """Of its case."""
        return {"protocol": self.protocol, **record.tags}

    def __iter__(self) -> Iterator[Case]:
        """The cases in order; an image that several cases share is in memory once."""
        needed = [
            list(dict.fromkeys(item.image for item in questions if item.image is not None))
            for questions in self.questions
        ]
        uses = Counter(path for paths in needed for path in paths)
        held: dict[str, bytes] = {}
        for record, questions, paths in zip(self.records, self.questions, needed, strict=True):
            for path in paths:
                if path not in held:
                    held[path] = self.folder.read(path)
            yield self._case(record, questions, held)
            for path in paths:
                uses[path] -= 1
                if not uses[path]:
                    held.pop(path, None)

    def _case(
        self, record: PublishedRecord, questions: Sequence[Question], images: Mapping[str, bytes]
    ) -> Case:
        own, *others = questions
        edit = self._edit(own, images)
        probes = tuple(
            Probe(
                kind=item.kind,
                prompt=item.prompt,
                target=item.target,
                image_bytes=None if item.image is None else images[item.image],
                variant=item.variant,
            )
            for item in others
        )
        return Case(
            case_id=edit.edit_id,
            edit=edit,
            earlier=(self._edit(record.earlier, images),) if record.earlier else (),
            probes=probes,
            entity=record.entity,
            tags=self.tags_of(record),
        )

    def _edit(self, question: Question, images: Mapping[str, bytes]) -> EditRequest:
        path = question.image
        return EditRequest(
            image_bytes=None if path is None else images[path],
            prompt=question.prompt,
            target=question.target,
            image_uri="" if path is None else self.folder.uri(path),
        )

    def notes(self) -> list[str]:
        """What was left out and why, one sentence per reason."""
        reasons = Counter(item.error_type for item in self.refused)
        counts = {
            f"`{self.layout.target_key}` is empty": reasons.pop(RejectType.EMPTY_TEXT, 0),
            "they repeat an earlier edit": reasons.pop(RejectType.DUPLICATE, 0),
            "images are missing or cannot be read": reasons.total(),
        }
        notes = [
            f"records left out because {reason}: {count:,}"
            for reason, count in counts.items()
            if count
        ]
        if reasons.total():
            notes[-1] += f" (images: {self.num_bad_images:,})"
        return [*notes, *self._notes_on_questions()]

    def _notes_on_questions(self) -> Iterator[str]:
        """Questions that records lack, counted by reason."""
        for sentence, count in Counter(
            why for record in self.records for why in record.left_out
        ).items():
            yield f"{sentence}: {count:,}"
        asked = Counter(item.variant for questions in self.derived for item in questions)
        if self.derived:
            yield "derived localities: " + ", ".join(
                f"{asked[name]:,} {name}" for name in (NEAREST_IMAGE, NEAREST_PROMPT, NO_IMAGE)
            )


def open_benchmark(
    name: str,
    files: Sequence[Path],
    images: Path,
    *,
    limits: InputLimits = _DEFAULT_LIMITS,
    missing_images: MissingImages = "fatal",
    protocol: PromptProtocol = "chat",
    has_derived: bool = False,
) -> PublishedBenchmark:
    """Read and check a benchmark by its short name; no image is kept in memory.

    Later files may hold more edits, or add portability questions to those of earlier ones. Missing
    and unreadable images stop everything ("fatal"), or leave out the records that name them.
    `protocol` is how the prompts are meant to reach the model; `has_derived` adds the questions of
    `derived.py`.
    """
    layout = layout_of(name)
    folder = ImageFolder(images, limits)
    problems: list[str] = []
    records, digest = read_files(files, layout, limits, problems)
    merged = _merged(records)
    paths = [path for record in merged if record.alt for path in record.images]
    checked = folder.check(paths, has_thumbnails=has_derived)
    usable, refused = _split_usable(merged, checked, layout)
    bad_images = _bad_images(merged, checked) if missing_images == "fatal" else []
    if not (problems or bad_images or usable):
        problems.append("no record is left to teach")
    if problems or bad_images:
        title = f"{layout.title}, {', '.join(map(str, files))}: nothing was started"
        raise InputError("\n".join([title, *_listed(problems, bad_images)]))
    return PublishedBenchmark(
        layout=layout,
        files=tuple(files),
        records=usable,
        refused=refused,
        digest=digest,
        num_bad_images=len(checked.faults),
        protocol=protocol,
        derived=tuple(derived_questions(usable, layout, checked.thumbnails)) if has_derived else (),
        folder=folder,
    )


def _merged(records: Sequence[PublishedRecord]) -> list[PublishedRecord]:
    """Records of later files that repeat an edit give it their portability questions."""
    merged: list[PublishedRecord] = []
    place_of: dict[tuple[str | None, str, str], int] = {}
    for record in records:
        edit = (record.image, record.src, record.alt)
        at = place_of.setdefault(edit, len(merged))
        if at == len(merged) or merged[at].file == record.file:
            merged.append(record)
        else:
            hops = [item for item in record.questions if item.kind is ProbeKind.PORTABILITY]
            asked = dict.fromkeys((*merged[at].questions, *hops))
            merged[at] = replace(merged[at], questions=tuple(asked))
    return merged


def _split_usable(
    records: Sequence[PublishedRecord], checked: ImageCheck, layout: Layout
) -> tuple[tuple[PublishedRecord, ...], tuple[Rejected, ...]]:
    """Records that become cases, and rejects for the others."""
    usable: list[PublishedRecord] = []
    refused: list[Rejected] = []
    first_of: dict[tuple[bytes, str, str], PublishedRecord] = {}
    for record in records:
        try:
            if not record.alt:
                raise RefusedInputError(
                    f"{layout.target_key} is empty: there is nothing to teach",
                    RejectType.EMPTY_TEXT,
                )
            for path in record.images:
                if path in checked.faults:
                    raise checked.faults[path]
            shown = b"" if record.image is None else checked.digests[record.image]
            edit = (shown, record.edit.prompt, record.alt)
            first = first_of.setdefault(edit, record)
            if first is not record:
                raise RefusedInputError(
                    f"same image, prompt and target as {first.place}; it is taught once",
                    RejectType.DUPLICATE,
                )
            usable.append(record)
        except RefusedInputError as error:
            located = RefusedInputError(f"{record.place}: {error.message}", error.error_type)
            refused.append(Rejected.from_error(located, line_number=record.number, raw=record.src))
    return tuple(usable), tuple(refused)


def _bad_images(records: Sequence[PublishedRecord], checked: ImageCheck) -> list[str]:
    """Each image that cannot be used, with the first record that names it."""
    named: dict[str, str] = {}
    for record in records:
        for path in record.images:
            if path in checked.faults:
                named.setdefault(path, f"{record.place}: {checked.faults[path].message}")
    return list(named.values())


def _listed(problems: Sequence[str], bad_images: Sequence[str]) -> list[str]:
    """Both kinds of problems, counted, the first ones in full."""
    titles = {
        f"problems: {len(problems):,}": problems,
        f"images that are missing or cannot be read: {len(bad_images):,} "
        '(missing_images = "skipped" leaves out the records that need them)': bad_images,
    }
    lines: list[str] = []
    for title, items in titles.items():
        if items:
            lines += [title, *(f"  {item}" for item in items[:MAX_SHOWN])]
        if len(items) > MAX_SHOWN:
            lines.append(f"  and {len(items) - MAX_SHOWN:,} more")
    return lines
