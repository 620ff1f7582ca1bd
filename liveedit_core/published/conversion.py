"""A published benchmark as cases JSONL, read by `liveedit_core.inputs.datasets.load_cases`."""

import json
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liveedit_core.errors import InputError
from liveedit_core.published.benchmark import PublishedBenchmark
from liveedit_core.published.records import PublishedRecord, Question
from liveedit_core.schema import ProbeKind


def write_cases(benchmark: PublishedBenchmark, output: Path) -> int:
    """Write one line per case, with images relative to the file; returns the number of cases."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Both ends are resolved, as `..` does not lead back through a link.
        images = os.path.relpath(benchmark.folder.root.resolve(), output.parent.resolve())
        with partial.open("w", encoding="utf-8") as file:
            for record, questions in zip(benchmark.records, benchmark.questions, strict=True):
                line = _case(record, questions, benchmark, images)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        partial.replace(output)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error}") from error
    return len(benchmark)


def _case(
    record: PublishedRecord,
    questions: Sequence[Question],
    benchmark: PublishedBenchmark,
    images: str,
) -> dict[str, Any]:
    own, *others = questions
    return {
        "edit": _line(own, images),
        "earlier": [_line(record.earlier, images)] if record.earlier else [],
        "probes": [_line(item, images) for item in others],
        "entity": record.entity,
        "tags": benchmark.tags_of(record),
    }


def _line(question: Question, images: str) -> dict[str, Any]:
    line: dict[str, Any] = {"prompt": question.prompt, "target": question.target}
    if question.kind is not ProbeKind.RELIABILITY:
        line = {"kind": question.kind.value, **line}
    if question.image is not None:
        line["image"] = os.path.normpath(f"{images}/{question.image}")
    if question.variant:
        line["variant"] = question.variant
    return line
