"""Micro-batches: the unit of work of training, and the only place where training is random.

A micro-batch depends on (seed, phase, step, number in the step) only, so any process may compute
it, and a resumed run draws the same ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.states import LayerStates
from liveedit_core.training.data import IndexedCase, TrainingData
from liveedit_core.training.recipe import Phase

MINIMUM_OWN_WEIGHT = 0.6
MAXIMUM_OTHER_WEIGHT = 0.3
EDIT_DOMAIN_PROBABILITY = 2 / 3

States = list[LayerStates]


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """For each edit: one question that it should answer and two that it should not."""

    edits: States
    own: States
    """The edit itself, its rephrasing, or its other image."""
    swapped: States
    """Another question about its image."""
    siblings: States
    """A question for another edit of the same entity."""


@dataclass(frozen=True, kw_only=True)
class ExpertBatch:
    """Edits, one question for each, and the weights of their experts."""

    edits: States
    questions: States
    weights_BB: Tensor
    """The own expert's weight is drawn from 0.6..1, and one other expert gets up to 0.3, as in soft
    routing at inference."""


@dataclass(frozen=True, kw_only=True)
class JointBatch:
    """The paper's batch: edits, their probes with mixture masks, views for the routing losses."""

    edits: States
    reliability: States
    text_generality: States
    modal_generality: States
    locality: States
    reliability_BB: Tensor
    text_generality_BB: Tensor
    modal_generality_BB: Tensor
    locality_BB: Tensor
    """Mixture masks, one per kind of probe."""
    same_input: States
    same_edit: States
    """Two views of one domain: input side, edit side."""
    distant_input: States
    distant_edit: States
    """Two views of different domains."""


MicroBatch = PromptBatch | ExpertBatch | JointBatch


def draw(
    data: TrainingData, phase: Phase, batch_size: int, *, seed: int, step: int, number: int
) -> MicroBatch:
    """The micro-batch of this number in a step of a phase."""
    # Number 0 has no suffix: these seeds are older than steps of several micro-batches.
    suffix = f" {number}" if number else ""
    rng = random.Random(f"{seed} {phase} {step}{suffix}")
    if phase == "experts":
        return draw_experts(data, batch_size, rng)
    chosen = rng.sample(range(len(data.cases)), min(batch_size, len(data.cases)))
    return draw_prompt(data, chosen, rng) if phase == "prompt" else draw_joint(data, chosen, rng)


def draw_prompt(data: TrainingData, chosen: Sequence[int], rng: random.Random) -> PromptBatch:
    """Questions about some cases; negatives are edits of one entity, as others may ask the same."""
    cases = [data.cases[i] for i in chosen]
    siblings = [
        rng.choice([s for s in data.siblings[case.entity] if s != i] or [i])
        for i, case in zip(chosen, cases, strict=True)
    ]
    own = [rng.choice((case.edit, *case.generality)) for case in cases]
    others = [
        rng.choice((data.cases[s].edit, *data.cases[s].generality)) if s != i else case.prompt_swap
        for i, s, case in zip(chosen, siblings, cases, strict=True)
    ]
    return PromptBatch(
        edits=data.states([case.edit for case in cases]),
        own=data.states(own),
        swapped=data.states([case.prompt_swap for case in cases]),
        siblings=data.states(others),
    )


def draw_experts(data: TrainingData, batch_size: int, rng: random.Random) -> ExpertBatch:
    """Half of the items are cases, half are pairs with random targets."""
    num_pairs = min(batch_size // 2, len(data.pairs))
    cases = rng.choices(data.cases, k=batch_size - num_pairs)
    pairs = rng.sample(data.pairs, num_pairs)
    edits = [case.edit for case in cases] + [pair.edit for pair in pairs]
    asked = [rng.choice((case.edit, *case.generality)) for case in cases]
    asked += [rng.choice((pair.edit, pair.query, pair.query)) for pair in pairs]
    weights_rng = torch.Generator().manual_seed(rng.getrandbits(60))
    own = torch.rand(batch_size, generator=weights_rng)
    own = own * (1 - MINIMUM_OWN_WEIGHT) + MINIMUM_OWN_WEIGHT
    other = torch.rand(batch_size, generator=weights_rng) * MAXIMUM_OTHER_WEIGHT
    other = other * (torch.rand(batch_size, generator=weights_rng) < 0.5)
    weights_BB = torch.diag(own) + torch.diag(other).roll(1, dims=1)
    return ExpertBatch(
        edits=data.states(edits), questions=data.states(asked), weights_BB=weights_BB
    )


def draw_joint(data: TrainingData, chosen: Sequence[int], rng: random.Random) -> JointBatch:
    """The paper's batch."""
    cases = [data.cases[i] for i in chosen]
    masks_rng = torch.Generator().manual_seed(rng.getrandbits(60))
    own = [mixture_mask(len(cases), has_own=True, generator=masks_rng) for _ in range(3)]
    distant = [rng.choice((*case.locality, case.prompt_swap)) for case in cases]
    same = [_same_domain(case, rng) for case in cases]
    different = [_different_domains(case, rng) for case in cases]
    edits = data.states([case.edit for case in cases])
    return JointBatch(
        edits=edits,
        reliability=edits,
        text_generality=data.states([case.generality[0] for case in cases]),
        modal_generality=data.states([case.generality[1] for case in cases]),
        locality=data.states(distant),
        reliability_BB=own[0],
        text_generality_BB=own[1],
        modal_generality_BB=own[2],
        locality_BB=mixture_mask(len(cases), has_own=False, generator=masks_rng),
        same_input=data.states([view for view, _ in same]),
        same_edit=data.states([view for _, view in same]),
        distant_input=data.states([view for view, _ in different]),
        distant_edit=data.states([view for _, view in different]),
    )


def mixture_mask(batch: int, *, has_own: bool, generator: torch.Generator) -> Tensor:
    """bool [B, B]: each item sees the first n experts, n uniform in 0..B, and may see its own."""
    counts_B1 = torch.randint(0, batch + 1, (batch, 1), generator=generator)
    mask_BB = torch.arange(batch)[None, :] < counts_B1
    return mask_BB | torch.eye(batch, dtype=torch.bool) if has_own else mask_BB


def _same_domain(case: IndexedCase, rng: random.Random) -> tuple[int, int]:
    """Two views of the edit with probability 2/3, else one locality probe twice (Eq. 13)."""
    if rng.random() < EDIT_DOMAIN_PROBABILITY:
        views = (case.edit, *case.generality)
        return rng.choice(views), rng.choice(views)
    probe = rng.choice(case.locality)
    return probe, probe


def _different_domains(case: IndexedCase, rng: random.Random) -> list[int]:
    """One view of the edit and one locality probe, in random order (Eq. 14)."""
    pair = [rng.choice((case.edit, *case.generality)), rng.choice(case.locality)]
    rng.shuffle(pair)
    return pair
