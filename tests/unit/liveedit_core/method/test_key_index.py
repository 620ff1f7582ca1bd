"""The index of large banks: what it finds is there, whatever was added, removed or read anew."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import ConfigError
from liveedit_core.method import key_index as module
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.expert import Expert
from liveedit_core.method.growing import GrowingRepository
from liveedit_core.method.key_index import Codebook, KeyIndex, MissCounter
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.shortlist import Search, as_they_are, scan
from liveedit_core.row_lists import Codes
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG, request, tiny_generator

CONFIG = TINY_CONFIG.with_changes(
    num_queries=4,
    module_dim=32,
    visual_source="tower_pyramid",
    visual_filter="runner_up",
    visual_size=64,
    visual_rank=32,
    visual_gate=0.0,
    max_kept=6,
)
"""Rows of 32 numbers."""
COUNT = 3000


@pytest.fixture(autouse=True)
def _small_banks_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_EXPERTS", 500)
    monkeypatch.setattr(module, "LEAST_NEW", 100)
    monkeypatch.setattr(module, "SHARE", 1)  # rows of 32 numbers are less unlike than of 256


@pytest.fixture
def everything_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes decide nothing."""
    monkeypatch.setattr(module, "_MARGIN", 1e9)


def units(seed: int, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, CONFIG.visual_rank, generator=draw), dim=-1)


def bank_of(visual: Tensor, first: int = 0, config: GeneratorConfig = CONFIG) -> ExpertRepository:
    return replace(
        ExpertRepository.empty(config),
        edit_ids=tuple(f"edit {first + n}" for n in range(len(visual))),
        visual=visual,
        prompt=torch.zeros(len(visual), config.feature_size),
        ranks_N=torch.zeros(len(visual), dtype=torch.int64),
    )


def expert(seed: int) -> Expert:
    return Expert(
        edit_id=f"added {seed}",
        visual_feature_QM=units(seed, 1),
        prompt_feature_QM=torch.zeros(4, 32),
        down_RD=torch.zeros(1, CONFIG.hidden_size),
        up_RD=torch.zeros(1, CONFIG.hidden_size),
    )


def search_for(
    rows_QR: Tensor, least: float, keep: float | None = None, offset: float = 0.0
) -> Search:
    """Rows of different images."""
    numbers = (least, least if keep is None else keep, offset)
    levels = [torch.full((len(rows_QR),), number) for number in (*numbers, 1.0)]
    return Search(rows_QR, levels[0], levels[1], levels[2], levels[3], torch.arange(len(rows_QR)))


def index_of(repository: ExpertRepository, before: KeyIndex | None = None) -> KeyIndex:
    index = KeyIndex.of(repository, CONFIG, before)
    assert index is not None
    return index


def found(index: KeyIndex, search: Search, repository: ExpertRepository) -> Tensor:
    position_U = index.find(search, repository, CONFIG)
    assert position_U is not None
    return position_U


def codes_of(index: KeyIndex) -> Codes:
    return np.concatenate([block.codes for block in index.blocks])


def test_what_is_found_is_in_a_full_scan_and_near_rows_are_found() -> None:
    images = units(0, COUNT)
    bank = bank_of(images)
    index = index_of(bank)
    near = functional.normalize(images[:200] + 0.5 * units(1, 200), dim=1)
    for least in (-0.2, 0.3, 0.7, 0.95):
        for rows_QR in near.split(2):
            search = search_for(rows_QR, least)
            listed = set(found(index, search, bank).tolist())
            assert listed <= set(scan(search, as_they_are(bank.visual)).position_U.tolist())
    is_found = [
        n in found(index, search_for(row_R[None], 0.7), bank).tolist()
        for n, row_R in enumerate(near)
    ]
    assert sum(is_found) > 0.9 * len(near)


@pytest.mark.usefixtures("everything_compared")
@pytest.mark.parametrize("least", [-0.5, 0.0, 0.4, 0.9])
def test_it_is_the_full_scan_where_all_rows_are_compared(least: float) -> None:
    bank = bank_of(units(0, COUNT))
    index = index_of(bank)
    for seed in range(5):
        search = search_for(units(seed + 1, 2), least)
        whole = scan(search, as_they_are(bank.visual)).position_U
        assert torch.equal(found(index, search, bank), whole)
    nothing = search_for(units(0, 0), least)
    assert not len(found(index, nothing, bank))


