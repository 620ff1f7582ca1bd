"""A case that cannot be read, trained on or shown to the backbone is left out, and said."""

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import ConfigError, InputError, NumericsError
from liveedit_core.schema import Case, Probe, ProbeKind
from liveedit_core.states import LayerStates
from pipelines.baselines.job import compare_on
from pipelines.baselines.recipe import CompareRecipe
from pipelines.job.accepted_cases import accepted_cases, answer_alone, on_cases
from pipelines.job.sections import BackboneSection
from pipelines.train_generator import parse_arguments, resolve_recipe, train
from pipelines.training.cases import training_cases
from pipelines.training.recipe import DataSection, TrainRecipe
from tests.other_backbones import TINY, cases_file, saved_family
from tests.tiny_backbone import case, tiny_backbone
from tests.tiny_families import EDIT_LAYER, family_backbone


def banner() -> bytes:
    """Qwen2-VL takes no image that is 200 times as long as high."""
    data = io.BytesIO()
    Image.new("RGB", (1000, 4)).save(data, "PNG")
    return data.getvalue()


def odd_cases() -> list[Case]:
    """One case that is fine, a banner to teach, a banner to ask about, and a control token."""
    good = case(0)
    probes = (
        Probe(kind=ProbeKind.MODAL_LOCALITY, prompt="What?", target="", image_bytes=banner()),
        Probe(kind=ProbeKind.TEXT_LOCALITY, prompt="What is <|video_pad|>?", target=""),
    )
    return [
        replace(case(1), case_id="taught", edit=replace(case(1).edit, image_bytes=banner())),
        replace(case(2), case_id="asked", probes=probes[:1]),
        good,
        replace(case(3), case_id="control", probes=probes[1:]),
    ]


def test_cases_that_the_backbone_refuses_are_left_out() -> None:
    said: list[str] = []
    cases = odd_cases()
    assert accepted_cases(cases, family_backbone("qwen2_vl"), said.append) == [cases[2]]
    assert [line.split(":")[0] for line in said] == [
        f"case {name} is refused and left out" for name in ("taught", "asked", "control")
    ]
    assert "aspect ratio" in said[0]
    with pytest.raises(InputError, match="refuses all 1 cases"):
        accepted_cases(cases[:1], family_backbone("qwen2_vl"), said.append)


def test_a_comparison_goes_on_without_them(run_root: Path) -> None:
    said: list[str] = []
    recipe = CompareRecipe(
        editors=("unedited",),
        edits=(1,),
        groups=(9,),
        cold_edits=1,
        run_root=str(run_root),
        backbone=BackboneSection(
            name=saved_family("qwen2_vl", run_root / "model"), edit_layer=EDIT_LAYER
        ),
    )
    (scores,) = compare_on(recipe, [*odd_cases(), case(4)], said.append).scores
    assert scores.num_groups == 2
    assert sum("is refused and left out" in line for line in said) == 3


def test_training_goes_on_without_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cases_file(tmp_path, 4)
    lines = path.read_text().splitlines()
    (tmp_path / "banner.png").write_bytes(banner())
    taught = json.loads(lines[1])
    taught["edit"]["image"] = "banner.png"
    lacking = json.loads(lines[2])
    lacking["probes"] = lacking["probes"][:1]
    path.write_text("\n".join([lines[0], json.dumps(taught), json.dumps(lacking), "{"]))
    recipe = TrainRecipe(data=DataSection(cases=str(path)))
    (left,) = training_cases(recipe, family_backbone("qwen2_vl"))
    assert left.edit.edit_id == case(0).edit.edit_id
    said = capsys.readouterr().out
    assert "1 lines are no cases: line 4: " in said
    assert "1 of 3 cases cannot be trained on" in said
    assert "is refused and left out: " in said
    path.write_text(json.dumps(lacking))
    with pytest.raises(ConfigError, match="there are no training cases"):
        training_cases(recipe)


FAULT = "a gather is out of range"


def fail_on(monkeypatch: pytest.MonkeyPatch, prompts: frozenset[str]) -> None:
    """Let every forward fail whose batch holds one of some prompts."""
    encode = VisionLanguageBackbone.encode

    def failing(self: VisionLanguageBackbone, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        if any(item.prompt in prompts for item in inputs):
            raise RuntimeError(FAULT)
        return encode(self, inputs)

    monkeypatch.setattr(VisionLanguageBackbone, "encode", failing)


def test_a_comparison_goes_on_without_cases_that_fail_in_a_forward(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case(number) for number in range(5)]
    bad = [replace(case(5 + n), edit=replace(case(5 + n).edit, prompt=f"Bad {n}?")) for n in (0, 1)]
    fail_on(monkeypatch, frozenset(one.edit.prompt for one in bad))
    recipe = CompareRecipe(
        editors=("unedited", "ft-l"),
        edits=(1,),
        groups=(9,),
        cold_edits=1,
        run_root=str(run_root),
        backbone=BackboneSection(
            name=saved_family("qwen2_vl", run_root / "model"), edit_layer=EDIT_LAYER
        ),
    )
    said: list[str] = []
    scores = compare_on(recipe, [bad[0], *cases, bad[1]], said.append).scores
    assert [one.num_groups for one in scores] == [5, 5]
    refused = [line for line in said if "is refused and left out" in line]
    assert [line.split()[1] for line in refused] == [one.case_id[:16] for one in bad]
    assert all(FAULT in line for line in refused)


@pytest.mark.parametrize("is_cached", [True, False])
def test_training_goes_on_without_cases_that_fail_in_a_forward(
    is_cached: bool,
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, path = saved_family("llava", tmp_path / "llava"), cases_file(tmp_path / "cases", 8)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["edit"]["prompt"], lines[5]["edit"]["prompt"] = "Bad 2?", "Bad 5?"
    path.write_text("\n".join(map(json.dumps, lines)))
    fail_on(monkeypatch, frozenset({"Bad 2?", "Bad 5?"}))
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    recipe = resolve_recipe(
        parse_arguments(
            [
                *(f"--backbone={folder}", f"--cases={path}", f"run_root={tmp_path}", *TINY),
                *(f"states.is_cached={str(is_cached).lower()}", "states.num_workers=0"),
            ]
        )
    )
    assert train(recipe) == 0
    said = capsys.readouterr().out
    assert said.count(f"is refused and left out: {FAULT}") == 2
    material = json.loads((recipe.run_folder / "material" / "cases.json").read_text())
    assert material["cases"]


def test_a_fault_of_the_program_is_no_cases_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, said = [case(0), case(1)], list[str]()

    def divide(some: list[Case]) -> float:
        return len(some) / 0

    def check(one: Case) -> None:
        answer_alone(tiny_backbone(), one)

    with pytest.raises(ZeroDivisionError):
        on_cases(cases, divide, check, said.append)
    assert not any("is refused" in line for line in said)

    def diverge(some: list[Case]) -> float:
        raise NumericsError("the loss is nan")

    with pytest.raises(NumericsError):
        on_cases(cases, diverge, lambda one: pytest.fail("nothing to look for"), said.append)

    prompts = {"What is this?", *(one.edit.prompt for one in cases)}  # the known-good one too
    fail_on(monkeypatch, frozenset(prompts))
    with pytest.raises(RuntimeError, match=FAULT):
        on_cases(cases, lambda some: list(map(check, some)), check, said.append)
    assert not any("is refused" in line for line in said)
