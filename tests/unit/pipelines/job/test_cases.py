"""A published benchmark in jobs: what names it, what is taught and asked, on plain workers."""

from pathlib import Path
from typing import Any, get_args

import pytest

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.evaluation.summaries import variant_values
from liveedit_core.inputs.datasets import load_cases
from liveedit_core.inputs.rejects import RejectType
from liveedit_core.schema import PAPER_METRICS, ProbeKind
from liveedit_core.training.validation import split_by_entity
from pipelines import convert_benchmark, lifelong_edit, nightly_evaluation
from pipelines.editing.intake import open_source
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.run import Outcome
from pipelines.evaluation.result_table import result_tables
from pipelines.job.cases import (
    cases_digest,
    evaluation_digest,
    load_evaluation_cases,
    load_training_cases,
    open_published,
)
from pipelines.job.entry import add_benchmark_options, given_settings, job_parser, parse_job
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.sections import BenchmarkSection, PublishedName
from pipelines.operations import promote_at_end as edit_promotion
from pipelines.operations.nightly_run import each_case
from pipelines.operations.recipe import NightlyRecipe
from tests.published_files import benchmark_folder, draw_images, hop, record, write_json
from tests.unit.tiny_editing import Driver


def editing(*arguments: str) -> LifelongEditRecipe:
    return lifelong_edit.resolve_recipe(lifelong_edit.parse_arguments(list(arguments)))


def nightly(*arguments: str) -> NightlyRecipe:
    options = nightly_evaluation.parse_arguments(list(arguments))
    return nightly_evaluation.resolve_recipe(options)


def taught(folder: Path, driver: Driver, name: str, *overrides: str) -> Outcome:
    """An editing job over a benchmark, with the settings that its options give."""
    settings = [f"benchmark.name={name}", f"benchmark.data={folder}", *overrides]
    config = load_recipe(LifelongEditRecipe, None, settings)
    source = open_source(config, ObjectStore(folder / "unused"), print)
    return driver.run(source.items, *settings)


def test_the_section_knows_every_published_benchmark() -> None:
    for name in get_args(PublishedName):
        assert BenchmarkSection(name=name, data="folder").is_published
    assert not BenchmarkSection(name="user_world").is_published


def test_options_set_the_settings() -> None:
    for resolve in (editing, nightly):
        section = resolve("--benchmark", "evqa", "--data", "there").benchmark
        assert section == BenchmarkSection(name="evqa", data="there")
        whole = ["--benchmark", "vlkeb", "--data", "a", "--images", "b"]
        section = resolve(*whole, "--missing-images", "skipped").benchmark
        assert section == BenchmarkSection(
            name="vlkeb", data="a", images="b", missing_images="skipped"
        )


def test_options_stand_for_nothing_unless_given() -> None:
    parser = job_parser("What it does.")
    add_benchmark_options(parser)
    assert given_settings(LifelongEditRecipe, parse_job(parser, [])) == {}


def test_a_benchmark_is_not_cut_to_the_default_number_of_cases() -> None:
    arguments = ["--benchmark", "evqa", "--data", "there"]
    assert (editing(*arguments).run_name, editing(*arguments).requests.limit) == (
        "lifelong_edit",
        0,
    )
    assert nightly(*arguments).cases.limit == 0
    assert nightly(*arguments, "cases.limit=5").cases.limit == 5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--benchmark", "evqa"], "benchmark.data must name the folder"),
        (["--data", "there"], "benchmark.data is set, but no published benchmark is named"),
        (["benchmark.name=vqa", "--data", "x"], "benchmark.name must be one of"),
    ],
)
def test_half_a_benchmark_is_refused(arguments: list[str], reason: str) -> None:
    for resolve in (editing, nightly):
        with pytest.raises(ConfigError) as info:
            resolve(*arguments)
        assert reason in info.value.message


def test_two_sources_at_once_are_refused() -> None:
    benchmark = ["benchmark.name=evqa", "benchmark.data=x"]
    for other in ("requests.path=a", "requests.cases=a", "follow.is_on=true"):
        with pytest.raises(ConfigError, match="benchmark"):
            load_recipe(LifelongEditRecipe, None, [*benchmark, other])
    with pytest.raises(ConfigError, match="benchmark"):
        load_recipe(NightlyRecipe, None, [*benchmark, "cases.path=a"])


