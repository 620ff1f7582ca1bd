"""A published benchmark from its files to cases.

JSON files --read_files--> records --images looked at--> usable | refused --> cases, one by one

Everything is checked before the first case is made, and all that is wrong is in one message.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from liveedit_core.errors import InputError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, Rejected, RejectType
from liveedit_core.published.images import ImageCheck, ImageFolder
from liveedit_core.published.layout import Layout, layout_of
from liveedit_core.published.questions import edit_prompt, entity_of, questions_of
from liveedit_core.published.reading import read_files
from liveedit_core.published.records import PublishedRecord
from liveedit_core.schema import Case, EditRequest, Probe

MissingImages = Literal["fatal", "skipped"]
MAX_SHOWN = 20
"""So many problems of a kind are listed; the others are counted."""
_DEFAULT_LIMITS = InputLimits()


@dataclass(frozen=True, kw_only=True)
class PublishedBenchmark:
    """Checked records whose cases are made one by one, so that images need not all be held."""

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
    folder: ImageFolder = field(repr=False)

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{self.layout.title}, {', '.join(map(str, self.files))}"

    def __len__(self) -> int:
        """How many cases there are."""
        return len(self.records)

    def __iter__(self) -> Iterator[Case]:
        """The cases in order; an image that several of them show is in memory once.

        Raises:
            InputError: An image was removed since it was looked at.
        """
        uses = Counter(path for record in self.records for path in record.images)
        held: dict[str, bytes] = {}
        for record in self.records:
            for path in record.images:
                if path not in held:
                    held[path] = self.folder.read(path)
            yield self._case(record, held)
            for path in record.images:
                uses[path] -= 1
                if not uses[path]:
                    held.pop(path, None)

    def _case(self, record: PublishedRecord, images: dict[str, bytes]) -> Case:
        own, *others = questions_of(record, self.layout)
        edit = EditRequest(
            image_bytes=images[record.image],
            prompt=own.prompt,
            target=own.target,
            image_uri=self.folder.uri(record.image),
        )
        probes = tuple(
            Probe(
                kind=item.kind,
                prompt=item.prompt,
                target=item.target,
                image_bytes=None if item.image is None else images[item.image],
                hop=item.hop,
            )
            for item in others
        )
        return Case(
            case_id=edit.edit_id, edit=edit, probes=probes, entity=entity_of(record, self.layout)
        )

    def notes(self) -> list[str]:
        """What was left out and why, one sentence a reason; empty when nothing was."""
        reasons = Counter(item.error_type for item in self.refused)
        empty = reasons.pop(RejectType.EMPTY_TEXT, 0)
        repeated = reasons.pop(RejectType.DUPLICATE, 0)
        unseen = reasons.total()
        found = []
        if empty:
            found.append(f"records left out because `alt` is empty: {empty:,}")
        if repeated:
            found.append(f"records left out because they repeat an earlier edit: {repeated:,}")
        if unseen:
            found.append(
                f"records left out because images are missing or cannot be read: {unseen:,} "
                f"(images: {self.num_bad_images:,})"
            )
        return found


def open_benchmark(
    name: str,
    files: Sequence[Path],
    images: Path,
    *,
    limits: InputLimits = _DEFAULT_LIMITS,
    missing_images: MissingImages = "fatal",
) -> PublishedBenchmark:
    """Read and check the whole of a benchmark; no image is kept in memory.

    Args:
        name: "evqa", "eic" or "vlkeb".
        files: Its JSON files, the one with the edits first; later ones may add portability
            questions to edits of the first.
        images: The folder that image paths start from.
        limits: How much is accepted.
        missing_images: Whether images that are missing or cannot be read stop everything, or
            cost the records that name them.

    Raises:
        ConfigError: The benchmark is not known.
        InputError: Something is wrong; the message lists all of it.
    """
    layout = layout_of(name)
    folder = ImageFolder(images, limits)
    problems: list[str] = []
    records, digest = read_files(files, layout, limits, problems)
    merged = _merged(records)
    seen = folder.check(path for record in merged if record.alt for path in record.images)
    usable, refused = _sorted_out(merged, seen, layout)
    unseen = _images_named(merged, seen) if missing_images == "fatal" else []
    if not (problems or unseen or usable):
        problems.append("no record is left to teach")
    if problems or unseen:
        title = f"{layout.title}, {', '.join(map(str, files))}: nothing begins"
        raise InputError("\n".join([title, *_listed(problems, unseen)]))
    return PublishedBenchmark(
        layout=layout,
        files=tuple(files),
        records=usable,
        refused=refused,
        digest=digest,
        num_bad_images=len(seen.faults),
        folder=folder,
    )


def _merged(records: Sequence[PublishedRecord]) -> list[PublishedRecord]:
    """Records of later files that repeat an edit give it their portability questions."""
    merged: list[PublishedRecord] = []
    place_of: dict[tuple[str, str, str], int] = {}
    for record in records:
        edit = (record.image, record.src, record.alt)
        at = place_of.setdefault(edit, len(merged))
        if at == len(merged) or merged[at].file == record.file:
            merged.append(record)
        else:
            hops = dict.fromkeys((*merged[at].hops, *record.hops))
            merged[at] = replace(merged[at], hops=tuple(hops))
    return merged


def _sorted_out(
    records: Sequence[PublishedRecord], seen: ImageCheck, layout: Layout
) -> tuple[tuple[PublishedRecord, ...], tuple[Rejected, ...]]:
    """Records that become cases, and those that cannot, with the reason."""
    usable: list[PublishedRecord] = []
    refused: list[Rejected] = []
    first_of: dict[tuple[bytes, str, str], PublishedRecord] = {}
    for record in records:
        try:
            _check_teachable(record, seen)
            edit = (seen.digests[record.image], edit_prompt(record, layout), record.alt)
            first = first_of.setdefault(edit, record)
            if first is not record:
                raise RefusedInputError(
                    f"same image, prompt and target as {first.place}; it is taught once",
                    error_type=RejectType.DUPLICATE,
                )
            usable.append(record)
        except RefusedInputError as error:
            told = RefusedInputError(
                f"{record.place}: {error.message}", error_type=error.error_type
            )
            refused.append(Rejected.from_error(told, line_number=record.number, raw=record.src))
    return tuple(usable), tuple(refused)


def _check_teachable(record: PublishedRecord, seen: ImageCheck) -> None:
    if not record.alt:
        raise RefusedInputError(
            "alt is empty: there is nothing to teach", error_type=RejectType.EMPTY_TEXT
        )
    for path in record.images:
        if path in seen.faults:
            raise seen.faults[path]


def _images_named(records: Sequence[PublishedRecord], seen: ImageCheck) -> list[str]:
    """Each image that cannot be used, with the first record that names it."""
    named: dict[str, str] = {}
    for record in records:
        for path in record.images:
            if path in seen.faults and path not in named:
                named[path] = f"{record.place}: {seen.faults[path].message}"
    return list(named.values())


def _listed(problems: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """Both kinds of problems, counted, the first ones in full."""
    lines: list[str] = []
    for title, items in (
        (f"problems: {len(problems):,}", problems),
        (
            f"images that are missing or cannot be read: {len(unseen):,} "
            '(missing_images = "skipped" leaves out the records that need them)',
            unseen,
        ),
    ):
        if items:
            more = len(items) - MAX_SHOWN
            shown = [f"  {item}" for item in items[:MAX_SHOWN]]
            lines += [title, *shown, *([f"  and {more:,} more"] if more > 0 else [])]
    return lines
