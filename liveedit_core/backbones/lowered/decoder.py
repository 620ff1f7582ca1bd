"""Llama's decoder layers without modules, over sequences of any lengths that lie end to end.

Nothing is padded, no module is called, and activations, factors and residuals are fused into the
products. All but attention works row by row, and attention sequence by sequence. As products give a
row the same bits whatever rows lie beside it (`PackedLinear.apart`), what comes out for a sequence
does not depend on the others (`has_own_bits`, which compares).
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.lowered.packed_linear import PackedLinear, can_be_packed, padded
from liveedit_core.states import Span


class LoweredDecoder:
    """Some layers of a decoder, and its head; without gradients."""

    def __init__(self, decoder: Any, layers: Sequence["_Layer"], head: Any) -> None:
        self._layers, self._rotary = layers, decoder.rotary_emb
        self._norm, self._head = decoder.norm, head

    @classmethod
    def of(cls, decoder: Any, head: Any, first: int, stop: int) -> Self | None:
        """Layers `first` .. `stop` - 1; None if one of them is no packed layer of Llama."""
        parts = list(decoder.layers)[first:stop]
        if not parts or not all(map(_is_known, parts)) or not _is_packed(head):
            return None
        return cls(decoder, [_Layer(part) for part in parts], head)

    @property
    def has_own_bits(self) -> bool:
        """Whether the bits of a sequence are the same beside any others."""
        return all(product.has_own_bits for product in (*self._layers[0].products, self._head))

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Hidden states [T, D] of each sequence, from those before these layers."""
        hidden_XD = padded(torch.cat(list(parts)).to(self._head.weight.dtype))
        lengths = [len(part) for part in parts]
        num_rows = sum(lengths)
        if num_rows < len(hidden_XD):
            lengths.append(len(hidden_XD) - num_rows)
        tables_1TH = self._rotary(hidden_XD, torch.arange(max(lengths))[None])
        rotation = [
            torch.cat([table_1TH[0, :length] for length in lengths])[:, None]
            for table_1TH in tables_1TH
        ]
        for layer in self._layers:
            hidden_XD = layer(hidden_XD, rotation, lengths)
        return list(hidden_XD.split(lengths))[: len(parts)]

    def logits(self, parts: Sequence[Tensor], spans: Sequence[Span]) -> list[Tensor]:
        """The same layers, then norm and head at the positions that predict each span and its end,
        [O + 1, V] in float32."""
        done = self(parts)
        rows = [
            seen_TD[start - 1 : stop] for seen_TD, (start, stop) in zip(done, spans, strict=True)
        ]
        normed_XD = _normed(self._norm, padded(torch.cat(rows)))
        lengths = [len(part) for part in rows]
        return list(self._head.apart(normed_XD)[: sum(lengths)].float().split(lengths))


def _is_known(layer: Any) -> bool:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    if type(layer) is not LlamaDecoderLayer or layer._forward_hooks:
        return False
    return layer.mlp.config.hidden_act == "silu" and all(map(_is_packed, _Layer(layer).products))


def _is_packed(part: Any) -> bool:
    # Where processes share weights, this one does not hold their numbers.
    return (
        type(part) is PackedLinear
        and can_be_packed(part.weight)
        and part.weight.shape == (part.out_features, part.in_features)
    )


class _Layer:
    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._head_size, self._scaling = attention.head_dim, attention.scaling
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._inner = attention.q_proj, attention.k_proj, attention.v_proj
        self._outer = attention.o_proj
        self._gate, self._up, self._down = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    @property
    def products(self) -> tuple[Any, ...]:
        return (*self._inner, self._outer, self._gate, self._up, self._down)

    def __call__(
        self, hidden_XD: Tensor, rotation: Sequence[Tensor], lengths: Sequence[int]
    ) -> Tensor:
        normed_XD = _normed(self._norms[0], hidden_XD)
        query, key, value_XNH = (
            part.apart(normed_XD).unflatten(-1, (-1, self._head_size)) for part in self._inner
        )
        parts = [
            part_XNH.split(lengths)
            for part_XNH in (_turned(query, rotation), _turned(key, rotation), value_XNH)
        ]
        seen_XD = torch.cat([self._attended(*own) for own in zip(*parts, strict=True)])
        hidden_XD = self._outer.apart(seen_XD, "add", hidden_XD)
        normed_XD = _normed(self._norms[1], hidden_XD)
        gate_XI = self._gate.apart(normed_XD, "swish")
        down_XD: Tensor = self._down.apart(
            self._up.apart(normed_XD, "mul", gate_XI), "add", hidden_XD
        )
        return down_XD

    def _attended(self, *parts_TNH: Tensor) -> Tensor:
        """Causal attention within a sequence, [T, D]."""
        query, key, value = (part_TNH.transpose(0, 1)[None] for part_TNH in parts_TNH)
        seen_1NTH = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self._scaling, enable_gqa=True
        )
        return seen_1NTH[0].transpose(0, 1).flatten(1)


def _normed(norm: Any, hidden_XD: Tensor) -> Tensor:
    return functional.rms_norm(hidden_XD, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _turned(values_XNH: Tensor, rotation: Sequence[Tensor]) -> Tensor:
    """Rotary positions."""
    cos_X1H, sin_X1H = rotation
    first, second = values_XNH.chunk(2, dim=-1)
    return values_XNH * cos_X1H + torch.cat([-second, first], dim=-1) * sin_X1H
