"""A step is the mean of its micro-batches, whoever computes them; weights and ablations count."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from liveedit_core.errors import NumericsError
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.training.micro_batches import draw
from liveedit_core.training.recipe import (
    LOSSES_OF_PHASE,
    PHASES,
    LossSection,
    OptimizationSection,
    Phase,
)
from liveedit_core.training.snapshot import MODEL, Snapshot
from liveedit_core.training.step import TrainingModule
from tests.tiny_backbone import TINY_CONFIG, tiny_backbone
from tests.tiny_training import beginning, plan, started_worker, tiny_data
from workers.training_worker import TrainingWorker

DATA = tiny_data()


def taken(made: TrainingWorker) -> Snapshot:
    snapshot = made.snapshot()
    assert snapshot is not None
    return snapshot


@pytest.mark.parametrize("phase", PHASES)
def test_accumulated_gradients_are_the_mean_over_micro_batches(phase: Phase) -> None:
    """After one step Adam's first moment is a tenth of the gradient."""
    start, training = beginning(phase), plan(accumulation=3)
    training = replace(training, optimization=OptimizationSection(max_gradient_norm=1e9))
    made = started_worker(training, start)
    (step,) = made.advance(1)
    module = TrainingModule(
        LiveEditGenerator(start.config), tiny_backbone().suffix(), training.losses
    )
    module.generator.load_state_dict(start.model)
    trained = module.train_only(phase)
    totals = []
    for number in range(3):
        total, _ = module(draw(DATA, phase, 3, seed=3, step=0, number=number))
        (total / 3).backward()
        totals.append(total.item())
    assert step.figures["total"] == pytest.approx(sum(totals) / 3)
    assert len({round(total, 4) for total in totals}) == 3
    moments = taken(made).moments
    for name, parameter in trained:
        assert parameter.grad is not None, name
        assert torch.allclose(moments[f"{name}.exp_avg"], parameter.grad / 10, atol=1e-6), name


@pytest.mark.parametrize(("largest", "expected"), [(0.25, 0.25), (1e9, None)])
def test_gradients_are_clipped_to_their_norm(largest: float, expected: float | None) -> None:
    bound = OptimizationSection(max_gradient_norm=largest)
    made = started_worker(plan(accumulation=1, optimization=bound), beginning("experts"))
    (step,) = made.advance(1)
    assert step.gradient_norm > 1
    moments = [value for name, value in taken(made).moments.items() if name.endswith("exp_avg")]
    norm = torch.cat([value.flatten() for value in moments]).norm().item() * 10
    assert norm == pytest.approx(expected or step.gradient_norm, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES_OF_PHASE["joint"])
def test_every_weight_and_only_its_loss_counts(name: str) -> None:
    """An ablation of the paper is a weight of 0."""
    start, training = beginning("joint"), plan(accumulation=1)
    (full,) = started_worker(training, start).advance(1)
    ablated = replace(training, losses=LossSection(**{name: 0.0}))  # type: ignore[arg-type]
    (without,) = started_worker(ablated, start).advance(1)
    assert without.figures[name] == pytest.approx(full.figures[name])
    expected = full.figures["total"] - full.figures[name]
    assert without.figures["total"] == pytest.approx(expected, abs=1e-4)


def test_the_kl_direction_changes_the_locality_loss() -> None:
    start, training = beginning("joint"), plan(accumulation=1)
    other = replace(training, losses=LossSection(kl_direction="edited_to_original"))
    (one,), (two,) = (
        started_worker(training, start).advance(1),
        started_worker(other, start).advance(1),
    )
    assert one.figures["locality"] != two.figures["locality"]
    assert one.figures["reliability"] == two.figures["reliability"]


def test_ablations_of_the_generator_are_trained_as_they_are_used() -> None:
    """Experts averaged, and the image compressed without the prompt."""
    averaged = TINY_CONFIG.with_changes(soft_routing="average")
    (paper,) = started_worker(plan(), beginning("joint", TINY_CONFIG)).advance(1)
    (mean,) = started_worker(plan(), beginning("joint", averaged)).advance(1)
    assert mean.figures["reliability"] != paper.figures["reliability"]
    assert mean.figures["soft_relative"] == paper.figures["soft_relative"]
    alone = TINY_CONFIG.with_changes(visual_query="learned")
    assert "phi_prompt" not in " ".join(beginning("joint", alone).tensors)
    steps = started_worker(plan(), beginning("joint", alone)).advance(2)
    assert steps[0].figures["total"] != steps[1].figures["total"]


def test_bfloat16_layers_leave_generator_and_losses_in_float32() -> None:
    training = plan(optimization=OptimizationSection(dtype="bfloat16"))
    made = started_worker(training, beginning("experts"))
    losses = [step.figures["nll"] for step in made.advance(20)]
    (exact,) = started_worker(plan(), beginning("experts")).advance(1)
    assert losses[0] == pytest.approx(exact.figures["nll"], rel=0.02)
    assert losses[0] != exact.figures["nll"]
    assert losses[-1] < losses[0]
    assert {value.dtype for value in taken(made).tensors.values()} == {torch.float32}


def test_a_loss_that_is_not_finite_ends_the_run_before_the_step() -> None:
    start = beginning("experts")
    broken = start.tensors[f"{MODEL}hidden_norm.weight"] * float("nan")
    tensors = start.tensors | {f"{MODEL}hidden_norm.weight": broken}
    made = started_worker(plan(), replace(start, tensors=tensors))
    with pytest.raises(NumericsError, match="phase experts, step 0: total, nll"):
        made.advance(1)
    assert torch.equal(taken(made).model["up_generator.query"], start.model["up_generator.query"])


def test_one_process_needs_no_deepspeed() -> None:
    # in a process of its own: other tests may have imported it
    code = (
        "import sys\n"
        "from tests.tiny_training import beginning, plan, started_worker\n"
        "started_worker(plan(), beginning('experts')).advance(1)\n"
        "assert 'deepspeed' not in sys.modules\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)
