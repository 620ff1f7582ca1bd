"""One command from published files to the paper's table, on tiny models of the same families."""

import json
from pathlib import Path
from typing import Any

import pytest

from liveedit_core.training.snapshot import StepFigures
from pipelines import compare_editors, convert_checkpoint, train_generator
from pipelines.baselines.group_store import GroupStore
from pipelines.reproduce_paper import RECIPES, main
from pipelines.training.estimate import GPU
from pipelines.training.loop import GeneratorTrainer
from tests.other_backbones import TINY, minigpt4_parts, saved_family
from tests.published_files import FILES, benchmark_folder, record, write_json
from tests.tiny_backbone import plain_convolutions

FAMILIES = {
    "llava_1_5_7b": "llava",
    "blip2_opt_2_7b": "blip-2",
    "minigpt4_7b": "minigpt4",
    "qwen2_5_vl_7b": "qwen2_5_vl",
}
SMALL = (
    *TINY,
    "joint.steps=6",
    "backbone.dtype=float32",
    "backbone.device=cpu",
    "optimization.dtype=float32",
    "table.edits=[1, 3]",
    "table.groups=[1]",
    "table.scored_cases=0",
    "table.cold_edits=1",
    "table.lora.max_steps=2",
    "table.grace.max_steps=2",
    "table.wise.max_steps=2",
    "table.fine_tuning.max_steps=2",
    "table.projector_tuning.max_steps=1",
)
NAMES = ["LiveEdit", "FT-L", "FT-M", "LoRA", "IKE", "GRACE", "WISE", "unedited"]


def recipe_of(name: str) -> Path:
    return RECIPES / f"paper_{name}.toml"


def published(folder: Path) -> Path:
    """Both files of E-VQA, with their images."""
    data = benchmark_folder(folder, "evqa", 6, "train")
    write_json(data / FILES["evqa", "evaluation"], [record(number) for number in range(4)])
    return data


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that every command has here; MLflow is away, and the jobs go on."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return [f"--data={published(tmp_path / 'data')}", f"run_root={tmp_path / 'runs'}", *SMALL]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_one_command_trains_edits_and_writes_the_table(
    name: str, tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, runs = tmp_path / "backbone", tmp_path / "runs"
    parts: list[str] = []
    if name == "minigpt4_7b":  # its parts are converted first
        file, blip2, llama = minigpt4_parts(tmp_path / "parts")
        parts = [f"--minigpt4={file}", f"--blip2={blip2}", f"--llama={llama}"]
    else:
        saved_family(FAMILIES[name], backbone)
    command = [f"--recipe={recipe_of(name)}", f"--backbone={backbone}", *parts, *given]
    seen: list[tuple[str, int]] = []
    last = 5  # whose figures come before its checkpoint
    record_step = GeneratorTrainer.record

    def record_or_stop(trainer: GeneratorTrainer, done: StepFigures, num_steps: int) -> None:
        record_step(trainer, done, num_steps)
        seen.append((done.phase, done.step))
        if seen[-1] == ("joint", last):
            raise KeyboardInterrupt

    taught: list[str] = []
    write_group = GroupStore.write

    def write_or_stop(store: GroupStore, path: Path, *more: Any) -> None:
        if len(taught) == len(NAMES) // 2:
            raise KeyboardInterrupt
        write_group(store, path, *more)
        taught.append(path.parent.name)

    monkeypatch.setattr(GeneratorTrainer, "record", record_or_stop)
    monkeypatch.setattr(GroupStore, "write", write_or_stop)
    with plain_convolutions():
        with pytest.raises(KeyboardInterrupt):
            main(command)
        assert not (runs / f"paper_{name}" / "generator").exists()
        last = 0
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            main(command)
        assert seen == [("joint", 4), ("joint", 5)], "it goes on from its checkpoint"
        assert taught == NAMES[:4]
        seen.clear()
        taught.clear()
        assert main(command) == 0
    assert seen == []
    assert taught == NAMES[4:], "editors that are scored are not taught again"
    table = json.loads((runs / f"paper_{name}_table" / "comparison.json").read_text())
    assert table["settings"]["benchmark"]["protocol"] == "paper"
    rows = [(row["num_edits"], row["editor"]) for row in table["rows"]]
    assert rows == [(size, editor) for size in (1, 3) for editor in NAMES]


def test_steps_come_one_after_another_and_the_first_failure_ends_it(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, list[str]]] = []
    codes = {"convert": 0, "train": 0, "compare": 0}

    def record_of(name: str) -> object:
        def run(arguments: list[str]) -> int:
            called.append((name, arguments))
            return codes[name]

        return run

    monkeypatch.setattr(convert_checkpoint, "main", record_of("convert"))
    monkeypatch.setattr(train_generator, "main", record_of("train"))
    monkeypatch.setattr(compare_editors, "main", record_of("compare"))
    command = [f"--recipe={recipe_of('minigpt4_7b')}", f"--backbone={tmp_path / 'm'}", *given]
    assert main([*command, "--minigpt4=file.pth"]) == 2
    assert called == []
    parts = ["--minigpt4=file.pth", "--blip2=b", "--llama=l"]
    assert main([*command, *parts]) == 0
    assert [name for name, _ in called] == ["convert", "train", "compare"]
    assert called[0][1] == ["minigpt4", "file.pth", str(tmp_path / "m"), "--blip2=b", "--llama=l"]
    assert f"generator={tmp_path / 'runs' / 'paper_minigpt4_7b' / 'generator'}" in called[2][1]
    codes["train"] = 1
    called.clear()
    assert main(command) == 1
    assert [name for name, _ in called] == ["train"]


def test_without_data_there_is_nothing_to_reproduce(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--data DIR is missing" in capsys.readouterr().err


@pytest.mark.parametrize("name", FAMILIES)
def test_hours_and_cost_are_known_before(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def estimated(*more: str) -> tuple[str, float, float]:
        assert main([f"--recipe={recipe_of(name)}", "--dry-run", *more]) == 0
        text = capsys.readouterr().out
        *_, last = text.splitlines()
        return text, float(last.split(" GPU hours")[0].split()[-1]), float(last.split()[-1])

    text, hours, cost = estimated("--price=100")
    assert "100 TFLOP/s on each of 1 shards" in text
    assert "sum for each card" in text
    assert f" on 1 x {GPU} at 100 TFLOP/s, " in text
    assert cost == pytest.approx(100 * hours, rel=0.05)
    _, fewer, _ = estimated("joint.steps=1000")
    _, least, _ = estimated("joint.steps=1000", "table.editors=['liveedit']")
    assert hours > fewer > least > 0
