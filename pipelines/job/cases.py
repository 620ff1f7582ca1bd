"""The cases of a job, and digests that tell whether they changed."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.load_options import PromptProtocol
from liveedit_core.builtin.benchmark import BUILTIN_BENCHMARKS, load_builtin_cases, read_rows
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.datasets import load_cases
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.published.benchmark import PublishedBenchmark, open_benchmark
from liveedit_core.published.layout import Split, find_files, find_images, layout_of
from liveedit_core.schema import Case, Probe, ProbeKind
from liveedit_core.training.cases import trainable_cases
from pipelines.job.sealed_test import load_test_cases
from pipelines.job.sections import BenchmarkSection
from workers.failures import retried

_DEFAULT_LIMITS = InputLimits()


def fetcher(store: ObjectStore, max_bytes: int) -> Callable[[str], bytes]:
    """Reads images by URI, with retries."""
    return lambda uri: retried(lambda: store.fetch(uri, max_bytes))


def open_published(
    section: BenchmarkSection,
    split: Split,
    *,
    limits: InputLimits = _DEFAULT_LIMITS,
    say: Callable[[str], None] | None = None,
) -> PublishedBenchmark:
    """The benchmark of a recipe, checked as a whole; images are read when a case is taken."""
    layout, data = layout_of(section.name), Path(section.data)
    benchmark = open_benchmark(
        section.name,
        find_files(layout, data, split),
        Path(section.images) if section.images else find_images(layout, data),
        limits=limits,
        missing_images=section.missing_images,
        protocol=section.protocol,
        has_derived=section.derived_localities and split == "evaluation",
    )
    if say is not None:
        for note in benchmark.notes():
            say(note)
    return benchmark


def check_protocol(tagged: str, protocol: PromptProtocol, what: str) -> None:
    """Raise ConfigError where prompts that are meant for one protocol would get the other."""
    if tagged != protocol:
        cure = (
            f"set it to {tagged!r}"
            if protocol == "chat"
            else "raw prompts are those of published benchmarks, or of files that "
            "convert_benchmark.py --protocol paper wrote"
        )
        raise ConfigError(f"benchmark.protocol is {protocol!r}, {what} is for {tagged!r}: {cure}")


def protocol_note(trained: PromptProtocol, protocol: PromptProtocol) -> str:
    """What to say of a generator that was trained with other prompts than it now gets; else ""."""
    if trained == protocol:
        return ""
    return (
        f"note: the generator was trained on prompts of the protocol {trained!r}, it gets those of "
        f"{protocol!r} (benchmark.protocol)"
    )


def checked_protocol(case: Case, protocol: PromptProtocol) -> Case:
    """The case, if its tag names the protocol by which prompts are to reach the model."""
    check_protocol(case.tags.get("protocol", "chat"), protocol, f"case {case.case_id[:16]}")
    return case


def load_training_cases(section: BenchmarkSection, path: str = "") -> list[Case]:
    """Cases to train on, each with one probe of every kind: of a benchmark, of a JSONL file, or the
    built-in ones."""
    if section.is_published:
        cases = list(open_published(section, "train", say=print))
        complete = [_with_generality(case) for case in cases if _has_stranger(case)]
        if num_lacking := len(cases) - len(complete):
            print(f"not trained on, as they have no modal_locality: {num_lacking:,}")
        return trainable_cases(complete)
    if path:
        # The file is that of whoever trains, not of others who submit requests.
        cases, rejects = read_case_file(path, limits=InputLimits(image_roots=("/",)))
        if rejects:
            print(f"{_describe(path, rejects)}; they are not trained on")
        return trainable_cases([checked_protocol(case, section.protocol) for case in cases])
    check_protocol("chat", section.protocol, "the built-in benchmark")
    return load_builtin_cases("train")


def _has_stranger(case: Case) -> bool:
    return any(probe.kind is ProbeKind.MODAL_LOCALITY for probe in case.probes)


def _with_generality(case: Case) -> Case:
    """A benchmark without second images is trained on the first, as its authors do."""
    kind, edit = ProbeKind.MODAL_GENERALITY, case.edit
    if any(probe.kind is kind for probe in case.probes):
        return case
    own = Probe(kind=kind, prompt=edit.prompt, target=edit.target, image_bytes=edit.image_bytes)
    return replace(case, probes=(*case.probes, own))


def load_builtin(
    section: BenchmarkSection, reader: str, say: Callable[[str], None], *, limit: int | None = None
) -> list[Case]:
    """Cases of the built-in benchmarks that a recipe names, mixed in a fixed order, the first
    `limit` of them; `reader` is who a look at the test split is recorded for."""
    check_protocol("chat", section.protocol, "the built-in benchmark")
    names = BUILTIN_BENCHMARKS if section.name == "builtin" else (section.name or "emblem_edit",)
    cases: list[Case] = []
    for name in BUILTIN_BENCHMARKS:
        if name not in names:
            continue
        if section.split == "test":
            cases += load_test_cases(name, reader, say)
        else:
            cases += load_builtin_cases(section.split, name, limit=limit or 0)
    read_rows.cache_clear()  # the images of all splits; their memory, 50 MB, goes back at once
    pa.default_memory_pool().release_unused()
    return sorted(cases, key=lambda case: case.case_id)[:limit]


def load_evaluation_cases(
    section: BenchmarkSection,
    path: str = "",
    *,
    reader: str,
    limits: InputLimits = _DEFAULT_LIMITS,
    say: Callable[[str], None] = print,
) -> list[Case]:
    """All of `each_evaluation_case`."""
    return list(each_evaluation_case(section, path, reader=reader, limits=limits, say=say))


def each_evaluation_case(
    section: BenchmarkSection,
    path: str = "",
    *,
    reader: str,
    limits: InputLimits = _DEFAULT_LIMITS,
    store: ObjectStore | None = None,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Case]:
    """Cases to evaluate on: of a benchmark, of a JSONL file, or the built-in ones. `reader` is the
    command, for the record of looks at a test split."""
    if section.is_published:
        benchmark = open_published(section, "evaluation", limits=limits, say=say)
        yield from itertools.islice(benchmark, limit)
        return
    if not path:
        yield from load_builtin(section, reader, say, limit=limit)
        return
    rejects: list[Rejected] = []
    num_cases = 0
    for item in _lines_of(path, limits, store, limit):
        if isinstance(item, Rejected):
            rejects.append(item)
        else:
            num_cases += 1
            yield checked_protocol(item, section.protocol)
    if rejects:
        raise InputError(
            f"{_describe(path, rejects)}. Scores on these cases are compared with each other, so "
            "none may be left out: correct or remove the lines"
        )
    if not num_cases:
        raise InputError(f"{path} holds no case")


def read_case_file(
    path: str,
    *,
    limits: InputLimits = _DEFAULT_LIMITS,
    store: ObjectStore | None = None,
    limit: int | None = None,
) -> tuple[list[Case], list[Rejected]]:
    """The cases of a JSONL file, or the first `limit` of them, and the lines that are no cases."""
    lines = list(_lines_of(path, limits, store, limit))
    cases = [item for item in lines if not isinstance(item, Rejected)]
    return cases, [item for item in lines if isinstance(item, Rejected)]


def _lines_of(
    path: str, limits: InputLimits, store: ObjectStore | None, limit: int | None
) -> Iterator[Case | Rejected]:
    """What a JSONL file holds, up to its case number `limit`."""
    fetch = fetcher(store, limits.max_image_bytes) if store else None
    num_cases = 0
    for item in load_cases(
        path, limits=limits, fetch=fetch, store_uri=store.root_uri if store else ""
    ):
        yield item
        num_cases += not isinstance(item, Rejected)
        if num_cases == limit:
            return


def _describe(path: str, rejects: Sequence[Rejected]) -> str:
    shown = "; ".join(f"line {item.line_number}: {item.message}" for item in rejects[:5])
    return f"{path}: {len(rejects)} lines are no cases: {shown}"


def cases_digest(cases: Sequence[Case]) -> str:
    """sha256 of the edits and probes of all cases, in any order."""
    contents = sorted(
        json.dumps([case.case_id, *_edits(case), case.entity, *map(_content, case.probes)])
        for case in cases
    )
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()


def evaluation_digest(cases: Iterable[Case], *settings: object) -> str:
    """sha256 of everything that scores depend on: the cases in order, and settings as JSON."""
    contents = [[case.case_id, *_edits(case), *map(_content, case.probes)] for case in cases]
    return hashlib.sha256(json.dumps([contents, *settings], sort_keys=True).encode()).hexdigest()


def _edits(case: Case) -> list[str]:
    return [request.edit_id for request in case.requests]


def _content(probe: Probe) -> list[str]:
    image = hashlib.sha256(probe.image_bytes or b"").hexdigest()
    return [probe.kind, probe.prompt, probe.target, image]
