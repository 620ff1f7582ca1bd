"""The offset of a runner-up filter, from a bank's strangers and a budget of false activations.

For each other, the images of a bank's edits are images of other things in the user's world. So a
sample of them is asked against the others, each with its own prompt, and the offset is what the
stated share of them exceeds. Unlabelled images of the user's traffic, where a bank has them, are
asked in their place, each with the prompt of one edit; those that may be edited ones
(`same_image_ratio`) are left out.

    m(i)      =  the largest cos(i, n) - 0.75 * r(i, n) over edits n of other images that the prompt
                 passes (`routing`)
    offset    =  u + mean excess of m over u * ln(0.2 / budget),  u = the 80 % quantile of m

The tail above u is taken as exponential, which varies less than an extreme quantile. Where edits
show one thing in several images, these are no strangers for each other: without traffic the offset
is at most `SIBLING_ALLOWANCE` above that of m without the most similar image of each i. Few images
say little: the offset of the generator counts as much as `PRIOR_IMAGES` of them. In a bank of more
edits than the sample, the budget is smaller in proportion. The result depends
on the set of edits and the traffic alone: not on the order of edits, not on later ones.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository, hashes_of
from liveedit_core.method.routing import (
    of_one_image,
    products,
    runner_up_margins,
    similarity,
    unit_of,
)

MAX_IMAGES = 1000
"""Edits in the sample, and images of the traffic; the cost does not grow beyond."""
LEAST_IMAGES = 20
"""Fewer edits say nothing about each other."""
PRIOR_IMAGES = 30
SIBLING_ALLOWANCE = 0.12
"""Without such edits the two offsets differ by 0.1 on average (METHOD.md)."""
TURNED_ALLOWANCE = 0.01
"""What the further views of a question add to m, where its key knows them: so much larger were the
offsets of banks whose edits were compared in all views (METHOD.md)."""
TAIL = 0.2
"""Share of the sample that makes the tail."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How strict the visual filter of a bank is."""

    false_activation: float
    """Budget: share of questions about other images that may keep an expert."""
    offset: float
    source: Literal["generator", "bank", "images", "paper"]
    """"images": those of the traffic; "generator": the bank is too small to say it; "paper": the
    filter has no offset."""
    num_images: int = 0
    """Strangers that were asked."""


@dataclass(frozen=True)
class Strangers:
    """What a sample of a bank says, whatever the budget."""

    visual_SK: Tensor
    prompt_SK: Tensor
    """Features of the edits with the smallest hashes."""
    traffic_MR: Tensor | None
    margins: tuple[Tensor, ...]
    """m of each stranger; without traffic also m without the most similar image."""

    def is_of(self, visual_SK: Tensor, prompt_SK: Tensor, traffic_MR: Tensor | None) -> bool:
        return (
            self.traffic_MR is traffic_MR
            and torch.equal(self.visual_SK, visual_SK)
            and torch.equal(self.prompt_SK, prompt_SK)
        )


@torch.no_grad()
def strangers_of(
    generator: LiveEditGenerator, repository: ExpertRepository, known: Strangers | None = None
) -> Strangers:
    """The strangers of a bank with a runner-up filter; `known`, if they are those."""
    sample, traffic_MR = _sample(repository), repository.traffic_MR
    stored = repository.visual[sample], repository.prompt[sample]
    if known is not None and known.is_of(*stored, traffic_MR):
        return known
    is_first_S = ~of_one_image(stored[0], stored[0], generator.config).tril(-1).any(1)
    some = stored[0][is_first_S], stored[1][is_first_S]
    if not len(some[0]):
        margins: tuple[Tensor, ...] = (torch.zeros(0),)
    elif traffic_MR is None:
        margins = bank_margins(generator, *some)
    else:
        margins = (traffic_margins(generator, traffic_MR, *some),)
    return Strangers(*stored, traffic_MR, margins)


def calibrate(
    generator: LiveEditGenerator, repository: ExpertRepository, strangers: Strangers | None = None
) -> Calibration:
    """The filter of a bank; a pure function of the set of its edits, its traffic and its budget.
    `strangers` are those of the bank."""
    false_activation, prior = repository.false_activation, generator.filter_offset
    if generator.config.visual_filter == "sentinel":
        return Calibration(false_activation=false_activation, offset=0.0, source="paper")
    strangers = strangers or strangers_of(generator, repository)
    num_images, own = len(strangers.margins[0]), None
    # Any of the edits beyond the sample may be kept too.
    num_edits = len(repository) - len(repository.textual_positions)
    allowed = false_activation * min(1.0, MAX_IMAGES / max(1, num_edits))
    if strangers.traffic_MR is not None:
        own = _exceeded_by(allowed, strangers.margins[0])
    elif num_images >= LEAST_IMAGES:
        own = _exceeded_by_bank(allowed, *strangers.margins)
    if own is None:  # few edits, or hardly any prompt passes
        return Calibration(false_activation=false_activation, offset=prior, source="generator")
    if generator.config.turned_levels:
        own += TURNED_ALLOWANCE
    weight = num_images / (num_images + PRIOR_IMAGES)
    return Calibration(
        false_activation=false_activation,
        offset=weight * own + (1 - weight) * prior,
        source="bank" if strangers.traffic_MR is None else "images",
        num_images=num_images,
    )


