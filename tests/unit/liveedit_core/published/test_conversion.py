"""What is converted loads as the same cases."""

import json
from pathlib import Path

import pytest

from liveedit_core.errors import InputError
from liveedit_core.inputs.datasets import load_cases
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.published.benchmark import PublishedBenchmark, open_benchmark
from liveedit_core.published.conversion import write_cases
from tests.published_files import draw_images, hop, record, write_json


def opened(folder: Path, name: str = "vlkeb") -> PublishedBenchmark:
    contents = [
        record(0, alt="Ä plane.\n"),
        record(1, loc_ans="x" * 3_000, port_new=[hop(2, "Whose is it?", "Bo")]),
    ]
    root = draw_images(folder / "images", contents)
    return open_benchmark(name, [write_json(folder / "eval.json", contents)], root)


@pytest.mark.parametrize("name", ["evqa", "eic", "vlkeb"])
def test_cases_come_back_equal(tmp_path: Path, name: str) -> None:
    benchmark = opened(tmp_path, name)
    output = tmp_path / "out" / "deep" / "cases.jsonl"
    assert write_cases(benchmark, output) == 2
    limits = InputLimits(image_roots=(str(tmp_path / "images"),))
    assert list(load_cases(output, limits=limits)) == list(benchmark)
    assert [path.name for path in output.parent.iterdir()] == ["cases.jsonl"]


def test_file_and_images_may_move_together(tmp_path: Path) -> None:
    write_cases(opened(tmp_path / "here"), tmp_path / "here" / "cases.jsonl")
    (tmp_path / "here").rename(tmp_path / "there")
    first, _ = load_cases(tmp_path / "there" / "cases.jsonl")
    line = json.loads((tmp_path / "there" / "cases.jsonl").read_text().splitlines()[0])
    assert line["edit"]["image"] == "images/bench0/front.png"
    assert line["entity"] == "bench0"
    assert "Rejected" not in type(first).__name__


def test_links_on_either_side_do_not_mislead(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    benchmark = opened(tmp_path)
    write_cases(benchmark, tmp_path / "link" / "cases.jsonl")
    limits = InputLimits(image_roots=(str(tmp_path / "images"),))
    assert list(load_cases(tmp_path / "link" / "cases.jsonl", limits=limits)) == list(benchmark)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    benchmark = opened(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_cases(benchmark, tmp_path / "file" / "cases.jsonl")