def test_an_editing_job_teaches_and_asks_a_benchmark(tmp_path: Path) -> None:
    folder, driver = benchmark_folder(tmp_path / "evqa", "evqa", 6), Driver(tmp_path / "store")
    outcome = taught(folder, driver, "evqa")
    assert (outcome.num_edits, outcome.rejected, outcome.intake.rejected) == (6, [], [])
    logged = [item.request for item in driver.log.read(range(1, 7))]
    assert [item.prompt for item in logged] == [
        f"Which tool lies on bench {number}? The answer is:" for number in range(6)
    ]
    assert [item.target for item in logged] == [f"plane {number}" for number in range(6)]
    last = outcome.evaluations[-1]
    assert (last.num_edits, last.num_cases, last.is_complete) == (6, 6, True)
    assert {kind: item.num_samples for (kind, _), item in last.summary.items()} == {
        ProbeKind.RELIABILITY: 6,
        ProbeKind.TEXT_GENERALITY: 6,
        ProbeKind.MODAL_GENERALITY: 6,
        ProbeKind.TEXT_LOCALITY: 6,
        ProbeKind.MODAL_LOCALITY: 6,
    }
    again = taught(folder, driver, "evqa")
    assert (again.intake.num_new, again.timings.num_processed) == (0, 0)
    assert again.evaluations[-1].num_new_results == 0


def test_a_limit_takes_the_first_edits(tmp_path: Path) -> None:
    folder, driver = benchmark_folder(tmp_path / "eic", "eic", 6), Driver(tmp_path / "store")
    assert taught(folder, driver, "eic", "requests.limit=2").num_edits == 2


def test_portability_is_summed_up_by_hops(tmp_path: Path) -> None:
    contents = [record(number) for number in range(4)]
    questions = [
        hop(1, "Where was it made?", "Rome"),
        hop(2, "Who rules there?", "Ann"),
        hop(2, "Who ruled there?", "Bo"),
    ]
    write_json(tmp_path / "data" / "eval.json", contents)
    asked = [content | {"port_new": questions} for content in contents[:3]]
    write_json(tmp_path / "data" / "eval_multihop.json", asked)
    draw_images(tmp_path / "data" / "mmkb_images", contents)
    last = taught(tmp_path / "data", Driver(tmp_path / "store"), "vlkeb").evaluations[-1]
    assert last.summary[ProbeKind.PORTABILITY, TEACHER_FORCED].num_samples == 9
    assert {name: item.num_samples for (_, name, _), item in last.by_variant.items()} == {
        "1 hop": 3,
        "2 hops": 6,
    }
    first_table = result_tables([last], [TEACHER_FORCED])[0]
    assert [name for name in first_table.columns[0].cells if "hop" in str(name)] == [
        "  1 hop",
        "  2 hops",
    ]
    key = ProbeKind.PORTABILITY, "2 hops", TEACHER_FORCED
    values = variant_values(last.by_variant)
    assert [name.split(".")[1] for name in sorted(values)] == ["1_hop", "2_hops"]
    assert values["portability.2_hops.teacher_forced"] == last.by_variant[key].mean


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("mmke", {("portability", item): 8 for item in ("T-Rel", "I-Rel", "I-Gen")}),
        (
            "comprehendedit",
            {
                (f"neighbour_{kind}", f"{place} {likeness}"): 4 * number
                for kind, number in (("generality", 4), ("locality", 3))
                for place in ("nearest", "farthest")
                for likeness in ("image", "text")
            },
        ),
    ],
)
def test_the_metrics_of_a_benchmark_are_in_the_tables(
    tmp_path: Path, name: str, variants: dict[tuple[str, str], int]
) -> None:
    folder = benchmark_folder(tmp_path / name, name, 4)
    last = taught(folder, Driver(tmp_path / "store"), name).evaluations[-1]
    found = {
        (kind.value, name): item.num_samples for (kind, name, _), item in last.by_variant.items()
    }
    assert found.items() >= variants.items()
    cells = [
        str(cell).strip() for cell in result_tables([last], [TEACHER_FORCED])[0].columns[0].cells
    ]
    assert {name for pair in variants for name in pair} <= set(cells)


def test_both_edits_of_a_record_are_logged_in_order(tmp_path: Path) -> None:
    folder, driver = benchmark_folder(tmp_path / "cckeb", "cckeb", 3), Driver(tmp_path / "store")
    outcome = taught(folder, driver, "cckeb")
    logged = [item.request for item in driver.log.read(range(1, 7))]
    assert [item.prompt for item in logged] == [
        prompt.format(number)
        for number in range(3)
        for prompt in ("Which tool lies on bench {}?", "Who makes plane {}?")
    ]
    assert [item.image_bytes is None for item in logged] == [False, True] * 3
    assert outcome.intake.num_new == 6
    reasons = {item.error_type for item in outcome.rejected}
    assert (outcome.num_edits, reasons) == (3, {RejectType.IMAGE_MISSING}), "no prompt key here"


def test_skipped_records_are_on_record(tmp_path: Path) -> None:
    folder, driver = benchmark_folder(tmp_path / "evqa", "evqa", 4), Driver(tmp_path / "store")
    (folder / "bench2" / "side.png").unlink()
    with pytest.raises(InputError, match=r"record 3: image 'bench2/side\.png'"):
        taught(folder, driver, "evqa")
    assert len(driver.log) == 0
    outcome = taught(folder, driver, "evqa", "benchmark.missing_images=skipped")
    assert outcome.num_edits == 3
    (refused,) = driver.log.rejects.read()
    assert "vqa_eval.json, record 3: image 'bench2/side.png'" in refused.rejected.message


