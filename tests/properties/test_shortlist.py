"""Routing over a shortlist is routing over all experts."""

from dataclasses import replace
from unittest.mock import patch

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from liveedit_core.method import shortlist as module
from liveedit_core.method.config import NUM_VIEWS, GeneratorConfig
from liveedit_core.method.features import Features
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.quantized import QuantizedRows, QuantizedSegment
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import RoutingBatch, route
from liveedit_core.method.shortlist import shortlist
from tests.properties.strategies import configs, seeds, states
from tests.random_states import random_expert
from tests.tiny_backbone import TINY_CONFIG, tiny_generator

RUNNER_UP = TINY_CONFIG.with_changes(
    visual_source="tower_pyramid",
    visual_filter="runner_up",
    visual_size=8,
    visual_rank=4,
    visual_gate=0.0,
    num_sentinels=5,
    min_gate=0.0,
)


def in_int8(bank: ExpertRepository) -> list[QuantizedSegment]:
    """All features in segments of six experts and blocks of three."""
    return [
        QuantizedSegment(
            segment_NK,
            tuple(
                QuantizedRows.of(part_NK, 3 * number)
                for number, part_NK in enumerate(segment_NK.split(3))
                if len(part_NK)
            ),
        )
        for segment_NK in bank.visual_features_NK.split(6)
    ]


def routed(
    generator: LiveEditGenerator, features: Features, bank: ExpertRepository, offset: float
) -> list[RoutingBatch]:
    """Over all experts that are held, over the shortlist, over that of a scan in int8, and over
    what decides anything of it."""
    config, weight = generator.config, generator.margin_weight()
    found = []
    positions = [
        bank.held_positions,
        shortlist(features, bank, config, offset=offset),
        shortlist(features, bank, config, offset=offset, scanned=in_int8(bank)),
    ]
    with patch.object(module, "LEAST_DECIDED", 0):
        positions.append(shortlist(features, bank, config, offset=offset))
        scanned = in_int8(bank)
        positions.append(shortlist(features, bank, config, offset=offset, scanned=scanned))
    for position_U in positions:
        keys = bank.visual[position_U], bank.prompt[position_U]
        routing = route(features, *keys, config, weight, offset=offset)
        found.append(replace(routing, position_N=position_U))
    return found


def assert_same(whole: RoutingBatch, *others: RoutingBatch) -> None:
    """Bit for bit, as similarities do not depend on what else is compared."""
    for some in others:
        place_of = {place: n for n, place in enumerate(whole.position_N.tolist())}
        columns = [place_of[place] for place in some.position_N.tolist()]
        unlisted = sorted(set(range(len(place_of))) - set(columns))
        assert not whole.kept_BN[:, unlisted].any()
        for name in ("kept_BN", "weights_BN", "prompt_BN"):
            assert torch.equal(getattr(whole, name)[:, columns], getattr(some, name)), name
        kept = some.kept_BN
        assert torch.equal(whole.margin_BN[:, columns][kept], some.margin_BN[kept])


@given(st.data(), configs, seeds, st.integers(0, 12))
@settings(max_examples=40)
def test_as_in_the_paper(
    data: st.DataObject, config: GeneratorConfig, seed: int, count: int
) -> None:
    generator = tiny_generator(config, seed)
    features = generator.input_features(data.draw(states(config, 1, 4)))
    experts = [random_expert(seed + n, config, 1 + n % 3) for n in range(count)]
    bank = ExpertRepository.from_experts(config, experts)
    assert_same(*routed(generator, features, bank, 0.0))


@given(
    seeds,
    st.integers(0, 60),
    st.floats(-0.4, 0.6),
    st.floats(0.2, 3.0),
    st.booleans(),
    st.sampled_from([0, 2]),
)
@example(2575, 20, 0.0, 1.6593640823069298, False, 0)  # the very image, up to rounding
@settings(max_examples=150)
def test_beside_the_runner_up(
    seed: int, count: int, offset: float, spread: float, has_removed: bool, max_kept: int
) -> None:
    """Images that are alike, mirrored ones, several edits of one image, figures in questions."""
    generator, features, bank = _runner_up_bank(seed, count, spread, has_removed, max_kept)
    assert_same(*routed(generator, features, bank, offset))


