"""GRACE: a codebook at one layer; inputs near a key get the value learned for it.

    h = input of layer l at the last prompt token; k = nearest key
    output of layer l there = value of k, if |h - k| <= radius of k; else untouched

Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors"
(NeurIPS 2023), Section 3 and Algorithm 1: an edit far from all keys adds a key; one near a key with
the same target widens that key's radius to reach it; one near a key with another target adds a key,
and both radii become half the distance. Values are learned by Adam on the edit, rate 1.0.

What differs. The layer is a whole decoder layer, as in the paper's text; EasyEdit wraps one
matrix. Only the output at the last prompt token is replaced ("replace_last"). A value begins as the
layer's own output ("warm" in the authors' code), ends early at a low loss, and learns the end of
the answer, too. The radius is a fraction of the key's norm. A split never widens a radius. An edit
whose key is there already with another target takes its place.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.backbones.views import WrappedLayer
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.edited_layers import LayerEditor, cached_tokens
from liveedit_core.baselines.protocol import EditorMemory, batches_by_length, num_bytes
from liveedit_core.baselines.settings import GraceConfig
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates

Label = tuple[int, ...]
"""Token ids of a target."""
SAME_KEY = 1e-4
"""Keys nearer than this fraction of their length differ by rounding alone."""


class Codebook:
    """Keys with a radius, a value and a label each; float32."""

    def __init__(self, hidden_size: int, device: torch.device | None = None) -> None:
        self.keys_KD = torch.zeros(0, hidden_size, device=device)
        self.values_KD = torch.zeros(0, hidden_size, device=device)
        self.radii_K = torch.zeros(0, device=device)
        self.labels: list[Label] = []

    def __len__(self) -> int:
        return len(self.labels)

    def nearest(self, queries_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest key and its index, [B] each; there must be a key."""
        distances_BK = torch.cdist(
            queries_BD.float(), self.keys_KD, compute_mode="donot_use_mm_for_euclid_dist"
        )
        found = distances_BK.min(1)
        return found.values, found.indices

    def insert(self, query_D: Tensor, label: Label, radius: float) -> int | None:
        """Insert an edit (Algorithm 1); the index of the key whose value is to be learned, or None
        when an existing key answers it."""
        if not len(self):
            return self._add(query_D, label, radius)
        distances, index = self.nearest(query_D[None])
        distance, near = float(distances), int(index)
        if distance > radius + float(self.radii_K[near]):
            return self._add(query_D, label, radius)
        if self.labels[near] == label:
            self.radii_K[near] = max(float(self.radii_K[near]), distance)
            return None
        if distance <= SAME_KEY * float(query_D.norm()):
            self.labels[near] = label
            return near
        half = distance / 2
        self.radii_K[near] = min(float(self.radii_K[near]), half)
        # A little less, so that no point belongs to both.
        return self._add(query_D, label, half * (1 - SAME_KEY))

    def _add(self, query_D: Tensor, label: Label, radius: float) -> int:
        self.keys_KD = torch.cat([self.keys_KD, query_D[None].float()])
        self.values_KD = torch.cat([self.values_KD, torch.zeros_like(query_D[None]).float()])
        self.radii_K = torch.cat([self.radii_K, torch.tensor([radius]).to(self.radii_K)])
        self.labels.append(label)
        return len(self) - 1


class GraceLayer(WrappedLayer):
    """A decoder layer whose output a codebook may replace; `index` is its index in the decoder."""

    def __init__(self, layer: nn.Module, index: int, codebook: Codebook) -> None:
        super().__init__(layer)
        self.index = index
        self.codebook = codebook
        self.ends_B: Tensor | None = None
        """Tokens of each input up to its prompt's end; None: all of them."""

    def forward(self, hidden_BTD: Tensor, *arguments: Any, **options: Any) -> Tensor:
        output_BTD: Tensor = self.layer(hidden_BTD, *arguments, **options)
        num_cached = cached_tokens(options.get("past_key_values"), self.index)
        # The layer has filled the cache by now: more than these tokens means a decoding step.
        is_step = num_cached > hidden_BTD.shape[1]
        if is_step or not len(self.codebook):
            return output_BTD
        rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
        num_tokens = hidden_BTD.shape[1] if self.ends_B is None else self.ends_B.to(rows_B)
        ends_B = rows_B * 0 + num_tokens - 1
        distance_B, nearest_B = self.codebook.nearest(hidden_BTD[rows_B, ends_B])
        inside_B = distance_B <= self.codebook.radii_K[nearest_B]
        if inside_B.any():
            values_BD = self.codebook.values_KD[nearest_B[inside_B]].to(output_BTD)
            output_BTD = output_BTD.clone()
            output_BTD[rows_B[inside_B], ends_B[inside_B]] = values_BD
        return output_BTD