@pytest.mark.usefixtures("everything_compared")
def test_grown_by_windows_it_is_the_one_made_at_once() -> None:
    growing = GrowingRepository(bank_of(units(0, 600)))
    indices, snapshots = [index_of(growing.snapshot())], [growing.snapshot()]
    for window in (99, 1, 400, 150, 5000, 30):
        growing.add([expert(len(growing) + n) for n in range(window)])
        snapshots.append(growing.snapshot())
        indices.append(index_of(snapshots[-1], indices[-1]))
    last, bank = indices[-1], snapshots[-1]
    assert indices[1].blocks == indices[0].blocks  # too few are new
    at_once = replace(bank, visual=bank.visual_features_NK)
    codes = last.codebook.coded(at_once.visual_features_NK)
    assert np.array_equal(codes_of(last), codes[: len(codes_of(last))])
    assert len(bank.edit_ids) - last.num_experts == 30
    sizes = [len(block.codes) for block in last.blocks]
    assert all(2 * small <= large for large, small in itertools.pairwise(sizes))
    for least in (0.2, 0.6):
        search = search_for(units(7, 3), least)
        whole = scan(search, as_they_are(at_once.visual)).position_U
        assert torch.equal(found(last, search, bank), whole)
        # What was handed out before finds what it held.
        for index, snapshot in zip(indices, snapshots, strict=True):
            before = whole[whole < len(snapshot.edit_ids)]
            assert torch.equal(found(index, search, snapshot), before)


def test_what_another_version_shares_is_not_coded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    visual = units(0, COUNT)
    index = index_of(bank_of(visual))
    num_coded = []
    coded = Codebook.coded

    def counted(codebook: Codebook, rows_XR: Tensor) -> Codes:
        num_coded.append(len(rows_XR))
        return coded(codebook, rows_XR)

    monkeypatch.setattr(Codebook, "coded", counted)
    kept = torch.arange(COUNT) % 3 != 0
    later = bank_of(visual).take(kept.nonzero().flatten().tolist())
    later = later.joined(bank_of(units(1, 250), first=COUNT))
    other = index_of(later, index)
    assert num_coded == [250]
    rows_XR = later.visual_features_NK
    assert np.array_equal(codes_of(other), coded(index.codebook, rows_XR))
    num_coded.clear()
    assert index_of(later, other).blocks == other.blocks
    assert not num_coded


def test_where_so_many_are_similar_that_a_scan_is_as_fast_there_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHARE", 8)
    images = units(0, COUNT)
    images[:2900] = images[0]
    bank = bank_of(images, first=COUNT)
    index = index_of(bank, index_of(bank_of(units(1, COUNT))))
    assert index.find(search_for(images[:1], 0.9), bank, CONFIG) is None
    alone = found(index, search_for(images[2950:2951], 0.9), bank)
    assert alone.tolist() == [2950]


def test_runners_up_are_found_where_something_may_be_kept() -> None:
    images = units(0, COUNT)
    asked_QR = units(1, 2)
    near, far = (functional.normalize(asked_QR + share * units(2, 2), dim=1) for share in (0.3, 1))
    images[7], images[8] = near[0], far[0]
    images[9] = far[1]
    bank = bank_of(images)
    index = index_of(bank)
    cosine = float(asked_QR[0] @ far[0])
    search = search_for(asked_QR, cosine - 0.05, keep=0.9, offset=0.5)
    # The first question may keep an edit, and the other one with a similar image may be in its way.
    assert found(index, search, bank).tolist() == [7, 8]
    # As two views of one image: another view may be as like the edit that is in its way.
    views = search._replace(image_Q=torch.zeros(2, dtype=torch.int64))
    assert found(index, views, bank).tolist() == [7, 8, 9]
    nothing = search_for(asked_QR, cosine - 0.05, keep=0.99, offset=0.5)
    assert not len(found(index, nothing, bank))


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_removed_edit_or_the_very_image_hides_no_runner_up(
    monkeypatch: pytest.MonkeyPatch, is_removed: bool
) -> None:
    monkeypatch.setattr(module, "_FIRST_COSINE", 2)  # runners-up are found apart
    monkeypatch.setattr(module, "_MARGIN", 0.5)  # and not by chance
    images = units(0, COUNT)
    asked_QR = units(1, 1)
    for place, cosine in enumerate((0.95 if is_removed else 1.0, 0.67, 0.37), 7):
        other_R = units(2 + place, 1)[0]
        other_R = functional.normalize(other_R - (other_R @ asked_QR[0]) * asked_QR[0], dim=0)
        images[place] = cosine * asked_QR[0] + (1 - cosine**2) ** 0.5 * other_R
    bank = bank_of(images)
    if is_removed:
        bank = replace(bank, held_N=torch.arange(COUNT) != 7)
    search = search_for(asked_QR, 0.3, keep=0.6, offset=0.4)
    assert {8, 9} <= set(found(index_of(bank), search, bank).tolist())


