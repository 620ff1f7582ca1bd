"""The cases of a job: a JSONL file, or a published benchmark named by `[benchmark]`."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

from infra.storage.object_store import ObjectStore
from liveedit_core.inputs.datasets import load_cases
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.published.benchmark import PublishedBenchmark, open_benchmark
from liveedit_core.published.layout import Split, find_files, find_images, layout_of
from liveedit_core.schema import Case, Probe
from liveedit_core.training.cases import trainable_cases
from pipelines.job.sections import BenchmarkSection

_DEFAULT_LIMITS = InputLimits()


def read_case_file(
    path: str,
    *,
    limits: InputLimits = _DEFAULT_LIMITS,
    store: ObjectStore | None = None,
    limit: int | None = None,
) -> tuple[list[Case], list[Rejected]]:
    """The cases of a JSONL file, and its lines that are not cases.

    Args:
        path: the file.
        limits: how large lines and images may be.
        store: fetches images given by URI.
        limit: read no further than this many cases.

    Raises:
        InputError: the file cannot be opened.
    """
    fetch = None if store is None else lambda uri: store.fetch(uri, limits.max_image_bytes)
    cases: list[Case] = []
    rejected: list[Rejected] = []
    for item in load_cases(path, limits=limits, fetch=fetch):
        if isinstance(item, Rejected):
            rejected.append(item)
            continue
        cases.append(item)
        if len(cases) == limit:
            break
    return cases, rejected


def probe_fields(probe: Probe) -> list[str]:
    """What a digest of cases contains of a probe."""
    image = hashlib.sha256(probe.image_bytes or b"").hexdigest()
    return [probe.kind, probe.prompt, probe.target, image]


def open_published(
    section: BenchmarkSection, split: Split, *, limits: InputLimits = _DEFAULT_LIMITS
) -> PublishedBenchmark:
    """The benchmark of a recipe, whole and checked; its images are not held.

    Args:
        section: Which one, and where it lies.
        split: Which of its files.
        limits: How much is accepted.

    Raises:
        InputError: A file is missing, or something is wrong with the benchmark; all of it is said.
    """
    layout, data = layout_of(section.name), Path(section.data)
    return open_benchmark(
        section.name,
        find_files(layout, data, split),
        Path(section.images) if section.images else find_images(layout, data),
        limits=limits,
        missing_images=section.missing_images,
    )


def load_training_cases(
    section: BenchmarkSection,
    *,
    limits: InputLimits = _DEFAULT_LIMITS,
    say: Callable[[str], None] = print,
) -> list[Case]:
    """Cases of the training file, each with one probe of every kind that training asks.

    `Case.entity` is VLKEB's entity, otherwise the image. All images are in memory at once, each
    of them once.

    Args:
        section: Which benchmark.
        limits: How much is accepted.
        say: Is told what was left out.

    Raises:
        InputError: See `open_published`.
    """
    benchmark = open_published(section, "train", limits=limits)
    for note in benchmark.notes():
        say(note)
    return trainable_cases(list(benchmark))


def load_evaluation_cases(
    section: BenchmarkSection,
    *,
    limits: InputLimits = _DEFAULT_LIMITS,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Case]:
    """Cases of the evaluation file.

    Args:
        section: Which benchmark.
        limits: How much is accepted.
        limit: Only the first so many; the file is checked whole all the same.
        say: Is told what was left out.

    Raises:
        InputError: See `open_published`.
    """
    benchmark = open_published(section, "evaluation", limits=limits)
    for note in benchmark.notes():
        say(note)
    return list(itertools.islice(benchmark, limit))
