"""The equations of the method as plain float64 loops, to compare the vectorised code with.

Nothing here is shared with `liveedit_core` but weights, states and the configuration. No batches,
no masks, no padding: one input, one expert, one row at a time.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.states import LayerStates

Array = np.ndarray


def numbers(tensor: Tensor) -> Array:
    """A tensor as float64."""
    return np.asarray(tensor.detach().double().numpy())


class Weights:
    """float64 weights of one module, by name."""

    def __init__(self, module: nn.Module) -> None:
        self.values = {name: numbers(tensor) for name, tensor in module.state_dict().items()}

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def sub(self, name: str) -> "Weights":
        """Weights of a submodule."""
        part = Weights.__new__(Weights)
        start = f"{name}."
        part.values = {
            key.removeprefix(start): value
            for key, value in self.values.items()
            if key.startswith(start)
        }
        return part


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def softmax(values: list[float]) -> list[float]:
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def layer_norm(row: Array, weights: Weights) -> Array:
    mean = row.sum() / len(row)
    variance = ((row - mean) ** 2).sum() / len(row)
    normed = (row - mean) / math.sqrt(variance + 1e-5) * weights["weight"] + weights["bias"]
    return np.asarray(normed)


def linear(row: Array, weights: Weights) -> Array:
    return np.array(
        [row @ out + bias for out, bias in zip(weights["weight"], weights["bias"], strict=True)]
    )


def cross_attention(
    queries: Array,
    rows: list[Array],
    weights: Weights,
    heads: int,
    key_rows: list[Array] | None = None,
) -> Array:
    """CA(x, y) of Eq. 2, one query and one head at a time; keys may have rows of their own."""
    keys = [linear(row, weights.sub("k_proj")) for row in key_rows or rows]
    values = [linear(row, weights.sub("v_proj")) for row in rows]
    results = []
    for query in queries:
        projected = linear(query, weights.sub("q_proj"))
        width, value_width = len(projected) // heads, len(values[0]) // heads
        parts = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            shares = softmax([projected[part] @ key[part] / math.sqrt(width) for key in keys])
            wide = slice(head * value_width, (head + 1) * value_width)
            parts.append(sum(a * v[wide] for a, v in zip(shares, values, strict=True)))
        results.append(np.concatenate(parts))
    return np.stack(results)


def similarity(first: Array, second: Array) -> float:
    """Mean over queries of inner products, over sqrt(M)."""
    num_queries, width = first.shape
    products = [first[q] @ second[q] for q in range(num_queries)]
    return float(sum(products) / num_queries / math.sqrt(width))


@dataclass(frozen=True, kw_only=True)
class NaiveFeatures:
    visual: Array
    prompt: Array
    sentinel: Array | None


def extract(
    state: LayerStates, weights: Weights, config: GeneratorConfig, key: Weights | None = None
) -> NaiveFeatures:
    """Eq. 3 and 4 for one input; `key` has the weights of a visual key, where there is one."""
    heads = config.num_attention_heads
    hidden = numbers(state.hidden_TD)
    prompt = [hidden[t] for t in range(*state.prompt_span)]
    normed = [layer_norm(row, weights.sub("prompt_norm")) for row in prompt]
    feature = cross_attention(weights["psi"][0], normed, weights.sub("psi_attention"), heads)
    if key is not None:
        row = numbers(state.pyramid_E)
        return NaiveFeatures(visual=row, prompt=feature, sentinel=row)
    query = weights["phi"][0]
    if config.visual_query == "prompt":
        normed = [layer_norm(row, weights.sub("visual_norm")) for row in prompt]
        query = cross_attention(query, normed, weights.sub("phi_prompt_attention"), heads)

    def compress(rows: list[Array]) -> Array:
        normed = [layer_norm(row, weights.sub("visual_norm")) for row in rows]
        return cross_attention(query, normed, weights.sub("phi_image_attention"), heads)

    return NaiveFeatures(
        visual=compress([hidden[t] for t in range(*state.image_span)]),
        prompt=feature,
        sentinel=compress(list(weights["sentinel"][0])) if "sentinel" in weights else None,
    )


def key_margin(asked: Array, stored: Array, key: Weights, nearest: int) -> float:
    """Similarity of two pyramids minus the threshold of the asked one, by a visual key."""

    def unit(row: Array) -> Array:
        return row / math.sqrt(row @ row)

    def project(row: Array) -> Array:
        scaled = (row - key["mean"]) / key["deviation"]
        return unit(np.array([out @ scaled for out in key["projection.weight"]]))

    def commonness(row: Array) -> float:
        cosines = sorted(float(row @ unit(sentinel)) for sentinel in key["sentinels"])
        return sum(cosines[-nearest:]) / nearest

    q, e = project(asked), project(stored)
    local = (commonness(q) + commonness(e)) / 2 + float(key["offset"])
    return math.exp(float(key["log_scale"])) * (float(q @ e) - local)


def write_matrix(
    state: LayerStates, weights: Weights, config: GeneratorConfig, end_row: Array | None
) -> Array:
    """Eq. 1 for one of the two matrices of one edit; `end_row` follows the target embeddings."""
    hidden = numbers(state.hidden_TD)
    last_prompt = state.prompt_span[1] - 1
    count = config.num_target_positions
    signal: list[tuple[Array, int]] = []  # a row and its place, see ExpertGenerator
    for t in (*range(*state.image_span), *range(*state.prompt_span)):
        signal.append((hidden[t], int(t == last_prompt)))
    targets = [hidden[t] for t in range(*state.target_span)]
    for token, row in enumerate(targets):
        signal.append((row, 2 + min(token, max(count - 1, 0))))
    if end_row is not None:
        following = [*numbers(state.target_embeddings_OD), end_row]
        for token, row in enumerate(following):
            signal.append((row, 2 + count + min(token, max(count - 1, 0))))
    rows = [layer_norm(row, weights.sub("norm")) for row, _ in signal]
    key_rows = rows
    if "position" in weights:
        places = [place for _, place in signal]
        key_rows = [row + weights["position"][p] for row, p in zip(rows, places, strict=True)]
    heads = config.num_attention_heads
    mixed = cross_attention(weights["query"][0], rows, weights.sub("attention"), heads, key_rows)
    scaled: Array = mixed / (config.expert_scale * math.sqrt(config.rank))
    if config.has_own_ranks:
        scaled[len(targets) + 1 :] = 0.0
    return scaled


def keep(
    inputs: NaiveFeatures,
    bank: list[NaiveFeatures],
    config: GeneratorConfig,
    key: Weights | None = None,
) -> tuple[list[bool], list[float]]:
    """Eq. 5 and our two bounds: kept flags and visual margins."""
    assert inputs.sentinel is not None
    if key is None:
        threshold = similarity(inputs.visual, inputs.sentinel)
        margins = [similarity(inputs.visual, expert.visual) - threshold for expert in bank]
    else:
        nearest = config.nearest_sentinels
        margins = [key_margin(inputs.visual, expert.visual, key, nearest) for expert in bank]
    kept = [margin > 0 or not config.has_hard_filter for margin in margins]
    for n, expert in enumerate(bank):
        if config.min_gate and sigmoid(similarity(inputs.prompt, expert.prompt)) < config.min_gate:
            kept[n] = False
    if config.max_kept:
        best = sorted((n for n in range(len(bank)) if kept[n]), key=lambda n: -margins[n])
        kept = [n in best[: config.max_kept] for n in range(len(bank))]
    return kept, margins


def weigh(
    inputs: NaiveFeatures,
    bank: list[NaiveFeatures],
    config: GeneratorConfig,
    evidence: float,
    key: Weights | None = None,
) -> list[float]:
    """Eq. 7 over the kept experts; `evidence` is the weight of the visual margin (0: paper)."""
    kept, margins = keep(inputs, bank, config, key)
    scores = [similarity(inputs.prompt, expert.prompt) for expert in bank]
    members = [n for n in range(len(bank)) if kept[n]]
    weights = [0.0] * len(bank)
    if config.soft_routing == "average":
        return [1 / len(members) if kept[n] else 0.0 for n in range(len(bank))]
    if members:
        shares = softmax([scores[n] + evidence * margins[n] for n in members])
        for n, share in zip(members, shares, strict=True):
            weights[n] = sigmoid(scores[n]) * share
    if config.visual_gate and key is not None:
        itself = key_margin(inputs.visual, inputs.visual, key, config.nearest_sentinels)
        same_image = [margin >= config.same_image_ratio * itself for margin in margins]
        for n in members:
            is_other = any(same_image) and not same_image[n]
            midpoint = config.other_image_midpoint if is_other else config.visual_midpoint
            weights[n] *= sigmoid(config.visual_gate * (margins[n] - midpoint))
    return weights


def residual(
    hidden: Array, norm: Weights, weights: list[float], down: list[Array], up: list[Array]
) -> Array:
    """Eq. 6, row by row, expert by expert, rank by rank."""
    result = np.zeros_like(hidden)
    for t, row in enumerate(hidden):
        normed = layer_norm(row, norm)
        for n, weight in enumerate(weights):
            for r in range(len(down[n])):
                result[t] += weight * max(float(normed @ down[n][r]), 0.0) * up[n][r]
    return result


EPSILON = 1e-8


def info_nce(scores: Array, positive: list[int]) -> float:
    """Eq. 13 to 15 with the positive columns given."""
    losses = [
        -math.log(softmax(list(row))[column] + EPSILON)
        for row, column in zip(scores, positive, strict=True)
    ]
    return sum(losses) / len(losses)


def absolute(scores: Array) -> float:
    """Eq. 16: own pair against the pair with the item before."""
    size = len(scores)
    losses = [
        -math.log(sigmoid(scores[j][j]) + EPSILON)
        - math.log(1 - sigmoid(scores[j][(j - 1) % size]) + EPSILON)
        for j in range(size)
    ]
    return sum(losses) / size


def nll(logits: list[Array], labels: list[list[int]]) -> float:
    """Eq. 8: mean over tokens, then over items."""
    items = []
    for rows, tokens in zip(logits, labels, strict=True):
        losses = [-math.log(softmax(list(row))[y]) for row, y in zip(rows, tokens, strict=True)]
        items.append(sum(losses) / len(losses))
    return sum(items) / len(items)


def kl(first: list[Array], second: list[Array]) -> float:
    """KL(first || second) per token, mean over tokens, then over items (Eq. 10)."""
    items = []
    for first_rows, second_rows in zip(first, second, strict=True):
        losses = []
        for p_row, q_row in zip(first_rows, second_rows, strict=True):
            pairs = zip(softmax(list(p_row)), softmax(list(q_row)), strict=True)
            losses.append(sum(p * math.log(p / q) for p, q in pairs))
        items.append(sum(losses) / len(losses))
    return sum(items) / len(items)
