"""Losses by hand (Eq. 8 to 15); the others are in tests/properties and tests/parity."""

import math

import pytest
import torch

from liveedit_core.training.losses import gate_loss, info_nce


def log_sum(*values: float) -> float:
    return math.log(sum(math.exp(value) for value in values))


def test_info_nce_takes_the_diagonal_or_given_columns() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.5, 1.0]])
    diagonal = (log_sum(1, 2, 0) - 1 + log_sum(3, 0.5, 1) - 0.5) / 2
    assert info_nce(scores).item() == pytest.approx(diagonal, rel=1e-5)
    chosen = (log_sum(1, 2, 0) - 0 + log_sum(3, 0.5, 1) - 3) / 2
    assert info_nce(scores, torch.tensor([2, 0])).item() == pytest.approx(chosen, rel=1e-5)


def test_saturated_scores_stay_finite() -> None:
    """1e-8 inside every log: a hopeless pair costs about 18, not infinity."""
    worst = gate_loss(torch.tensor([-500.0]), torch.tensor([500.0]))
    assert worst.item() == pytest.approx(-2 * math.log(1e-8), rel=1e-4)
    assert math.isfinite(info_nce(torch.tensor([[0.0, 900.0], [0.0, 0.0]])).item())
