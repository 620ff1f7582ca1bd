"""The prompt protocol of a published benchmark reaches the models, and cases for the other one end
the job."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError
from liveedit_core.schema import Case
from pipelines import convert_benchmark, lifelong_edit, train_generator
from pipelines.editing.intake import open_source
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.writers import model_names
from pipelines.job.cases import load_evaluation_cases, load_training_cases, protocol_note
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.sections import BenchmarkSection
from pipelines.operations.promote_at_end import nightly_recipe
from pipelines.training.cases import suffix_models, training_models
from tests.published_files import benchmark_folder, record, write_json


def editing(*arguments: str) -> LifelongEditRecipe:
    return lifelong_edit.resolve_recipe(lifelong_edit.parse_arguments(list(arguments)))


def evaluated(
    section: BenchmarkSection, path: str = "", say: Callable[[str], None] = print
) -> list[Case]:
    return load_evaluation_cases(section, path, reader="a test", say=say)


def converted(folder: Path, protocol: str) -> Path:
    """A cases file of the published evaluation file in `folder`."""
    output = folder / f"{protocol}.jsonl"
    arguments = ["evqa", str(folder / "vqa_eval.json"), "--images", str(folder)]
    arguments += ["--output", str(output), "--protocol", protocol]
    assert convert_benchmark.main(arguments) == 0
    return output


def test_the_models_of_every_job_get_the_protocol() -> None:
    named = ["--benchmark", "evqa", "--data", "there", "--protocol", "paper"]
    config = editing(*named)
    assert config.benchmark.protocol == "paper"
    assert model_names(config).options.prompt_protocol == "paper"
    assert model_names(editing(*named[:4])).options.prompt_protocol == "chat"
    recipe = train_generator.resolve_recipe(train_generator.parse_arguments(named))
    assert training_models(recipe).options.prompt_protocol == "paper"
    assert suffix_models(recipe).options.prompt_protocol == "paper"
    assert config.fixed_settings()["benchmark.protocol"] == "paper"


def test_promotion_at_the_end_asks_by_the_same_protocol(tmp_path: Path) -> None:
    config = editing(
        *["--promote", "--benchmark", "eic", "--data", "there", "--protocol", "paper"],
        *["benchmark.derived_localities=true", f"run_root={tmp_path}"],
    )
    assert nightly_recipe(config).benchmark == config.benchmark


def test_a_converted_file_carries_its_protocol(tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path, "evqa", 3)
    path = converted(folder, "paper")
    raw = BenchmarkSection(protocol="paper")
    cases = evaluated(raw, str(path))
    section = BenchmarkSection(name="evqa", data=str(folder), protocol="paper")
    assert cases == evaluated(section)
    assert {case.tags["protocol"] for case in cases} == {"paper"}
    with pytest.raises(ConfigError, match="is for 'paper': set it to 'paper'"):
        evaluated(BenchmarkSection(), str(path))
    with pytest.raises(ConfigError, match="is for 'chat'"):
        evaluated(raw, str(converted(folder, "chat")))


def test_an_editing_job_ends_at_a_case_for_the_other_protocol(tmp_path: Path) -> None:
    path = converted(benchmark_folder(tmp_path, "evqa", 3), "paper")
    store = ObjectStore(tmp_path / "store")
    settings = [f"requests.cases={path}"]
    raw = load_recipe(LifelongEditRecipe, None, [*settings, "benchmark.protocol=paper"])
    items = list(open_source(raw, store, print).items)
    assert all(isinstance(item, Case) for item in items)
    assert len(items) == 3
    chat = load_recipe(LifelongEditRecipe, None, settings)
    with pytest.raises(ConfigError, match="set it to 'paper'"):
        list(open_source(chat, store, print).items)


def test_raw_prompts_are_for_published_benchmarks() -> None:
    raw = BenchmarkSection(protocol="paper")
    for load in (evaluated, load_training_cases):
        with pytest.raises(ConfigError, match="raw prompts are those of published benchmarks"):
            load(raw)


def test_plain_requests_may_go_to_a_generator_of_the_authors(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_text(json.dumps({"image": "x", "prompt": "y"}) + "\n")
    settings = [f"requests.path={tmp_path / 'requests.jsonl'}", "benchmark.protocol=paper"]
    config = load_recipe(LifelongEditRecipe, None, settings)
    assert len(list(open_source(config, ObjectStore(tmp_path / "store"), print).items)) == 1


def test_derived_localities_are_asked_in_evaluation_alone(tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path, "evqa", 3)
    benchmark_folder(tmp_path, "evqa", 3, "train")
    said: list[str] = []
    section = BenchmarkSection(name="evqa", data=str(folder), derived_localities=True)
    cases = evaluated(section, say=said.append)
    assert {probe.variant for case in cases for probe in case.probes} == {
        "",
        "nearest",
        "nearest prompt",
        "no image",
    }
    assert said == ["derived localities: 3 nearest, 3 nearest prompt, 3 no image"]
    trained = load_training_cases(section)
    assert {probe.variant for case in trained for probe in case.probes} == {""}
    with pytest.raises(ConfigError, match="derived_localities is set, but no published"):
        BenchmarkSection(derived_localities=True)


def test_training_leaves_out_what_has_no_stranger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = benchmark_folder(tmp_path, "evqa", 3, "train")
    contents = [record(0), record(1, m_loc_a=""), record(2, loc="")]
    write_json(folder / "vqa_train.json", contents)
    cases = load_training_cases(BenchmarkSection(name="evqa", data=str(folder)))
    assert [case.edit.target for case in cases] == ["plane 0", "plane 2"]
    assert "not trained on, as they have no modal_locality: 1" in capsys.readouterr().out


def test_a_generator_of_the_other_protocol_is_named() -> None:
    assert protocol_note("paper", "paper") == ""
    note = protocol_note("paper", "chat")
    assert "trained on prompts of the protocol 'paper', it gets those of 'chat'" in note