@given(seeds, st.integers(1, 60), st.floats(-0.4, 0.6), st.booleans(), st.sampled_from([0, 2]))
@settings(max_examples=100)
def test_textual_edits_change_nothing_of_the_others(
    seed: int, count: int, offset: float, has_removed: bool, max_kept: int
) -> None:
    """Nor does a question without an image keep an edit that has one."""
    generator, features, bank = _runner_up_bank(seed, count, 0.5, has_removed, max_kept)
    draw = torch.Generator().manual_seed(seed)
    is_textual_N = torch.rand(count, generator=draw) < 0.3
    bank = replace(
        bank,
        visual=bank.visual_features_NK.masked_fill(is_textual_N[:, None], 0),
        is_textual_N=is_textual_N if is_textual_N.any() else None,
    )
    is_shown_B = torch.arange(6) > 1
    features = features.mapped(lambda part: part * is_shown_B[:, None, None])
    features = features._replace(prompt_BQM=torch.randn(features.prompt_BQM.shape, generator=draw))
    whole, *others = routed(generator, features, bank, offset)
    assert_same(whole, *others)
    is_textual_U = is_textual_N[bank.held_positions]
    visual = bank.held_positions[~is_textual_U]
    shown = features.mapped(lambda part: part[is_shown_B])
    alone, *_ = routed(generator, shown, bank.take(visual.tolist()), offset)
    among = whole.kept_BN[:, ~is_textual_U]
    assert torch.equal(among[is_shown_B], alone.kept_BN)
    assert torch.equal(whole.margin_BN[:, ~is_textual_U][is_shown_B], alone.margin_BN)
    assert not among[~is_shown_B].any()
    is_unmixed_B = ~whole.kept_BN[:, is_textual_U].any(1)[is_shown_B]
    weights = whole.weights_BN[:, ~is_textual_U][is_shown_B]
    assert torch.equal(weights[is_unmixed_B], alone.weights_BN[is_unmixed_B])
    if not max_kept:
        passes = whole.prompt_BN[:, is_textual_U].sigmoid() >= generator.config.min_gate
        assert torch.equal(whole.kept_BN[:, is_textual_U], passes)


def _runner_up_bank(
    seed: int, count: int, spread: float, has_removed: bool, max_kept: int
) -> tuple[LiveEditGenerator, Features, ExpertRepository]:
    draw = torch.Generator().manual_seed(seed)
    generator = tiny_generator(RUNNER_UP.with_changes(min_gate=0.3, max_kept=max_kept), seed)
    key = generator.visual_key
    common = torch.randn(4, generator=draw)
    side = -1.0 if torch.rand(1, generator=draw) < 0.3 else 1.0
    key.sentinels.data = side * (spread * torch.randn(5, 4, generator=draw) + common)

    def units(*shape: int) -> torch.Tensor:
        return functional.normalize(
            spread * torch.randn(*shape, 4, generator=draw) + common, dim=-1
        )

    edited_N1R = units(count, 1)
    for n in range(1, count):
        if torch.rand(1, generator=draw) < 0.3:
            edited_N1R[n] = edited_N1R[n - 1]
    counts = [1, 2] * 3  # every other question has a figure
    asked_XVR = units(sum(counts), NUM_VIEWS)
    if count:
        asked_XVR[0, 0], asked_XVR[1, 1] = edited_N1R[0, 0], edited_N1R[-1, 0]
    if torch.rand(1, generator=draw) < 0.3:
        asked_XVR = asked_XVR[:, :1]  # nobody knows how images turn
    visual, nearest, same = key.features_of(asked_XVR, counts, is_edit=False)
    prompts = torch.randn(6, RUNNER_UP.num_queries, RUNNER_UP.module_dim, generator=draw)
    features = Features(visual, prompts, nearest, same)
    bank = replace(
        ExpertRepository.empty(RUNNER_UP),
        edit_ids=tuple(map(str, range(count))),
        visual=edited_N1R.flatten(1) * key.length,
        prompt=torch.randn(count, RUNNER_UP.feature_size, generator=draw),
        ranks_N=torch.zeros(count, dtype=torch.int64),
    )
    if has_removed:
        bank = replace(bank, held_N=torch.rand(count, generator=draw) < 0.7)
    return generator, features, bank
