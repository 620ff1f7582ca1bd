"""Schedules by hand, and recipes that cannot be meant."""

import math

import pytest

from liveedit_core.errors import ConfigError
from liveedit_core.training.recipe import LossSection, PhaseSection, TrainingPlan


def test_one_cycle_rises_and_falls_over_the_steps_that_are_left() -> None:
    section = PhaseSection(steps=10, learning_rate=2.0, warmup_fraction=0.2)
    assert [section.rate(step) for step in range(2)] == [1.0, 2.0]
    assert section.rate(2) == 2.0
    assert section.rate(6) == pytest.approx(1.0)
    assert section.rate(9) == pytest.approx(1 + math.cos(math.pi * 7 / 8))


def test_cosine_falls_over_all_steps() -> None:
    section = PhaseSection(steps=8, learning_rate=2.0, schedule="cosine", warmup_fraction=0.0)
    assert section.rate(0) == 2.0
    assert section.rate(4) == pytest.approx(1.0)


def test_milestones_are_steps_at_which_the_rate_falls() -> None:
    section = PhaseSection(
        steps=20,
        learning_rate=1.0,
        schedule="milestones",
        warmup_fraction=0.1,
        milestones=(10, 15),
        milestone_factor=0.5,
    )
    rates = [section.rate(step) for step in (0, 1, 2, 9, 10, 14, 15, 19)]
    assert rates == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_a_phase_with_steps_needs_a_loss() -> None:
    off = LossSection(soft_absolute=0.0, soft_relative=0.0)
    idle, busy = PhaseSection(), PhaseSection(steps=1)
    TrainingPlan(seed=0, phases={"prompt": idle, "joint": busy}, losses=off)
    with pytest.raises(ConfigError, match=r"'prompt'.*soft_relative, soft_absolute"):
        TrainingPlan(seed=0, phases={"prompt": busy}, losses=off)


def test_what_remains_after_a_position() -> None:
    phases = {
        "prompt": PhaseSection(steps=4),
        "experts": PhaseSection(),
        "joint": PhaseSection(steps=2),
    }
    plan = TrainingPlan(seed=0, phases=phases)  # type: ignore[arg-type]
    assert plan.remaining("prompt", 0) == [("prompt", 0), ("joint", 0)]
    assert plan.remaining("prompt", 3) == [("prompt", 3), ("joint", 0)]
    assert plan.remaining("prompt", 4) == [("joint", 0)]
    assert plan.remaining("joint", 2) == []
