"""A case that cannot be read, trained on or shown to the backbone is left out, and said."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from liveedit_core.errors import ConfigError, InputError
from liveedit_core.schema import Case, Probe, ProbeKind
from pipelines.baselines.job import compare_on
from pipelines.baselines.recipe import CompareRecipe
from pipelines.job.cases import accepted_cases
from pipelines.job.sections import BackboneSection
from pipelines.training.cases import training_cases
from pipelines.training.recipe import DataSection, TrainRecipe
from tests.other_backbones import cases_file, saved_family
from tests.tiny_backbone import case
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