class Grace(LayerEditor[GraceConfig]):
    """A backbone with a codebook at one decoder layer."""

    name = "GRACE"

    def __init__(
        self, backbone: VisionLanguageBackbone, config: GraceConfig, *, batch_size: int = 16
    ) -> None:
        super().__init__(backbone, config, batch_size=batch_size)
        self._below = backbone.with_layers(self.first_layer, self.own_layers())
        self._above = backbone.with_layers(self.first_layer + 1, self.own_layers()[1:])

    def fresh_layers(self) -> list[nn.Module]:
        first, *others = self.own_layers()
        self.codebook = Codebook(self.backbone.hidden_size, self.backbone.device)
        self.layer = GraceLayer(first, self.first_layer, self.codebook)
        return [self.layer, *others]

    def read_prompts_to(self, ends_B: Tensor | None) -> None:
        self.layer.ends_B = ends_B

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Insert one edit after another, then learn their values, which depend on no other edit:
        in a batch they are what each would be alone."""
        learned_from: dict[int, LayerStates] = {}
        for hidden_TD, state in zip(self.hidden(states), states, strict=True):
            query_D = hidden_TD[state.target_span[0] - 1]
            label = tuple(state.target_ids_O.tolist())
            radius = self.config.radius * float(query_D.norm())
            index = self.codebook.insert(query_D, label, radius)
            if index is not None:
                learned_from[index] = state
        keys, taught = list(learned_from), list(learned_from.values())
        for chosen in batches_by_length([state.num_tokens for state in taught], self.batch_size):
            values_BD = self._learned([taught[i] for i in chosen])
            self.codebook.values_KD[[keys[i] for i in chosen]] = values_BD

    def _learned(self, states: Sequence[LayerStates]) -> Tensor:
        """Values of some edits, [B, D]; each is taken when its own loss is low enough."""
        with torch.no_grad():
            output_BTD = self._below.hidden_at(self.first_layer, states, self.hidden(states))
        ends = [state.target_span[0] - 1 for state in states]
        outputs = zip(output_BTD, ends, strict=True)
        values = [nn.Parameter(output_TD[end].clone()) for output_TD, end in outputs]
        optimizer = torch.optim.Adam(values, lr=self.config.learning_rate)
        learned = [value.detach().clone() for value in values]
        still_open = list(range(len(states)))
        for _ in range(self.config.max_steps):
            batch = [states[i] for i in still_open]
            rows_B = torch.arange(len(batch), device=output_BTD.device)
            places = rows_B, rows_B.new_tensor([ends[i] for i in still_open])
            with torch.enable_grad():
                values_BD = torch.stack([values[i] for i in still_open])
                edited_BTD = output_BTD[still_open].index_put(places, values_BD)
                logits = self._above.target_logits(batch, edited_BTD, has_end=True)
                losses = [self.target_loss(*pair) for pair in zip(logits, batch, strict=True)]
                torch.stack(losses).sum().backward()
            done = [float(loss.detach()) < self.config.stop_loss for loss in losses]
            still_open = [i for i, is_done in zip(still_open, done, strict=True) if not is_done]
            if not still_open:
                break
            optimizer.step()
            optimizer.zero_grad()  # a value without a gradient stays as it is
            for i in still_open:
                learned[i] = values[i].detach().clone()
        return torch.stack(learned).float()

    def memory(self) -> EditorMemory:
        """Keys, values, radii and the labels (8 bytes a token)."""
        book = self.codebook
        labels = 8 * sum(len(label) for label in book.labels)
        stored = num_bytes([book.keys_KD, book.values_KD, book.radii_K]) + labels
        return EditorMemory(fixed_bytes=0, stored_bytes=stored)
