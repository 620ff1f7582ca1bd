"""Which experts are kept, and with what weight: hard filter, soft routing, fusion (Eq. 5 to 7).

    keep n   iff  sim(phi_in, phi_n) > sim(phi_in, phi_sentinel)              Eq. 5
    w_n      =    sigmoid(s_n) * softmax_n(s),  s_n = sim(psi_in, psi_n)      Eq. 7, over kept ones
    residual =    sum_n w_n * relu(LN(h) @ down_n^T) @ up_n                   Eq. 6

Ours, optional: the visual margin sim(phi_in, phi_n) - sim(phi_in, phi_sentinel) is also added to
the softmax logits (`soft_routing`) and gates the weight (`visual_gate`). With a prompt key, what
passes `min_gate` has its whole share of the softmax: an answer is no more right by half.

With `visual_filter = "runner_up"` (after the ratio test of Lowe, IJCV 2004) an image must beat what
else it is like: with cosines of visual features, the largest over the views of the question's image
(`visual_key`),

    keep n   iff  cos(q, n) - 0.75 * r(q, n) > offset   or   the image is q itself
    r(q, n)  =    the largest cosine of q with a sentinel, or with an edit whose image is neither
                  that of n nor q itself

Two images are the same if their cosine reaches `same_image_ratio`. The offset comes from the bank
itself (`calibration`).

A visual feature of zeros is that of no image, of an input or of a textual edit (ours). A textual
edit passes the visual filter for every input and is no runner-up: its prompt alone decides. An
input without an image passes that of no other edit. Its visual similarity and margin are 0.

Similarities and weights are float32, rounded from float64: those of a question and an expert are
the same whatever else is compared. `route` compares all experts that it is given; which ones can
matter is found by `shortlist`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from liveedit_core.method.config import NUM_VIEWS, GeneratorConfig
from liveedit_core.method.features import Features

RUNNER_UP_SHARE = 0.75
"""Chosen on validation (METHOD.md)."""


def similarity(queries_BQM: Tensor, keys_NK: Tensor) -> Tensor:
    """<flatten(a), flatten(b)> / (Q * sqrt(M)) of inputs and experts, [B, N] float32."""
    num_queries, width = queries_BQM.shape[-2:]
    return products(queries_BQM.flatten(-2), keys_NK) / (num_queries * math.sqrt(width))


def products(asked_BR: Tensor, keys_NR: Tensor) -> Tensor:
    """Inner products, summed in float64, [B, N] float32."""
    found_BN: Tensor = torch.mm(asked_BR.double(), keys_NR.double().T)
    return found_BN.float()


def paired_similarity(first_BQM: Tensor, second_BQM: Tensor) -> Tensor:
    """Similarity of the b-th feature of each side, [B] float32."""
    num_queries, width = first_BQM.shape[-2:]
    product = (first_BQM.float() * second_BQM.float()).sum((-1, -2))
    return product / (num_queries * math.sqrt(width))


def own_similarity(features: Features, config: GeneratorConfig) -> Tensor:
    """Visual similarity of each input with an edit of its very image, [B] float32."""
    assert features.same_image_BQM is not None
    if config.visual_filter == "sentinel":
        return paired_similarity(features.visual_BQM, features.same_image_BQM)
    return (features.visual_BQM[:, 0] * features.same_image_BQM[:, 0]).sum(-1) / unit_of(config)


def visual_similarity(queries_BQM: Tensor, keys_NK: Tensor, config: GeneratorConfig) -> Tensor:
    """`similarity` of images as they are, in no other view, [B, N]."""
    if config.visual_filter == "sentinel":
        return similarity(queries_BQM, keys_NK)
    return products(queries_BQM[:, 0], keys_NK) / unit_of(config)


def unit_of(config: GeneratorConfig) -> float:
    """Inner product of features whose similarity is 1: Q * sqrt(M)."""
    return config.num_queries * math.sqrt(config.module_dim)


class ComparedImages(NamedTuple):
    """The images of B inputs beside those of N experts, float32."""

    visual_BN: Tensor
    """Similarity."""
    margin_BN: Tensor
    """The same minus the threshold."""
    threshold_B: Tensor
    """Similarity with the sentinel (Eq. 5), or the least from which on an image is kept."""
    passed_BN: Tensor
    """bool: which experts the visual filter lets pass."""
    is_textual_N: Tensor
    """bool: experts of edits without an image."""


class FormShares(NamedTuple):
    """Which forms of one expert some inputs ask for (`prompt_key`)."""

    shares_BF: Tensor
    """Of the expert's weight; the plain one first."""
    slots: tuple[int, ...]
    """Of each of them, in order."""

    def by_slot(self, weight_B: Tensor) -> Tensor:
        """The weight of each slot, [B, R], from those of the expert."""
        slots_F = torch.tensor(self.slots, device=weight_B.device)
        return (weight_B[:, None] * self.shares_BF).repeat_interleave(slots_F, dim=1)