def test_a_night_reads_the_benchmark_and_notices_other_questions(tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "evqa", "evqa", 4)
    recipe = nightly("--benchmark", "evqa", "--data", str(folder))
    cases = list(each_case(recipe))
    assert [case.edit.target for case in cases] == [f"plane {number}" for number in range(4)]
    two = nightly("--benchmark", "evqa", "--data", str(folder), "cases.limit=2")
    assert list(each_case(two)) == cases[:2]
    changed = [record(number, rephrase="Which one?") for number in range(4)]
    write_json(folder / "vqa_eval.json", changed)
    assert evaluation_digest(each_case(recipe)) != evaluation_digest(cases)


def test_what_a_night_leaves_out_is_said(tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "evqa", "evqa", 4)
    write_json(folder / "vqa_eval.json", [record(0), record(0), record(1, alt="")])
    said: list[str] = []
    section = BenchmarkSection(name="evqa", data=str(folder))
    assert len(load_evaluation_cases(section, reader="nightly", say=said.append)) == 1
    assert len(said) == 2


def test_promotion_at_the_end_examines_the_same_benchmark(tmp_path: Path) -> None:
    arguments = ["--promote", "--benchmark", "eic", "--data", "there", f"run_root={tmp_path}"]
    config = editing(*arguments, "--missing-images", "skipped")
    recipe = edit_promotion.nightly_recipe(config)
    assert (recipe.benchmark, recipe.cases.limit) == (config.benchmark, 0)


def test_training_has_every_kind_of_probe_and_entities_to_hold_out(tmp_path: Path) -> None:
    contents = [record(n, src=q) for n in range(6) for q in ("What is it?", "Whose is it?")]
    write_json(tmp_path / "vqa_train.json", contents)
    draw_images(tmp_path, contents)
    cases = load_training_cases(BenchmarkSection(name="evqa", data=str(tmp_path)))
    kinds = [*PAPER_METRICS[1:], ProbeKind.IMAGE_SWAP_LOCALITY, ProbeKind.PROMPT_SWAP_LOCALITY]
    for case in cases:
        assert sorted(probe.kind for probe in case.probes) == sorted(kinds)
    split = split_by_entity(cases, num_held_out=4, seed=0)
    held_out = {case.edit.image_bytes for case in split.held_out}
    assert len(split.held_out) == 4
    assert not held_out & {case.edit.image_bytes for case in split.training}


@pytest.mark.parametrize("name", get_args(PublishedName))
def test_every_benchmark_can_be_trained_on(tmp_path: Path, name: PublishedName) -> None:
    folder = benchmark_folder(tmp_path, name, 3, "train")
    cases = load_training_cases(BenchmarkSection(name=name, data=str(folder)))
    assert len(cases) == 3
    for case in cases:
        assert set(PAPER_METRICS[1:]) <= {probe.kind for probe in case.probes}


def test_training_notices_other_cases(tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path, "evqa", 3, "train")
    section = BenchmarkSection(name="evqa", data=str(folder))
    before = cases_digest(load_training_cases(section))
    assert cases_digest(load_training_cases(section)[::-1]) == before
    changed = [record(number, rephrase="Which one?") for number in range(3)]
    write_json(folder / "vqa_train.json", changed)
    assert cases_digest(load_training_cases(section)) != before


def test_an_image_root_of_ones_own(tmp_path: Path) -> None:
    write_json(tmp_path / "data" / "vqa_eval.json", [record(1)])
    draw_images(tmp_path / "coco", [record(1)])
    named = {"name": "evqa", "data": str(tmp_path / "data")}
    section = BenchmarkSection(**named, images=str(tmp_path / "coco"))  # type: ignore[arg-type]
    assert len(open_published(section, "evaluation")) == 1
    with pytest.raises(InputError, match="cannot be read: 3 "):
        open_published(BenchmarkSection(**named), "evaluation")  # type: ignore[arg-type]


def test_the_converter_writes_cases_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = benchmark_folder(tmp_path / "evqa", "evqa", 3)
    output = tmp_path / "cases.jsonl"
    arguments: list[Any] = ["evqa", folder / "vqa_eval.json", "--images", folder]
    arguments += ["--output", output]
    assert convert_benchmark.main([str(item) for item in arguments]) == 0
    assert "3 cases written" in capsys.readouterr().out
    section = BenchmarkSection(name="evqa", data=str(folder))
    assert list(load_cases(output)) == load_evaluation_cases(section, reader="a test")
    (folder / "bench1" / "front.png").unlink()
    output.unlink()
    assert convert_benchmark.main([str(item) for item in arguments]) == 1
    assert "record 2: image 'bench1/front.png'" in capsys.readouterr().err
    assert not output.exists()
    skipped = [*map(str, arguments), "--missing-images", "skipped"]
    assert convert_benchmark.main(skipped) == 0
    said = capsys.readouterr().out
    assert "cannot be read: 1 (images: 1)" in said
    assert "2 cases written" in said
