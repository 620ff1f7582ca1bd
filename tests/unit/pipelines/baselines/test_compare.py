"""The comparison teaches every edit to every editor and scores them on the same probes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from liveedit_core.baselines.fine_tuning import FineTuning, FineTuningConfig
from liveedit_core.baselines.settings import GraceConfig, LoraConfig, WiseConfig
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.evaluation.summaries import summarize
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.generator import save_generator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from liveedit_core.state_source import BackboneStates
from pipelines.baselines.compare import (
    FREE_KINDS,
    Comparison,
    EditorScores,
    choose_cases,
    compare,
    evenly_spread,
)
from pipelines.baselines.recipe import CompareRecipe
from pipelines.baselines.tables import lines, metric_values, to_table, to_tree, write_files
from pipelines.compare_editors import main, parse_arguments, state_source
from pipelines.job.entry import resolve
from tests.other_backbones import saved_family
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG, case, tiny_backbone, tiny_generator
from tests.tiny_families import EDIT_LAYER, family_backbone

NAMES = ["LiveEdit", "FT-L", "FT-M", "LoRA", "IKE", "GRACE", "WISE", "unedited"]
RECIPE = CompareRecipe(
    edits=(3, 1),
    min_cases=3,
    scored_cases=0,
    free_cases=1,
    max_new_tokens=4,
    batch_size=8,
    lora=LoraConfig(max_steps=8),
    grace=GraceConfig(max_steps=8),
    wise=WiseConfig(max_steps=2),
)
CASES = [case(seed) for seed in range(5)]


def compared(recipe: CompareRecipe) -> Comparison:
    backbone = tiny_backbone()
    generator = tiny_generator(OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0))
    source = BackboneStates(backbone)
    return compare(recipe, backbone, generator, CASES, source, lambda text: None)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared(RECIPE)


def of(comparison: Comparison, name: str, num_edits: int) -> EditorScores:
    (found,) = (s for s in comparison.scores if (s.name, s.num_edits) == (name, num_edits))
    return found


def test_every_editor_is_scored_at_every_number_of_edits(comparison: Comparison) -> None:
    rows = [(scores.num_edits, scores.name) for scores in comparison.scores]
    assert rows == [(size, name) for size in (1, 3) for name in NAMES]
    for scores in comparison.scores:
        assert (scores.num_edits * scores.num_groups, scores.num_scored_cases) == (3, 3)
        for kind in ProbeKind:
            assert scores.summary[kind, TEACHER_FORCED].num_samples == 3
            assert ((kind, FREE_GENERATION) in scores.summary) == (kind in FREE_KINDS)
        for kind in FREE_KINDS:
            assert scores.summary[kind, FREE_GENERATION].num_samples == 1


def test_the_table_tells_the_editors_apart(comparison: Comparison) -> None:
    for size in (1, 3):
        live_edit, unedited = of(comparison, "LiveEdit", size), of(comparison, "unedited", size)
        for kind in ProbeKind:
            if kind.is_locality:
                assert unedited.summary[kind, TEACHER_FORCED].mean == 1.0
        assert live_edit.summary[ProbeKind.TEXT_LOCALITY, TEACHER_FORCED].mean == 1.0
        own = ProbeKind.RELIABILITY, TEACHER_FORCED
        assert live_edit.summary[own].own_kept_fraction > 0
        assert of(comparison, "FT-L", size).summary[own].own_kept_fraction == 0
        for name in ("LiveEdit", "FT-L", "IKE"):
            summary = of(comparison, name, size).summary
            assert any(summary[key].mean != unedited.summary[key].mean for key in summary)


def test_editors_are_restored_between_groups(comparison: Comparison) -> None:
    """Memory is that of one group, not of all that were taught."""
    for name in ("LiveEdit", "IKE", "GRACE"):
        one, three = of(comparison, name, 1).memory, of(comparison, name, 3).memory
        assert 0 < one.stored_bytes < three.stored_bytes < 4 * one.stored_bytes
        assert one.fixed_bytes == three.fixed_bytes
    assert of(comparison, "FT-L", 3).memory.stored_bytes == 0
    assert of(comparison, "unedited", 3).memory.fixed_bytes == 0


def test_a_group_does_not_see_the_group_before_it() -> None:
    """N = 1 over three cases is what a new editor gives on each of them."""
    config = FineTuningConfig(max_steps=60, learning_rate=3e-2)
    recipe = RECIPE.with_changes(edits=(1,), editors=("ft-l",), free_cases=0, fine_tuning=config)
    (together,) = compared(recipe).scores
    backbone, generator = tiny_backbone(), tiny_generator(OUR_CONFIG)
    scorer = CaseScorer(Editor(backbone, generator, ExpertRepository.empty(OUR_CONFIG)))
    apart: list[ProbeResult] = []
    for item in choose_cases(recipe, CASES):
        model = FineTuning(backbone, config)
        model.teach([item.edit], backbone.encode([edit_input(item.edit)]))
        prepared = scorer.prepare([item])
        apart += model.score(prepared, protocols=[TEACHER_FORCED], max_new_tokens=4)
    summary = summarize(apart)
    assert summary[ProbeKind.RELIABILITY, TEACHER_FORCED].mean == 1.0
    for key, metric in summary.items():
        assert together.summary[key].mean == metric.mean


def test_the_same_seed_gives_the_same_table(comparison: Comparison) -> None:
    quick = RECIPE.with_changes(editors=("liveedit", "ft-l", "grace"))
    again = compared(quick)

    def numbers(found: Comparison) -> list[object]:
        return [
            (row["editor"], row["num_edits"], row["metrics"])
            for row in to_tree(found)["rows"]
            if row["editor"] in ("LiveEdit", "FT-L", "GRACE")
        ]

    assert numbers(again) == numbers(comparison)


def test_json_carries_protocol_samples_seed_time_and_memory(
    comparison: Comparison, tmp_path: Path
) -> None:
    recipe = RECIPE.with_changes(output=str(tmp_path / "new" / "table.json"))
    table, figure = write_files(replace(comparison, recipe=recipe))
    tree = json.loads(table.read_text())
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert (tree["seed"], tree["settings"]["edits"], len(tree["rows"])) == (
        0,
        [3, 1],
        2 * len(NAMES),
    )
    assert set(tree["digests"]) == {"backbone", "generator"}
    for row in tree["rows"]:
        assert row["edit_s"] >= 0
        assert row["fixed_bytes"] + row["stored_bytes"] >= 0
        assert set(row["paper_average"]) == {TEACHER_FORCED}
        keys = {(metric["metric"], metric["protocol"]) for metric in row["metrics"]}
        assert len(keys) == len(row["metrics"]) == 8 + 3
        assert all(metric["num_samples"] >= 1 for metric in row["metrics"])
    assert "LiveEdit.reliability.teacher_forced" in metric_values(comparison.scores[0])
    assert [line.x for line in lines(comparison)] == [[1, 3]] * len(NAMES)


def test_protocols_never_share_a_column(comparison: Comparison) -> None:
    console = Console(record=True, width=150)
    table = to_table(comparison)
    console.print(table)
    text = console.export_text()
    heads = [str(column.header) for column in table.columns]
    assert sum(head.endswith("\ntf") for head in heads) == 6
    assert sum(head.endswith("\nfree") for head in heads) == 3
    assert table.row_count == 2 * len(NAMES)
    assert "3 / 1" in text
    assert "…" not in text


def test_cases_are_drawn_by_seed() -> None:
    first = choose_cases(RECIPE, CASES)
    assert choose_cases(RECIPE, CASES) == first
    assert len({item.case_id for item in first}) == 3
    orders = {
        tuple(c.case_id for c in choose_cases(RECIPE.with_changes(seed=seed), CASES))
        for seed in range(6)
    }
    assert len(orders) > 1
    with pytest.raises(ConfigError, match="at most 5"):
        choose_cases(RECIPE.with_changes(edits=(6,)), CASES)


def test_scored_cases_are_spread_over_the_sequence() -> None:
    assert evenly_spread(CASES, 2) == [CASES[0], CASES[2]]
    assert evenly_spread(CASES, 9) == CASES
    recipe = RECIPE.with_changes(
        edits=(5,), scored_cases=2, free_cases=0, editors=("unedited",), min_cases=1
    )
    (scores,) = compared(recipe).scores
    assert (scores.num_edits, scores.num_groups, scores.num_scored_cases) == (5, 1, 2)


def test_states_come_from_the_cache_when_asked(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    generator = tiny_generator(OUR_CONFIG)
    plain = RECIPE.with_changes(editors=("ft-l",), edits=(1,), run_root=str(tmp_path))
    cached = plain.with_changes(states=plain.states.with_changes(is_cached=True))
    found = []
    for recipe in (plain, cached, cached):
        with state_source(recipe, backbone) as source:
            done = compare(recipe, backbone, generator, CASES, source, lambda text: None)
        found.append(to_tree(done)["rows"][0]["metrics"])
    assert found[0] == found[1] == found[2]
    assert list((tmp_path / "cache").rglob("*.lance"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("edits=[0]", "edits"),
        ("edits=[]", "edits"),
        ("editors=['mend']", "editors"),
        ("fine_tuning.steps=3", "fine_tuning.max_steps"),
    ],
)
def test_wrong_settings_are_refused_by_name(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(CompareRecipe, parse_arguments([argument]))


def test_liveedit_needs_a_generator_of_the_backbone() -> None:
    with pytest.raises(ConfigError, match="set generator=FOLDER"):
        resolve(CompareRecipe, parse_arguments(["--backbone", "owner/model"]))
    options = ["--backbone", "owner/model", "--editors", "lora"]
    assert resolve(CompareRecipe, parse_arguments(options)).backbone.name == "owner/model"


@pytest.mark.parametrize(
    ("family", "editors"),
    [("llava", "ft-l,lora,grace,ike,unedited"), ("qwen2_vl", "liveedit,ft-m,wise")],
)
def test_another_backbone_end_to_end(family: str, editors: str, run_root: Path) -> None:
    """A checkpoint folder by name, and a table of its editors."""
    folder = saved_family(family, run_root / family)
    config = TINY_CONFIG.with_changes(num_image_tokens=family_backbone(family).num_image_tokens)
    save_generator(tiny_generator(config), run_root / "generator")
    quick = ["lora.max_steps=2", "grace.max_steps=2", "wise.max_steps=1", "fine_tuning.max_steps=2"]
    counts = ["min_cases=1", "scored_cases=1", "free_cases=1", "max_new_tokens=2"]
    named = [f"--backbone={folder}", f"--editors={editors}", "--edits=1", "--run-name=tiny"]
    more = [f"run_root={run_root}", f"generator={run_root / 'generator'}", *counts, *quick]
    assert main([*named, *more, f"backbone.edit_layer={EDIT_LAYER}"]) == 0
    tree = json.loads((run_root / "tiny" / "comparison.json").read_text())
    assert [row["editor"].lower() for row in tree["rows"]] == editors.split(",")
    assert ("generator" in tree["digests"]) == ("liveedit" in editors)
    for row in tree["rows"]:
        assert {metric["protocol"] for metric in row["metrics"]} == set(PROTOCOLS)


def test_options_are_settings() -> None:
    options = parse_arguments(
        ["--edits", "7,1", "--editors", "ike,lora", "--output", "a.json", "fine_tuning.max_steps=3"]
    )
    recipe = resolve(CompareRecipe, options)
    assert (recipe.sizes, recipe.editors) == ((1, 7), ("ike", "lora"))
    assert (recipe.output, recipe.fine_tuning.max_steps) == ("a.json", 3)