@dataclass(frozen=True, kw_only=True)
class RoutingBatch:
    """Routing of B inputs over N experts, all of a repository or a shortlist."""

    position_N: Tensor
    """int64, CPU: of each of them in the repository."""
    kept_BN: Tensor
    """bool."""
    weights_BN: Tensor
    """float32: fusion weights, zero where not kept."""
    visual_BN: Tensor
    """float32: visual similarity."""
    margin_BN: Tensor
    """float32: visual similarity minus the threshold."""
    threshold_B: Tensor
    """float32: visual similarity with the sentinel (Eq. 5), or that of the most similar image from
    which on it is kept."""
    prompt_BN: Tensor
    """float32: prompt similarity; with pyramids that nothing asked for, zero (`Editor.route`)."""
    passed_BN: Tensor
    """bool: which experts the visual filter lets pass."""
    is_textual_N: Tensor
    """bool: experts of edits without an image."""
    form_shares: Mapping[int, FormShares] = field(default_factory=dict)
    """By column, of the experts with forms."""

    def shares_of(self, row: int, column: int) -> tuple[float, ...]:
        """Which forms of an expert an input asks for; () of an expert without any."""
        shares = self.form_shares.get(column)
        return () if shares is None else tuple(shares.shares_BF[row].tolist())


def route(
    features: Features,
    visual_features_NK: Tensor,
    prompt_features_NK: Tensor,
    config: GeneratorConfig,
    visual_weight: Tensor | float = 0.0,
    candidates_BN: Tensor | None = None,
    *,
    offset: float = 0.0,
) -> RoutingBatch:
    """Route input-side features over the features of experts (Eq. 5 and Eq. 7).

    An input without a kept expert has zero weights. `visual_weight` is c of
    `softmax(s_prompt + c * margin)`, for `soft_routing` prompt_and_visual; bool `candidates_BN`
    replace the hard filter (mixture masks of training). `offset` is that of a runner-up filter.
    """
    images = compare_images(features, visual_features_NK, config, offset)
    return weigh(features, images, prompt_features_NK, config, visual_weight, candidates_BN)


def compare_images(
    features: Features, visual_features_NK: Tensor, config: GeneratorConfig, offset: float
) -> ComparedImages:
    """The visual half of `route`: no prompt is read."""
    if features.sentinel_BQM is None:
        raise ValueError("routing needs input-side features, which include the sentinel's")
    is_shown_B = has_image(features.visual_BQM.flatten(1))
    is_textual_N = ~has_image(visual_features_NK)
    if is_shown_B.all() and not is_textual_N.any():
        found = _compared(features, visual_features_NK, config, offset)
    else:
        shown = features.mapped(lambda part_BQM: part_BQM[is_shown_B])
        some = _compared(shown, visual_features_NK[~is_textual_N], config, offset)
        is_compared_BN = is_shown_B[:, None] & ~is_textual_N
        zeros_BN = some[0].new_zeros(is_compared_BN.shape)
        found = (
            zeros_BN.masked_scatter(is_compared_BN, some[0]),
            zeros_BN.masked_scatter(is_compared_BN, some[1]),
            some[2].new_zeros(len(is_shown_B)).masked_scatter(is_shown_B, some[2]),
        )
    passed_BN = is_shown_B[:, None].expand_as(found[1])
    if config.has_hard_filter:
        passed_BN = found[1] > 0
    return ComparedImages(*found, passed_BN | is_textual_N, is_textual_N)


