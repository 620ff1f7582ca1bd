"""The offset of a runner-up filter, from the bank itself and a budget of false activations.

For each other, the images of a bank's edits are images of other things in the user's world. So a
sample of them is asked against the others, each with its own prompt, and the offset is what the
stated share of them exceeds:

    m(i)      =  the largest cos(i, n) - 0.75 * r(i, n) over edits n of other images that the prompt
                 passes (`routing`)
    offset    =  u + mean excess of m over u * ln(0.2 / budget),  u = the 80 % quantile of m

The tail above u is taken as exponential, which varies less than an extreme quantile. Where edits
show one thing in several images, these are no strangers for each other: the offset is at most
`SIBLING_ALLOWANCE` above that of m without the most similar image of each i. A small bank says
little: the offset of the generator counts as much as `PRIOR_IMAGES` images. The result depends
on the set of edits alone: not on their order, not on later ones.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import RUNNER_UP_SHARE, of_one_image, similarity, view_products

MAX_IMAGES = 1000
"""Edits in the sample; its cost does not grow beyond."""
LEAST_IMAGES = 20
"""Fewer say nothing."""
PRIOR_IMAGES = 30
SIBLING_ALLOWANCE = 0.12
"""Without such edits the two offsets differ by 0.1 on average (METHOD.md)."""
TAIL = 0.2
"""Share of the sample that makes the tail."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How strict the visual filter of a bank is."""

    false_activation: float
    """Budget: share of questions about other images that may keep an expert."""
    offset: float
    source: Literal["generator", "bank", "paper"]
    """"generator": the bank is too small to say it; "paper": the filter has no offset."""
    num_images: int = 0
    """In the sample."""


@torch.no_grad()
def calibrate(generator: LiveEditGenerator, repository: ExpertRepository) -> Calibration:
    """The filter of a bank; a pure function of the set of its edits and its budget."""
    config, false_activation = generator.config, repository.false_activation
    if config.visual_filter == "sentinel":
        return Calibration(false_activation=false_activation, offset=0.0, source="paper")
    prior = generator.filter_offset
    sample = _sample(repository)
    if len(sample) < LEAST_IMAGES:
        return Calibration(false_activation=false_activation, offset=prior, source="generator")
    first_S, second_S = stranger_margins(
        generator,
        repository.visual_features_NK[sample],
        repository.prompt_features_NK[sample],
    )
    own = _exceeded_by(false_activation, first_S)
    if own is None:  # hardly any prompt passes
        own = prior
    elif (second := _exceeded_by(false_activation, second_S)) is not None:
        own = min(own, second + SIBLING_ALLOWANCE)
    weight = len(sample) / (len(sample) + PRIOR_IMAGES)
    offset = weight * own + (1 - weight) * prior
    return Calibration(
        false_activation=false_activation,
        offset=offset,
        source="bank",
        num_images=len(sample),
    )


def _sample(repository: ExpertRepository) -> Tensor:
    """Positions of the edits with the smallest hashes, in the order of these."""
    hashes = [hashlib.sha256(edit_id.encode()).digest() for edit_id in repository.edit_ids]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    return torch.tensor(order[:MAX_IMAGES], dtype=torch.int64)


def stranger_margins(
    generator: LiveEditGenerator, visual_SK: Tensor, prompt_SK: Tensor
) -> tuple[Tensor, Tensor]:
    """m of each edit of a sample against the others, and without the most similar image, [S]; -inf
    where its prompt passes none."""
    config, key = generator.config, generator.visual_key
    rank, unit = config.visual_rank, config.num_queries * math.sqrt(config.module_dim)
    first_SR = visual_SK[:, :rank].float() / math.sqrt(unit)
    sentinels_CR = torch.nn.functional.normalize(key.sentinels, dim=-1)
    sentinel_S1 = (first_SR @ sentinels_CR.T).amax(1, keepdim=True)
    cosine_SS = view_products(first_SR, visual_SK, config) / math.sqrt(unit)
    is_one_SS = of_one_image(visual_SK, visual_SK, config)
    is_out_SS, passes_SS = is_one_SS, _passes(generator, prompt_SK)
    margins = []
    for _ in range(2):
        cosine_SS = cosine_SS.masked_fill(is_out_SS, -1)
        best_S1, index_S1 = cosine_SS.max(1, keepdim=True)
        is_best_SS = is_one_SS[index_S1[:, 0]]
        others_S1 = cosine_SS.masked_fill(is_best_SS, -1).amax(1, keepdim=True)
        runner_up_SS = torch.maximum(best_S1.where(~is_best_SS, others_S1), sentinel_S1)
        margin_SS = cosine_SS - RUNNER_UP_SHARE * runner_up_SS
        margins.append(margin_SS.masked_fill(is_out_SS | ~passes_SS, -torch.inf).amax(1))
        is_out_SS = is_out_SS | is_best_SS
    return margins[0], margins[1]


def _passes(generator: LiveEditGenerator, prompt_SK: Tensor) -> Tensor:
    """Which edits the prompt of each edit of a sample passes, bool [S, S]."""
    config = generator.config
    if config.min_gate <= 0 or not generator.has_prompt_key:
        return torch.ones(len(prompt_SK), len(prompt_SK), dtype=torch.bool)
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
