"""Draws of training: mixture masks, and the views of the routing losses (METHOD.md 5)."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

EDIT_DOMAIN_PROBABILITY = 2 / 3


def mixture_mask(batch: int, *, has_own: bool, generator: torch.Generator) -> Tensor:
    """Which of a batch's B experts an item sees: its own (unless it is a locality item) and the
    first n, n uniform in 0..B, drawn per item.

    Returns:
        bool [B, B].
    """
    counts_B1 = torch.randint(0, batch + 1, (batch, 1), generator=generator)
    mask_BB = torch.arange(batch)[None, :] < counts_B1
    return mask_BB | torch.eye(batch, dtype=torch.bool) if has_own else mask_BB


@dataclass(frozen=True, kw_only=True)
class Views:
    """Per item of a batch, the table positions of two views: input side and edit side."""

    input_side: list[int]
    edit_side: list[int]


def draw_same_domain(
    edit_views: list[tuple[int, ...]], locality_views: list[tuple[int, ...]], rng: random.Random
) -> Views:
    """Two views per item from one domain: "edit" with probability 2/3, else "locality" (both views
    the same probe)."""
    first, second = [], []
    for edits, localities in zip(edit_views, locality_views, strict=True):
        if rng.random() < EDIT_DOMAIN_PROBABILITY:
            first.append(rng.choice(edits))
            second.append(rng.choice(edits))
        else:
            probe = rng.choice(localities)
            first.append(probe)
            second.append(probe)
    return Views(input_side=first, edit_side=second)


def draw_different_domains(
    edit_views: list[tuple[int, ...]], locality_views: list[tuple[int, ...]], rng: random.Random
) -> Views:
    """One view of each domain per item, order drawn; for the sentinel loss (Eq. 14)."""
    first, second = [], []
    for edits, localities in zip(edit_views, locality_views, strict=True):
        pair = [rng.choice(edits), rng.choice(localities)]
        rng.shuffle(pair)
        first.append(pair[0])
        second.append(pair[1])
    return Views(input_side=first, edit_side=second)
