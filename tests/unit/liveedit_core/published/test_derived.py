"""The nearest other image and prompt are neither the edit's own nor taught by the file."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from liveedit_core.inputs.datasets import load_cases
from liveedit_core.published.benchmark import PublishedBenchmark, open_benchmark
from liveedit_core.published.conversion import write_cases
from liveedit_core.schema import Case, Probe
from tests.published_files import record, write_json


def plain(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (shade, shade // 2, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def opened(
    folder: Path, shades: dict[str, int], *contents: dict[str, Any], name: str = "evqa"
) -> PublishedBenchmark:
    """A benchmark with images of one colour each."""
    for path, shade in shades.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(plain(shade))
    file = write_json(folder / "file.json", contents)
    return open_benchmark(name, [file], folder, has_derived=True)


def asking(src: str, alt: str, entity: str, **changed: Any) -> dict[str, Any]:
    """A record whose three images are those of its entity and the unrelated one."""
    images = {"image": f"{entity}/a.png", "image_rephrase": f"{entity}/b.png", "m_loc": "z/z.png"}
    return record(0, src=src, rephrase=f"Say it: {src}", alt=alt, **images, **changed)


def shades_of(**entities: int) -> dict[str, int]:
    return {
        f"{name}/{file}.png": shade + step
        for name, shade in entities.items()
        for step, file in enumerate("ab")
    } | {"z/z.png": 250}


def derived(case: Case) -> dict[str, Probe]:
    return {probe.variant: probe for probe in case.probes if probe.variant}


def test_each_edit_is_asked_about_its_neighbours(tmp_path: Path) -> None:
    benchmark = opened(
        tmp_path,
        shades_of(plane=10, saw=100, drill=30),
        asking("What colour is the handle?", "red", "plane"),
        asking("What shape is the handle?", "round", "saw"),
        asking("Who built the engine?", "Ann", "drill"),
    )
    first = derived(next(iter(benchmark)))
    nearest, prompt, alone = (first[name] for name in ("nearest", "nearest prompt", "no image"))
    own = "What colour is the handle? The answer is:"
    assert (nearest.kind, nearest.prompt) == ("image_swap_locality", own)
    assert nearest.image_bytes == (tmp_path / "drill/a.png").read_bytes()
    assert (prompt.kind, prompt.prompt) == (
        "prompt_swap_locality",
        "What shape is the handle? The answer is:",
    )
    assert prompt.image_bytes == (tmp_path / "plane/a.png").read_bytes()
    assert (alone.kind, alone.prompt, alone.image_bytes) == ("text_locality", own, None)
    assert {probe.target for probe in first.values()} == {"red"}
    assert benchmark.notes() == ["derived localities: 3 nearest, 3 nearest prompt, 3 no image"]


def test_what_the_file_teaches_is_no_neighbour(tmp_path: Path) -> None:
    same = "What is it?"
    benchmark = opened(
        tmp_path,
        shades_of(plane=10, saw=12, drill=100),
        asking(same, "a plane", "plane"),
        asking(same, "a saw", "saw"),  # the nearest image, but its own edit asks the same
        asking("Who made it?", "a plane", "drill"),  # this prompt leads to the same target
        asking("What is it for?", "wood", "plane"),  # taught about the plane too
        asking("Where is it?", "here", "drill"),
    )
    first = derived(next(iter(benchmark)))
    assert first["nearest"].image_bytes == (tmp_path / "drill/a.png").read_bytes()
    assert first["nearest prompt"].prompt == "Where is it? The answer is:"


def test_a_file_with_one_prompt_has_only_strange_images(tmp_path: Path) -> None:
    benchmark = opened(
        tmp_path,
        shades_of(plane=10, saw=12),
        asking("a photo of", "a plane", "plane"),
        asking("A photo of", "a saw", "saw"),
        name="eic",
    )
    for case in benchmark:
        found = derived(case)
        assert set(found) == {"nearest", "no image"}
        assert found["nearest"].image_bytes == (tmp_path / "z/z.png").read_bytes()
    assert benchmark.notes() == ["derived localities: 2 nearest, 0 nearest prompt, 2 no image"]


def test_entities_of_vlkeb_are_folders(tmp_path: Path) -> None:
    benchmark = opened(
        tmp_path,
        shades_of(plane=10, saw=100) | {"plane/c.png": 10},
        asking("What colour is it?", "red", "plane"),
        asking("Who made it?", "Ann", "saw") | {"m_loc": "plane/c.png"},
        name="vlkeb",
    )
    first = derived(next(iter(benchmark)))
    assert first["nearest"].image_bytes == (tmp_path / "saw/a.png").read_bytes()


def test_a_converted_file_keeps_them(tmp_path: Path) -> None:
    benchmark = opened(
        tmp_path,
        shades_of(plane=10, saw=100),
        asking("What colour is it?", "red", "plane"),
        asking("Who made it?", "Ann", "saw"),
    )
    write_cases(benchmark, tmp_path / "cases.jsonl")
    assert list(load_cases(tmp_path / "cases.jsonl")) == list(benchmark)