def test_an_edit_that_is_not_coded_yet_may_be_kept_as_well() -> None:
    images = units(0, COUNT)
    asked_QR = units(1, 1)
    images[7] = functional.normalize(asked_QR[0] + 0.7 * units(2), dim=0)
    growing = GrowingRepository(bank_of(images))
    index = index_of(growing.snapshot())
    near_1R = functional.normalize(asked_QR + 0.2 * units(3, 1), dim=1)
    growing.add([replace(expert(0), visual_feature_QM=near_1R)])
    search = search_for(asked_QR, 0.75, keep=0.9, offset=0.4)
    assert found(index, search, growing.snapshot()).tolist() == [7, COUNT]


def test_only_large_banks_whose_kept_edits_are_bounded_have_one() -> None:
    bank = bank_of(units(0, 600))
    assert KeyIndex.of(bank, CONFIG) is not None
    assert KeyIndex.of(bank.take(range(499)), CONFIG) is None
    assert KeyIndex.of(bank, CONFIG.with_changes(max_kept=0)) is None
    assert KeyIndex.of(bank, CONFIG.with_changes(has_hard_filter=False)) is None


def crowded(editor: Editor) -> Editor:
    """Beside many others."""
    config, edits = editor.generator.config, editor.repository
    draw = torch.Generator().manual_seed(3)
    others = bank_of(torch.randn(1500, config.feature_size, generator=draw), config=config)
    return editor.with_repository(edits.joined(others))


@pytest.mark.usefixtures("everything_compared")
def test_routing_with_the_index_is_routing_without(backbone: VisionLanguageBackbone) -> None:
    config = OUR_CONFIG.with_changes(max_kept=6)
    requests = [request(seed) for seed in range(5)]
    generator, nothing = tiny_generator(config), ExpertRepository.empty(config)
    with_index, without = (
        crowded(Editor(backbone, generator, nothing, index=mode).with_edits(requests))
        for mode in ("auto", "off")
    )
    states = backbone.encode([edit_input(edit) for edit in requests])
    for state in states:
        routings = [editor.route([state]) for editor in (with_index, without)]
        one, other = (
            editor.explain(routing)
            for editor, routing in zip((with_index, without), routings, strict=True)
        )
        assert one == other
    misses = with_index.misses
    misses.wait()
    assert (misses.num_questions, without.misses.num_questions) == (5, 0)
    assert (misses.num_checked, misses.num_missed, misses.num_added) == (1, 0, 0)
    # An edit that was removed is not listed, and is found again where it is held again.
    removed = replace(with_index.repository, held_N=torch.arange(1505) > 0)
    held = [
        0 in editor.route([states[0]]).position_N.tolist()
        for editor in (with_index, with_index.with_repository(removed), with_index)
    ]
    assert held == [True, False, True]


def test_an_unknown_mode_is_refused(backbone: VisionLanguageBackbone) -> None:
    generator = tiny_generator(OUR_CONFIG)
    with pytest.raises(ConfigError, match="index is one of auto, off, got 'on'"):
        Editor(backbone, generator, ExpertRepository.empty(OUR_CONFIG), index="on")  # type: ignore[arg-type]


def test_one_question_of_so_many_is_checked_and_counted() -> None:
    misses = MissCounter(every=4)
    checked = []
    for _ in range(9):
        misses.sample(1, lambda: (5, 2, 1))
        misses.wait()
        checked.append(misses.num_checked)
    assert checked == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert misses.num_questions == 9
    assert (misses.num_checked, misses.num_passed) == (3, 15)
    assert (misses.num_missed, misses.num_added) == (6, 3)


def test_missed_edits_are_counted(backbone: VisionLanguageBackbone) -> None:
    config = OUR_CONFIG.with_changes(max_kept=6)
    editor = Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))
    editor = crowded(editor.with_edits([request(seed) for seed in range(3)]))
    states = backbone.encode([edit_input(request(1))])
    features = editor.generator.input_features(states)
    passed, missed, added = editor._missed(features, torch.arange(len(editor.repository)))
    assert passed > 0
    assert (missed, added) == (0, 0)
    assert editor._missed(features, torch.zeros(0, dtype=torch.int64)) == (passed, passed, 0)
