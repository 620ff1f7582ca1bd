"""Routing figures worked out by hand, and the warnings that follow from them."""

import pytest
import torch

from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from liveedit_core.training.diagnostics import (
    RoutedProbe,
    expert_norms,
    routing_figures,
    routing_samples,
    routing_warnings,
)
from liveedit_core.training.recipe import DiagnosticsRecipe

LIMITS = DiagnosticsRecipe()


def probe(kind: ProbeKind, margins: list[float], gates: list[float], own: int = 0) -> RoutedProbe:
    """A probe over a bank of four: experts 0 and 1 know its entity; gates under a half are shut."""
    margin_N, gate_N = torch.tensor(margins).float(), torch.tensor(gates)
    return RoutedProbe(
        kind=kind,
        own=own,
        same_entity=(0, 1),
        kept_N=(margin_N > 0) & (gate_N >= 0.5),
        margin_N=margin_N,
        gate_N=gate_N,
    )


PROBES = [
    probe(ProbeKind.RELIABILITY, [2, 1, -1, -3], [0.9, 0.6, 0.9, 0.9]),
    probe(ProbeKind.MODAL_GENERALITY, [-1, -2, -4, -3], [0.8, 0.8, 0.8, 0.8]),
    probe(ProbeKind.IMAGE_SWAP_LOCALITY, [-1, 1, -2, -3], [0.9, 0.1, 0.9, 0.9]),
    probe(ProbeKind.MODAL_LOCALITY, [-1, -1, -2, -3], [0.9, 0.9, 0.9, 0.9]),
    probe(ProbeKind.PROMPT_SWAP_LOCALITY, [2, 1, -1, 1], [0.2, 0.7, 0.9, 0.9]),
]


def test_figures() -> None:
    assert routing_figures(PROBES) == {
        "own_kept": 0.5,
        "own_kept_other_drawing": 0.0,
        "empty_candidates": 0.5,
        "no_image_match": 0.5,
        "sentinel_beaten": 0.5,
        "other_question_answered": 0.0,
        "kept_fraction": pytest.approx((2 + 2) / 20),
    }


def test_figures_without_samples_are_left_out() -> None:
    expected = {"own_kept", "empty_candidates", "no_image_match", "kept_fraction"}
    assert set(routing_figures(PROBES[:1])) == expected


def test_a_shut_gate_is_no_missing_image() -> None:
    shut = [probe(ProbeKind.RELIABILITY, [2, 1, -1, -3], [0.1, 0.1, 0.9, 0.9])]
    figures = routing_figures(shut)
    assert (figures["empty_candidates"], figures["no_image_match"]) == (1.0, 0.0)
    (warning,) = routing_warnings(figures, LIMITS)
    assert "prompt gates are shut" in warning


def test_histograms_show_own_and_other_experts_apart() -> None:
    samples = routing_samples(PROBES)
    assert samples.own_margins == (2.0, -1.0)
    # the best of experts 2 and 3 where the entity is in the image, else the best of all
    assert samples.other_entity_margins == (-1.0, -3.0, 1.0, -1.0, 1.0)
    assert samples.num_kept == (2, 0)
    assert samples.num_kept_other_image == (0, 0)
    assert samples.own_gates == pytest.approx((0.9, 0.8))
    assert samples.other_question_gates == pytest.approx((0.2,))


def test_expert_norm_is_that_of_the_whole_map() -> None:
    torch.manual_seed(0)
    down_LD, up_LD, ranks = torch.randn(6, 5), torch.randn(6, 5), [1, 3, 2]
    repository = ExpertRepository(
        edit_ids=("a", "b", "c"),
        visual=torch.zeros(3, 4),
        prompt=torch.zeros(3, 4),
        ranks_N=torch.tensor(ranks),
        down=down_LD,
        up=up_LD,
    )
    pairs = zip(down_LD.split(ranks), up_LD.split(ranks), strict=True)
    expected = [float((2.0 * down.T @ up).norm()) for down, up in pairs]
    assert expert_norms(repository, 2.0).tolist() == pytest.approx(expected, rel=1e-5)


HEALTHY = {
    "empty_candidates": 0.01,
    "kept_fraction": 0.02,
    "expert_norm_median": 1.0,
    "expert_norm_max": 3.0,
}


def test_a_healthy_generator_gives_no_warning() -> None:
    assert routing_warnings(HEALTHY, LIMITS, first_norm=0.5) == []


@pytest.mark.parametrize(
    ("change", "first_norm", "words"),
    [
        ({"empty_candidates": 0.43}, 0.0, "No expert is kept for 43%"),
        ({"kept_fraction": 0.97}, 0.0, "97% of the bank passes"),
        ({"expert_norm_max": 21.0}, 0.0, "largest expert has norm 21"),
        ({}, 0.01, "grew from 0.01 to 1"),
    ],
)
def test_each_fault_is_reported(change: dict[str, float], first_norm: float, words: str) -> None:
    (warning,) = routing_warnings({**HEALTHY, **change}, LIMITS, first_norm=first_norm)
    assert words in warning