def _compared_positions(repository: ExpertRepository) -> Tensor:
    """Of the edits that answer and have an image."""
    held = repository.held_positions
    return held if repository.is_textual_N is None else held[~repository.is_textual_N[held]]


def _sample(repository: ExpertRepository) -> Tensor:
    """Positions of the edits with the smallest hashes, in the order of these."""
    held, hashes = _compared_positions(repository), repository.hashes_N
    hashes = hashes_of(repository.edit_ids) if hashes is None else hashes
    return held[hashes[held].topk(min(MAX_IMAGES, len(held)), largest=False).indices]


def _exceeded_by_bank(fraction: float, first_S: Tensor, second_S: Tensor) -> float | None:
    own, second = _exceeded_by(fraction, first_S), _exceeded_by(fraction, second_S)
    return own if own is None or second is None else min(own, second + SIBLING_ALLOWANCE)


def bank_margins(
    generator: LiveEditGenerator, visual_SK: Tensor, prompt_SK: Tensor
) -> tuple[Tensor, Tensor]:
    """m of each edit of a sample against the others, and without the most similar image, [S]."""
    config = generator.config
    asked_SR = visual_SK.float() / math.sqrt(unit_of(config))
    is_own_SS = of_one_image(visual_SK, visual_SK, config)
    passes_SS = _passes(generator, prompt_SK)
    cosine_SS = products(asked_SR, visual_SK).masked_fill(is_own_SS, -torch.inf)
    best_SK = visual_SK[cosine_SS.argmax(1)]
    is_out_SS = is_own_SS | of_one_image(best_SK, visual_SK, config)
    return (
        stranger_margins(generator, asked_SR, visual_SK, is_own_SS, passes_SS),
        stranger_margins(generator, asked_SR, visual_SK, is_out_SS, passes_SS),
    )


def traffic_margins(
    generator: LiveEditGenerator, traffic_MR: Tensor, visual_SK: Tensor, prompt_SK: Tensor
) -> Tensor:
    """m of those images of the traffic that are of no edit of a sample, each with the prompt of one
    of these, [at most M]."""
    config = generator.config
    is_edited_MS = products(traffic_MR, visual_SK) >= config.same_image_ratio * math.sqrt(
        unit_of(config)
    )
    prompt_M = torch.arange(len(traffic_MR)) % len(prompt_SK)
    passes_MS = _passes(generator, prompt_SK)[prompt_M]
    is_out_MS = torch.zeros_like(is_edited_MS)
    margins_M = stranger_margins(generator, traffic_MR, visual_SK, is_out_MS, passes_MS)
    return margins_M[~is_edited_MS.any(1)]


def stranger_margins(
    generator: LiveEditGenerator,
    asked_BR: Tensor,
    keys_NK: Tensor,
    is_out_BN: Tensor,
    passes_BN: Tensor,
) -> Tensor:
    """m of unit vectors over edits that are not out, [B]; -inf where the prompt passes none."""
    config = generator.config
    sentinels_CR = torch.nn.functional.normalize(generator.visual_key.sentinels, dim=-1)
    sentinel_B1 = (asked_BR @ sentinels_CR.T).amax(1, keepdim=True)
    cosine_BN = products(asked_BR, keys_NK) / math.sqrt(unit_of(config))
    cosine_BN = cosine_BN.masked_fill(is_out_BN, -1)
    margin_BN = runner_up_margins(cosine_BN, sentinel_B1, keys_NK, config)
    return margin_BN.masked_fill(is_out_BN | ~passes_BN, -torch.inf).amax(1)


def _passes(generator: LiveEditGenerator, prompt_SK: Tensor) -> Tensor:
    """Which edits the prompt of each edit of a sample passes, bool [S, S]."""
    config = generator.config
    if config.min_gate <= 0 or not generator.has_prompt_key:
        return prompt_SK.new_ones(len(prompt_SK), len(prompt_SK), dtype=torch.bool)
    asked_SQM = generator.prompt_key.as_asked(prompt_SK.float())
    return similarity(asked_SQM, prompt_SK).sigmoid() >= config.min_gate


def _exceeded_by(fraction: float, margins_S: Tensor) -> float | None:
    """The margin that a share of the sample exceeds; None where fewer have one at all."""
    found = margins_S[margins_S.isfinite()]
    if len(found) <= max(1.0, fraction * len(margins_S)):
        return None
    allowed = fraction * len(margins_S) / len(found)
    if allowed >= TAIL:
        return float(found.quantile(1 - allowed))
    start = found.quantile(1 - TAIL)
    excess = (found[found > start] - start).mean() if (found > start).any() else 0.0
    return float(start + excess * math.log(TAIL / allowed))
