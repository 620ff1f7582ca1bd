"""The loaders on the first records of the published files, with generated images.

The records are not part of the project: `LIVEEDIT_PUBLISHED_SAMPLES` names a folder with them, or
they lie in `shared/benchmarks` beside the project or a folder above it.
"""

import json
import os
from pathlib import Path

import pytest

from liveedit_core.inputs.datasets import load_cases
from liveedit_core.published.benchmark import open_benchmark
from liveedit_core.published.conversion import write_cases
from liveedit_core.schema import ProbeKind
from tests.published_files import draw_images

VARIABLE = "LIVEEDIT_PUBLISHED_SAMPLES"
PROJECT = Path(__file__).resolve().parents[4]
SAMPLES = {
    "evqa": ("evqa_train_sample.json", "evqa_eval_sample.json"),
    "eic": ("eic_eval_sample.json",),
    "vlkeb": ("vlkeb_train_sample.json", "vlkeb_eval_sample.json", "vlkeb_onehop_sample.json"),
}
FILES = [(name, file) for name, files in SAMPLES.items() for file in files]


def samples_folder() -> Path | None:
    """Where the samples are; None where they are not."""
    named = os.environ.get(VARIABLE)
    folders = [folder / "shared" / "benchmarks" for folder in PROJECT.parents]
    found = [folder for folder in ([Path(named)] if named else folders) if folder.is_dir()]
    return found[0] if found else None


def sample(file: str) -> Path:
    """A sample file, or the end of the test."""
    folder = samples_folder()
    if folder is None or not (folder / file).is_file():
        pytest.skip(f"{file} is not here: name the folder of the published samples in {VARIABLE}")
    return folder / file


@pytest.mark.parametrize(("name", "file"), FILES)
def test_every_published_record_becomes_its_case_and_is_converted(
    tmp_path: Path, name: str, file: str
) -> None:
    contents = json.loads(sample(file).read_text(encoding="utf-8"))
    root = draw_images(tmp_path / "images", contents)
    benchmark = open_benchmark(name, [sample(file)], root)
    cases = list(benchmark)
    write_cases(benchmark, tmp_path / "cases.jsonl")
    assert list(load_cases(tmp_path / "cases.jsonl")) == cases
    assert len(cases) == len(contents) == 120
    ending = " The answer is:" if name == "evqa" else ""
    for content, case in zip(contents, cases, strict=True):
        assert (case.edit.prompt, case.edit.target) == (content["src"] + ending, content["alt"])
        found = [(probe.prompt, probe.target) for probe in case.probes]
        assert found[:4] == [
            (content["rephrase"] + ending, content["alt"]),
            (content["src"] + ending, content["alt"]),
            (content["loc"] + "?", content["loc_ans"]),
            (content["m_loc_q"] + " The answer is:", content["m_loc_a"]),
        ]
        portability = [(item["port_q"], item["port_a"]) for item in content.get("port_new", [])]
        assert found[4:] == portability
        assert {probe.variant for probe in case.probes[4:]} <= {"1 hop"}


def test_portability_of_vlkeb_joins_its_evaluation(tmp_path: Path) -> None:
    files = [sample("vlkeb_eval_sample.json"), sample("vlkeb_onehop_sample.json")]
    contents = [content for file in files for content in json.loads(file.read_text())]
    edits = {(item["image"], item["src"], item["alt"]) for item in contents}
    cases = list(open_benchmark("vlkeb", files, draw_images(tmp_path, contents)))
    assert len(cases) == len(edits)
    asked = [case for case in cases if case.probes[-1].kind is ProbeKind.PORTABILITY]
    assert len(asked) == 120