def has_image(visual_XK: Tensor) -> Tensor:
    """Which visual features are those of an image, bool [X]."""
    return visual_XK.any(-1)


def _compared(
    features: Features, visual_features_NK: Tensor, config: GeneratorConfig, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity, margin and threshold of images."""
    assert features.sentinel_BQM is not None
    if config.visual_filter == "sentinel":
        threshold_B = paired_similarity(features.visual_BQM, features.sentinel_BQM)
        visual_BN = similarity(features.visual_BQM, visual_features_NK)
        return visual_BN, visual_BN - threshold_B[:, None], threshold_B
    if not len(visual_features_NK):
        sentinel_B = (features.visual_BQM[:, 0] * features.sentinel_BQM[:, 0]).sum(-1)
        nothing_BN = sentinel_B.new_zeros(len(sentinel_B), 0)
        return nothing_BN, nothing_BN, sentinel_B / unit_of(config)
    visual_BN, margin_BN = beside_runner_up(features, visual_features_NK, config, offset)
    return visual_BN, margin_BN, (visual_BN - margin_BN).amin(1)


def weigh(
    features: Features,
    images: ComparedImages,
    prompt_features_NK: Tensor,
    config: GeneratorConfig,
    visual_weight: Tensor | float = 0.0,
    candidates_BN: Tensor | None = None,
    form_logits: Mapping[int, Tensor] | None = None,
) -> RoutingBatch:
    """The other half: prompts, hard filter and weights; `form_logits` by column, as in
    `prompt_key`."""
    visual_BN, margin_BN, threshold_B, passed_BN, is_textual_N = images
    prompt_BN = similarity(features.prompt_BQM, prompt_features_NK)
    for column, logits_BF in (form_logits or {}).items():
        prompt_BN[:, column] += logits_BF.logsumexp(-1)
    kept_BN = hard_filter(images, prompt_BN, config) if candidates_BN is None else candidates_BN
    is_decided = candidates_BN is None and config.has_gate_of_sentences
    gates_BN = torch.full_like(prompt_BN, torch.inf) if is_decided else prompt_BN
    if config.soft_routing == "average":
        weights_BN = kept_BN.float() / kept_BN.sum(-1, keepdim=True).clamp(min=1)
    elif config.soft_routing == "prompt_and_visual":
        likeness_BN = margin_BN if config.visual_filter == "sentinel" else visual_BN
        weights_BN = soft_weights(prompt_BN + visual_weight * likeness_BN, gates_BN, kept_BN)
    else:
        weights_BN = soft_weights(prompt_BN, gates_BN, kept_BN)
    if config.visual_gate > 0:
        gates_BN = visual_gates(features, margin_BN, config).masked_fill(is_textual_N, 1)
        weights_BN = weights_BN * gates_BN
    return RoutingBatch(
        position_N=torch.arange(visual_BN.shape[1]),
        kept_BN=kept_BN,
        weights_BN=weights_BN,
        visual_BN=visual_BN,
        margin_BN=margin_BN,
        threshold_B=threshold_B,
        prompt_BN=prompt_BN,
        passed_BN=passed_BN,
        is_textual_N=is_textual_N,
    )


def beside_runner_up(
    features: Features, keys_NK: Tensor, config: GeneratorConfig, offset: float
) -> tuple[Tensor, Tensor]:
    """Visual similarities and margins, [B, N]; of the image of each input and its figure those with
    the larger margin."""
    assert features.sentinel_BQM is not None
    scale_B1, sentinel_BSR = own_similarity(features, config)[:, None], features.sentinel_BQM
    asked_BSVR = features.visual_BQM.unflatten(1, (-1, NUM_VIEWS))
    shape = (len(asked_BSVR), len(keys_NK))
    cosine_BN = margin_BN = asked_BSVR.new_full(shape, -torch.inf)
    for image in range(asked_BSVR.shape[1]):
        rows_X = asked_BSVR[:, image, 0].any(-1).nonzero().flatten()
        if not len(rows_X):
            break
        length_X1, asked_XVR = unit_of(config) * scale_B1[rows_X], asked_BSVR[rows_X, image]
        products_XVN = products(asked_XVR.flatten(0, 1), keys_NK).unflatten(0, (-1, NUM_VIEWS))
        first_XN = products_XVN[:, 0]
        any_XN = products_XVN.masked_fill(~has_image(asked_XVR)[..., None], -torch.inf).amax(1)
        # Where the very image was edited, no other view is meant.
        is_edited_XN = first_XN >= config.same_image_ratio * length_X1
        cosine_XN = any_XN.where(~is_edited_XN.any(1, keepdim=True), first_XN) / length_X1
        sentinel_X1 = (asked_XVR[:, 0] * sentinel_BSR[rows_X, image]).sum(-1, keepdim=True)
        sentinel_X1 = sentinel_X1 / length_X1
        is_asked_XN = cosine_XN >= config.same_image_ratio
        other_XN = cosine_XN.masked_fill(is_asked_XN, -1)
        margin_XN = runner_up_margins(other_XN, sentinel_X1, keys_NK, config, least=offset) - offset
        margin_XN = margin_XN.where(~is_asked_XN, cosine_XN)
        is_larger_XN = margin_XN > margin_BN[rows_X]
        cosine_XN = cosine_XN.where(is_larger_XN, cosine_BN[rows_X])
        margin_XN = margin_XN.where(is_larger_XN, margin_BN[rows_X])
        cosine_BN = cosine_BN.index_copy(0, rows_X, cosine_XN)
        margin_BN = margin_BN.index_copy(0, rows_X, margin_XN)
    return cosine_BN * scale_B1, margin_BN * scale_B1


def runner_up_margins(
    cosine_BN: Tensor,
    sentinel_B1: Tensor,
    keys_NK: Tensor,
    config: GeneratorConfig,
    *,
    least: float = -math.inf,
) -> Tensor:
    """cos(q, n) - 0.75 * r(q, n), [B, N]; -1 as a cosine leaves an edit out.

    `sentinel_B1` is the cosine with the nearest sentinel. Margins up to `least` may be smaller than
    they are.
    """
    if not cosine_BN.shape[1]:
        return cosine_BN
    best_B1, index_B1 = cosine_BN.max(1, keepdim=True)
    runner_up_BN = torch.maximum(best_B1, sentinel_B1).expand_as(cosine_BN)
    # Only where the most similar image may pass at all, edits of that very image are looked for.
    may_pass_B = (best_B1 - RUNNER_UP_SHARE * sentinel_B1 > least).flatten()
    if may_pass_B.any():
        is_own_SN = of_one_image(keys_NK[index_B1[may_pass_B, 0]], keys_NK, config)
        others_S1 = cosine_BN[may_pass_B].masked_fill(is_own_SN, -1).amax(1, keepdim=True)
        others_S1 = torch.maximum(others_S1, sentinel_B1[may_pass_B])
        runner_up_BN = runner_up_BN.clone()
        runner_up_BN[may_pass_B] = runner_up_BN[may_pass_B].where(~is_own_SN, others_S1)
    return cosine_BN - RUNNER_UP_SHARE * runner_up_BN


def of_one_image(some_SK: Tensor, keys_NK: Tensor, config: GeneratorConfig) -> Tensor:
    """Which edits have the image of some edits, bool [S, N]."""
    return products(some_SK, keys_NK) >= config.same_image_ratio * unit_of(config)


def hard_filter(images: ComparedImages, prompt_BN: Tensor, config: GeneratorConfig) -> Tensor:
    """bool [B, N]: experts whose image beats the sentinel (Eq. 5), within the config's bounds."""
    kept_BN = images.passed_BN
    if config.min_gate > 0:
        kept_BN = kept_BN & (prompt_BN.double().sigmoid() >= config.min_gate)
    if config.max_kept:
        is_textual_N = images.is_textual_N
        kept_BN = torch.where(
            is_textual_N,
            _best(prompt_BN, kept_BN & is_textual_N, config.max_kept),
            _best(images.margin_BN, kept_BN & ~is_textual_N, config.max_kept),
        )
    return kept_BN


def _best(score_BN: Tensor, kept_BN: Tensor, count: int) -> Tensor:
    """Of the kept experts those with the highest scores, and those that tie with the last."""
    if count >= score_BN.shape[1]:
        return kept_BN
    ranked = score_BN.masked_fill(~kept_BN, -torch.inf)
    return kept_BN & (ranked >= ranked.topk(count, dim=-1).values[:, -1:])


def visual_gates(features: Features, margin_BN: Tensor, config: GeneratorConfig) -> Tensor:
    """Gate of each expert by its image alone, [B, N] in 0..1 (`config.visual_gate`)."""
    midpoint_BN = torch.full_like(margin_BN, config.visual_midpoint)
    if features.same_image_BQM is not None and features.sentinel_BQM is not None:
        margin_with_itself_B = paired_similarity(
            features.visual_BQM, features.same_image_BQM - features.sentinel_BQM
        )
        is_same_BN = margin_BN >= config.same_image_ratio * margin_with_itself_B[:, None]
        is_other_BN = is_same_BN.any(1, keepdim=True) & ~is_same_BN
        midpoint_BN = midpoint_BN.masked_fill(is_other_BN, config.other_image_midpoint)
    return (config.visual_gate * (margin_BN - midpoint_BN)).double().sigmoid().float()


def soft_weights(logits_BN: Tensor, gates_BN: Tensor, kept_BN: Tensor) -> Tensor:
    """sigmoid(gate) * softmax(logits) over the kept experts (Eq. 7); zeros where none is kept."""
    masked = logits_BN.masked_fill(~kept_BN, -torch.inf)
    shares = masked.softmax(-1, torch.float64).nan_to_num(0.0)
    return (torch.where(kept_BN, shares, 0.0) * gates_BN.double().sigmoid()).float()


def fused_residual(
    normed_BTD: Tensor, weights_BN: Tensor, down_NRD: Tensor, up_NRD: Tensor, gain: float
) -> Tensor:
    """What experts of one rank add to the hidden states at l_e, [B, T, D] (Eq. 6)."""
    weights_BL = weights_BN.repeat_interleave(down_NRD.shape[1], dim=1)
    return slot_residual(normed_BTD, weights_BL, down_NRD.flatten(0, 1), up_NRD.flatten(0, 1), gain)


def slot_weights(
    weights_BU: Tensor, ranks_U: Tensor, form_shares: Mapping[int, FormShares]
) -> Tensor:
    """The weight of each rank slot, [B, L]; ranks are on the CPU, `form_shares` by column."""
    if not form_shares:
        return weights_BU.repeat_interleave(ranks_U.to(weights_BU.device), dim=1)
    parts = [
        form_shares[n].by_slot(weight_B) if n in form_shares else weight_B[:, None].repeat(1, rank)
        for n, (weight_B, rank) in enumerate(zip(weights_BU.T, ranks_U.tolist(), strict=True))
    ]
    return torch.cat(parts, dim=1)


def slot_residual(
    normed_BTD: Tensor, weights_BL: Tensor, down_LD: Tensor, up_LD: Tensor, gain: float
) -> Tensor:
    """The same for experts of any ranks: L rank slots, each with the weight of its expert."""
    activation = torch.relu(normed_BTD @ down_LD.T)
    residual: Tensor = (activation * weights_BL[:, None]) @ up_LD * gain
    return residual
