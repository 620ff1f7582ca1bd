"""The comparison teaches every edit to every editor and scores them on the same probes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.settings import FineTuningConfig
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.evaluation.summaries import summarize
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.generator import save_generator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import PAPER_METRICS, EditRequest, Probe, ProbeKind
from pipelines.baselines import compare as compare_module
from pipelines.baselines.compare import Comparison, compare, plan
from pipelines.baselines.console_tables import to_tables
from pipelines.baselines.scores import EditorScores
from pipelines.baselines.search_space import NUM_TRIALS
from pipelines.baselines.tables import lines, metric_values, spreads, to_tree, write_files
from pipelines.compare_editors import main
from pipelines.job.state_cache import state_source
from tests.other_backbones import cases_file, saved_family
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG, case, tiny_backbone, tiny_generator
from tests.tiny_families import EDIT_LAYER, family_backbone
from tests.unit.pipelines.baselines.tiny_comparison import (
    CASES,
    NAMES,
    RECIPE,
    compared,
    of,
)

KINDS = [probe.kind for probe in case(0).all_probes()]


def test_every_editor_is_scored_at_every_number_of_edits(comparison: Comparison) -> None:
    rows = [(scores.num_edits, scores.name) for scores in comparison.scores]
    assert rows == [(size, name) for size in (1, 3) for name in NAMES]
    for scores in comparison.scores:
        assert (scores.num_edits * scores.num_groups, scores.num_scored_cases) == (3, 3)
        assert scores.cold_s > 0
        num_free = 1 if scores.num_edits == 3 else 3  # at least one case of each group
        for kind in KINDS:
            assert scores.summary[kind, TEACHER_FORCED].num_samples == 3
            free = scores.summary.get((kind, FREE_GENERATION))
            assert (free.num_samples if free else 0) == (0 if kind.is_locality else num_free)


def test_the_table_tells_the_editors_apart(comparison: Comparison) -> None:
    for size in (1, 3):
        live_edit, unedited = of(comparison, "LiveEdit", size), of(comparison, "unedited", size)
        for kind in KINDS:
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
    for name in ("LiveEdit", "IKE", "GRACE", "TIME-like", "SERAC", "RECIPE", "LTE"):
        one, three = of(comparison, name, 1).memory, of(comparison, name, 3).memory
        assert 0 < one.stored_bytes < three.stored_bytes < 4 * one.stored_bytes
        assert one.fixed_bytes == three.fixed_bytes
    assert of(comparison, "FT-L", 3).memory.stored_bytes == 0
    assert of(comparison, "unedited", 3).memory.fixed_bytes == 0


def test_a_group_does_not_see_the_group_before_it(tmp_path: Path) -> None:
    """N = 1 over three cases is what a new editor gives on each of them."""
    config = FineTuningConfig(max_steps=60, learning_rate=3e-2)
    recipe = RECIPE.with_changes(
        edits=(1,), groups=(3,), editors=("ft-l",), free_cases=0, fine_tuning=config
    )
    (together,) = compared(recipe, tmp_path).scores
    backbone, generator = tiny_backbone(), tiny_generator(OUR_CONFIG)
    scorer = CaseScorer(Editor(backbone, generator, ExpertRepository.empty(OUR_CONFIG)))
    apart: list[ProbeResult] = []
    for group in plan(recipe, CASES):
        model = FineTuning(backbone, config)
        (item,) = group.cases
        model.teach([item.edit], backbone.encode([edit_input(item.edit)]))
        prepared = scorer.prepare([item])
        apart += model.score(prepared, protocols=[TEACHER_FORCED], max_new_tokens=4)
    summary = summarize(apart)
    assert summary[ProbeKind.RELIABILITY, TEACHER_FORCED].mean > 0.8
    for key, metric in summary.items():
        assert together.summary[key].mean == metric.mean


def test_a_smaller_number_of_edits_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    """Taught together, each is scored as if it were taught alone."""
    recipe = RECIPE.with_changes(
        edits=(1, 2), groups=(2,), editors=("grace",), free_cases=0, scored_cases=2
    )
    assert recipe.ladders == ((2, (1, 2)),)
    first, second = plan(recipe, CASES)
    one, two = compared(recipe, tmp_path / "together").scores
    alone = recipe.with_changes(edits=(2,))
    (again,) = compared(alone, tmp_path / "alone").scores
    assert numbers(two) == numbers(again)
    assert (one.memory.stored_bytes, two.memory.stored_bytes)[0] < two.memory.stored_bytes
    assert first.scored(1)[0] == [first.cases[0]]
    # the second group is scored at another position than the first
    assert (first.scored(2)[0], second.scored(2)[0]) == ([first.cases[0]], [second.cases[1]])


def numbers(scores: EditorScores) -> dict[object, float]:
    return {key: metric.mean for key, metric in scores.summary.items()}


def test_finished_groups_are_not_taught_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[str] = []
    teach = FineTuning.teach

    def counted(self: FineTuning, requests: Sequence[EditRequest], states: Any) -> None:
        taught.extend(request.edit_id for request in requests)
        teach(self, requests, states)

    monkeypatch.setattr(FineTuning, "teach", counted)
    monkeypatch.setattr(compare_module, "cold_edit_s", lambda *arguments: 0.0)
    recipe = RECIPE.with_changes(edits=(1,), groups=(2,), editors=("ft-l",), free_cases=0)
    first = compared(recipe, tmp_path)
    assert len(taught) == 2
    assert numbers(compared(recipe, tmp_path).scores[0]) == numbers(first.scores[0])
    assert len(taught) == 2
    more = compared(recipe.with_changes(editors=("ft-l", "unedited")), tmp_path)
    assert numbers(more.scores[0]) == numbers(first.scores[0])
    assert len(taught) == 2
    changed = recipe.with_changes(fine_tuning=FineTuningConfig(max_steps=2))
    compared(changed, tmp_path)
    assert len(taught) == 4


def test_what_a_case_corrects_is_taught_before_it(tmp_path: Path) -> None:
    earlier = replace(CASES[1].edit, image_bytes=CASES[0].edit.image_bytes)
    probe = Probe(
        kind=ProbeKind.CORRECTION,
        variant="earlier wording",
        prompt=earlier.prompt,
        target=CASES[0].edit.target,
        image_bytes=earlier.image_bytes,
    )
    corrected = replace(CASES[0], earlier=(earlier,), probes=(probe,))
    recipe = RECIPE.with_changes(edits=(1,), groups=(1,), editors=("ike", "unedited"))
    in_context, _ = compared(recipe, tmp_path / "both", [corrected]).scores
    (alone, _) = compared(recipe, tmp_path / "one", [CASES[0]]).scores
    text = len((earlier.prompt + earlier.target).encode())
    assert in_context.memory.stored_bytes > alone.memory.stored_bytes + text
    key = ProbeKind.CORRECTION, "earlier wording", FREE_GENERATION
    assert in_context.by_variant[key].num_samples == 1


def test_seeds_of_one_configuration_are_shown_as_mean_and_range(tmp_path: Path) -> None:
    recipe = RECIPE.with_changes(
        edits=(1,),
        groups=(1,),
        editors=("unedited",),
        free_cases=0,
        generators=("paper=a", "other=b", "paper=c"),
    )
    found = compared(recipe, tmp_path)
    assert [row.name for row in found.scores] == ["unedited", "paper 1", "other", "paper 2"]
    (seeds,) = to_tree(found)["seeds"]
    assert (seeds["configuration"], seeds["num_edits"]) == ("paper", 1)
    mean, least, largest = seeds["reliability.teacher_forced"]
    assert least <= mean <= largest
    assert "paper, 2 seeds" in exported(found)
    low, high = (
        replace(found.scores[1], summary={(ProbeKind.RELIABILITY, TEACHER_FORCED): metric})
        for metric in (
            replace(found.scores[1].summary[ProbeKind.RELIABILITY, TEACHER_FORCED], mean=mean)
            for mean in (0.25, 0.75)
        )
    )
    assert spreads([low, high]) == {"reliability.teacher_forced": (0.5, 0.25, 0.75)}


def test_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    recipe = RECIPE.with_changes(editors=("unedited",), generators=("unedited=a",))
    with pytest.raises(ConfigError, match="name of another row"):
        compared(recipe, tmp_path)


def test_json_carries_protocol_samples_seed_time_and_memory(
    comparison: Comparison, tmp_path: Path
) -> None:
    recipe = RECIPE.with_changes(output=str(tmp_path / "new" / "table.json"))
    table, figure, *page = write_files(replace(comparison, recipe=recipe))
    tree = json.loads(table.read_text())
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in page} == {".html", ".csv", ".tex", ".svg"}
    assert (tree["seed"], tree["settings"]["edits"], len(tree["rows"])) == (
        0,
        [3, 1],
        2 * len(NAMES),
    )
    assert set(tree["digests"]) == {"backbone", "cases", "generator LiveEdit"}
    groups = {row["num_edits"]: row["comparable_group"] for row in tree["rows"]}
    assert "chat prompts, groups of 3 edits" in groups[3]
    assert "groups of 1 edit," in groups[1]
    for row in tree["rows"]:
        assert row["comparable_group"] == groups[row["num_edits"]]
        assert row["edit_s"] >= 0
        assert row["fixed_bytes"] + row["stored_bytes"] >= 0
        assert row["cold_edit_s"] > 0
        measured = f"chat prompts, groups of {row['num_edits']} edit"
        assert measured in row["comparable_group"]
        learns_before = row["editor"] in ("LiveEdit", "lookup", *NAMES[7:13])
        assert (row["trained_on"] != "nothing") == learns_before
        train_s = {"LiveEdit": 2.5, "lookup": 2.5} | dict.fromkeys(NAMES[9:13], 1.5)
        assert row["train_s"] == train_s.get(row["editor"])
        has_trials = row["editor"] not in ("LiveEdit", "lookup", "unedited")
        assert row["num_trials"] == (NUM_TRIALS if has_trials else 0)
        means = {m["metric"]: m["mean"] for m in row["metrics"] if m["protocol"] == TEACHER_FORCED}
        five = [means[kind] for kind in PAPER_METRICS]
        assert row["paper_average"][TEACHER_FORCED] == pytest.approx(sum(five) / 5, abs=1e-5)
        earned = (sum(five) - means["text_locality"]) / 4
        average = row["paper_average_without_text_locality"][TEACHER_FORCED]
        assert average == pytest.approx(earned, abs=1e-5)
        keys = {(metric["metric"], metric["protocol"]) for metric in row["metrics"]}
        assert len(keys) == len(row["metrics"]) == 8 + 4
        assert all(metric["num_samples"] >= 1 for metric in row["metrics"])
    logged = metric_values(comparison.scores[0])
    assert {"LiveEdit.reliability.teacher_forced", "LiveEdit.cold_edit_s"} <= logged.keys()
    assert [line.x for line in lines(comparison)] == [[1, 3]] * len(NAMES)


def exported(comparison: Comparison) -> str:
    console = Console(record=True, width=190)
    console.print(*to_tables(comparison))
    return console.export_text()


def test_protocols_never_share_a_column(comparison: Comparison) -> None:
    metrics, others, costs = to_tables(comparison)
    heads = [str(column.header) for column in metrics.columns]
    assert sum(head.endswith("tf") for head in heads) == 7
    assert sum(head.endswith("\nfree") for head in heads) == 3
    for table in (metrics, others, costs):
        assert table.row_count == 2 * len(NAMES)
    text = exported(comparison)
    assert "100.0 /3" in text
    assert "…" not in text


def test_the_table_shows_portability_by_variant(tmp_path: Path) -> None:
    """What lookup cannot answer: its target is right for none of these."""
    variants = ("yes or no", "another language")
    own = CASES[0].edit
    probes = tuple(
        Probe(
            kind=ProbeKind.PORTABILITY,
            variant=variant,
            prompt=own.prompt,
            target=f"not {own.target}",
            image_bytes=own.image_bytes,
        )
        for variant in variants
    )
    asked = replace(CASES[0], probes=probes)
    recipe = RECIPE.with_changes(edits=(1,), groups=(1,), editors=("lookup", "liveedit"))
    found = compared(recipe, tmp_path, [asked])
    for variant in variants:
        by_variant = found.scores[0].by_variant
        assert by_variant[ProbeKind.PORTABILITY, variant, FREE_GENERATION].mean == 0.0
        assert variant in exported(found)
    (row, _) = to_tree(found)["rows"]
    assert {item["variant"] for item in row["variants"]} == set(variants)


def test_neighbours_have_columns_where_they_were_asked(
    tmp_path: Path, comparison: Comparison
) -> None:
    own = CASES[1].all_probes()[0]
    kinds = ProbeKind.NEIGHBOUR_GENERALITY, ProbeKind.NEIGHBOUR_LOCALITY
    probes = tuple(replace(own, kind=kind) for kind in kinds)
    recipe = RECIPE.with_changes(edits=(1,), groups=(1,), editors=("unedited",))
    found = compared(recipe, tmp_path, [replace(CASES[0], probes=probes)])
    heads = [str(column.header) for column in to_tables(found)[1].columns]
    assert {"n-gen\ntf", "n-loc\ntf"} <= set(heads)
    assert found.scores[0].summary[ProbeKind.NEIGHBOUR_LOCALITY, TEACHER_FORCED].mean == 1.0
    without = [str(column.header) for column in to_tables(comparison)[1].columns]
    assert not any(head.startswith("n-") for head in without)


def test_cases_are_drawn_by_seed() -> None:
    first = plan(RECIPE, CASES)
    assert plan(RECIPE, CASES) == first
    assert [(group.sizes, group.num_groups) for group in first] == [((1,), 3)] * 3 + [((3,), 1)]
    assert tuple(group.cases[0] for group in first[:3]) == first[3].cases
    orders = {
        tuple(case.case_id for case in plan(RECIPE.with_changes(seed=seed), CASES)[-1].cases)
        for seed in range(6)
    }
    assert len(orders) > 1
    with pytest.raises(ConfigError, match="at most 5"):
        plan(RECIPE.with_changes(edits=(6,), groups=(1,)), CASES)


def test_there_are_no_more_groups_than_cases() -> None:
    found = plan(RECIPE.with_changes(edits=(2, 1), groups=(100,)), CASES)
    assert [(group.index, group.num_groups) for group in found] == [(0, 2), (1, 2)]


def test_scored_cases_are_spread_over_a_group() -> None:
    recipe = RECIPE.with_changes(edits=(4,), groups=(1,), scored_cases=2, free_cases=1)
    (group,) = plan(recipe, CASES)
    scored, free = group.scored(4)
    assert scored == [group.cases[0], group.cases[2]]
    assert free == {group.cases[0].case_id}
    (group,) = plan(recipe.with_changes(scored_cases=0, free_cases=0), CASES)
    assert group.scored(4) == (list(group.cases), frozenset())


def test_states_come_from_the_cache_when_asked(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    plain = RECIPE.with_changes(
        editors=("ft-l",), edits=(1,), groups=(3,), run_root=str(tmp_path), run_name="plain"
    )
    cached = plain.with_changes(states=plain.states.with_changes(is_cached=True))
    found = []
    for name, recipe in (("plain", plain), ("fills", cached), ("reads", cached)):
        recipe = recipe.with_changes(run_name=name)
        with state_source(recipe.states, recipe.run_root, backbone) as source:
            done = compare(recipe, backbone, {}, CASES, source, lambda text: None)
        found.append(to_tree(done)["rows"][0]["metrics"])
    assert found[0] == found[1] == found[2]
    assert list((tmp_path / "cache").rglob("*.lance"))


@pytest.mark.parametrize(
    ("family", "editors"),
    [("llava", "ft-l,lora,grace,ike,unedited"), ("qwen2_vl", "liveedit,lookup,ft-m,wise")],
)
def test_another_backbone_end_to_end(family: str, editors: str, run_root: Path) -> None:
    """A checkpoint folder by name, and a table of its editors."""
    folder = saved_family(family, run_root / family)
    config = TINY_CONFIG.with_changes(num_image_tokens=family_backbone(family).num_image_tokens)
    save_generator(tiny_generator(config), run_root / "generator")
    (run_root / "generator" / "training.json").write_text('{"seconds": 2.5}')
    quick = ["lora.max_steps=2", "grace.max_steps=2", "wise.max_steps=1", "fine_tuning.max_steps=2"]
    quick += ["projector_tuning.max_steps=2", "cold_edits=1"]
    counts = ["groups=[1]", "scored_cases=1", "free_cases=1"]
    cases = cases_file(run_root / "cases")
    named = [
        f"--backbone={folder}",
        f"--cases={cases}",
        f"--editors={editors}",
        "--edits=1",
        "--run-name=tiny",
    ]
    more = [f"run_root={run_root}", f"generator={run_root / 'generator'}", *counts, *quick]
    assert main([*named, *more, f"backbone.edit_layer={EDIT_LAYER}"]) == 0
    tree = json.loads((run_root / "tiny" / "comparison.json").read_text())
    assert [row["editor"].lower() for row in tree["rows"]] == editors.split(",")
    assert ("generator LiveEdit" in tree["digests"]) == ("liveedit" in editors)
    for row in tree["rows"]:
        assert row["train_s"] == (2.5 if row["editor"] in ("LiveEdit", "lookup") else None)
        assert {metric["protocol"] for metric in row["metrics"]} == set(PROTOCOLS)
