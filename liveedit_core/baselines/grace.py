"""GRACE: a codebook at one layer; inputs near a key get the value learned for it.

    h = row that enters layer l, at the last prompt token; k = nearest key
    output of layer l there = value of k, if |h - k| <= radius of k; else untouched

Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors"
(NeurIPS 2023), Section 3 and Algorithm 1: an edit far from all keys adds a key; one near a key with
the same target widens that key's radius to reach it; one near a key with another target adds a key,
and both radii become half the distance. Values are learned by Adam on the edit, rate 1.0.

What differs. The layer is a whole decoder layer, as in the paper's text; EasyEdit wraps one
matrix. Only the row of the last prompt token is exchanged ("replace_last"); later tokens see it
through attention. A value begins as the layer's own output ("warm" in the authors' code), ends
early at a low loss, and learns the end of the answer, too. The radius is a fraction of the key's
length (`GraceConfig.radius`). A split never widens a radius. An edit whose key is there already
with another target takes its place.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.backbones.huggingface import HuggingFaceBackbone, slice_decoder
from liveedit_core.baselines.edited_layers import LayerEditor
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.settings import GraceConfig
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates

Label = tuple[int, ...]
"""Token ids of a target."""
SAME_PLACE = 1e-4
"""Keys nearer than this fraction of their length differ by rounding alone."""


class Codebook:
    """Keys with a radius, a value and a label each.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        self.keys_KD = torch.zeros(0, width)
        self.values_KD = torch.zeros(0, width)
        self.radii_K = torch.zeros(0)
        self.labels: list[Label] = []

    def __len__(self) -> int:
        return len(self.labels)

    def nearest(self, queries_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest key and its number, [B] each; there must be a key."""
        distances_BK = torch.cdist(
            queries_BD.float(), self.keys_KD, compute_mode="donot_use_mm_for_euclid_dist"
        )
        found = distances_BK.min(1)
        return found.values, found.indices

    def place(self, query_D: Tensor, label: Label, radius: float) -> int | None:
        """Make place for an edit (Algorithm 1).

        Returns:
            The number of the key whose value is to be learned; None when a key that is there
            already answers it.
        """
        if not len(self):
            return self._add(query_D, label, radius)
        distances, index = self.nearest(query_D[None])
        distance, near = float(distances), int(index)
        if distance > radius + float(self.radii_K[near]):
            return self._add(query_D, label, radius)
        if self.labels[near] == label:
            self.radii_K[near] = max(float(self.radii_K[near]), distance)
            return None
        if distance <= SAME_PLACE * float(query_D.norm()):
            self.labels[near] = label
            return near
        half = distance / 2
        self.radii_K[near] = min(float(self.radii_K[near]), half)
        # A little less, so that no point belongs to both.
        return self._add(query_D, label, half * (1 - SAME_PLACE))

    def _add(self, query_D: Tensor, label: Label, radius: float) -> int:
        self.keys_KD = torch.cat([self.keys_KD, query_D[None].float()])
        self.values_KD = torch.cat([self.values_KD, torch.zeros_like(query_D[None]).float()])
        self.radii_K = torch.cat([self.radii_K, torch.tensor([radius])])
        self.labels.append(label)
        return len(self) - 1


class GraceLayer(nn.Module):
    """A decoder layer behind a codebook.

    Args:
        layer: the frozen layer.
        index: its number, by which a key-value cache knows it.
        codebook: is asked about each prompt.
    """

    def __init__(self, layer: nn.Module, index: int, codebook: Codebook) -> None:
        super().__init__()
        self.layer = layer
        self.index = index
        self.codebook = codebook
        self.ends_B: Tensor | None = None
        """Row of each input's last prompt token; None: the last row."""

    def forward(self, hidden_BTD: Tensor, **options: Any) -> Tensor:
        """The layer's output; where a prompt lies within a radius, with the value in its place."""
        output_BTD: Tensor = self.layer(hidden_BTD, **options)
        cache = options.get("past_key_values")
        # The layer has filled the cache by now: more than these rows means a decoding step.
        is_step = cache is not None and cache.get_seq_length(self.index) > hidden_BTD.shape[1]
        if is_step or not len(self.codebook):
            return output_BTD
        rows_B = torch.arange(len(hidden_BTD))
        ends_B = rows_B * 0 + hidden_BTD.shape[1] - 1 if self.ends_B is None else self.ends_B
        distance_B, nearest_B = self.codebook.nearest(hidden_BTD[rows_B, ends_B])
        inside_B = distance_B <= self.codebook.radii_K[nearest_B]
        if inside_B.any():
            values_BD = self.codebook.values_KD[nearest_B[inside_B]].to(output_BTD)
            output_BTD = output_BTD.clone()
            output_BTD[rows_B[inside_B], ends_B[inside_B]] = values_BD
        return output_BTD


class Grace(LayerEditor):
    """A backbone one decoder layer of which stands behind a codebook.

    Args:
        backbone: the frozen model.
        config: the layer, the radius, and how a value is learned.
        batch_size: probes per forward.
    """

    name = "GRACE"

    def __init__(
        self,
        backbone: HuggingFaceBackbone,
        config: GraceConfig | None = None,
        *,
        batch_size: int = 16,
    ) -> None:
        self.config = config or GraceConfig()
        super().__init__(backbone, first_layer=self.config.layer, batch_size=batch_size)
        decoder, first = backbone.decoder, self.first_layer
        self._own = slice_decoder(decoder, slice(first, first + 1), has_norm=False)
        self._above = slice_decoder(decoder, slice(first + 1, None), has_norm=True)

    def fresh_layers(self) -> list[nn.Module]:
        """The layers, the first behind an empty codebook."""
        first, *others = list(self.backbone.decoder.layers)[self.first_layer :]
        self.codebook = Codebook(self.backbone.hidden_size)
        self.edited = GraceLayer(first, self.first_layer, self.codebook)
        return [self.edited, *others]

    @contextmanager
    def prompts_end(self, states: Sequence[LayerStates] | None) -> Iterator[None]:
        """See `LayerEditor.prompts_end`."""
        if states is not None:
            self.edited.ends_B = torch.tensor([state.target_span[0] - 1 for state in states])
        try:
            yield
        finally:
            self.edited.ends_B = None

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Make place for one edit after another, then learn their values, which depend on no other
        edit: together they give what each would give alone."""
        learned_from: dict[int, LayerStates] = {}
        for row_TD, state in zip(self.rows(states), states, strict=True):
            query_D = row_TD[state.target_span[0] - 1]
            label = tuple(state.target_ids_O.tolist())
            number = self.codebook.place(query_D, label, self.config.radius * float(query_D.norm()))
            if number is not None:
                learned_from[number] = state
        numbers = sorted(learned_from, key=lambda number: learned_from[number].num_tokens)
        for start in range(0, len(numbers), self.batch_size):
            chosen = numbers[start : start + self.batch_size]
            self.codebook.values_KD[chosen] = self._learned([learned_from[i] for i in chosen])

    def _learned(self, states: Sequence[LayerStates]) -> Tensor:
        """Values of some edits, [B, D]; each is taken when its own loss is low enough."""
        with torch.no_grad():
            output = self._own(inputs_embeds=self.rows(states), use_cache=False)
        output_BTD: Tensor = output.last_hidden_state
        rows_B = torch.arange(len(states))
        ends_B = torch.tensor([state.target_span[0] - 1 for state in states])
        values_BD = nn.Parameter(output_BTD[rows_B, ends_B].clone())
        optimizer = torch.optim.Adam([values_BD], lr=self.config.learning_rate)
        learned_BD = values_BD.detach().clone()
        is_open_B = torch.ones(len(states), dtype=torch.bool)
        for _ in range(self.config.max_steps):
            with torch.enable_grad():
                edited_BTD = output_BTD.index_put((rows_B, ends_B), values_BD)
                logits = self.head(self._above, edited_BTD, states, has_end=True)
                losses = [self.target_loss(*pair) for pair in zip(logits, states, strict=True)]
                losses_B = torch.stack(losses)
                losses_B.sum().backward()
            is_open_B &= losses_B.detach() >= self.config.stop_loss
            if not is_open_B.any():
                break
            optimizer.step()
            optimizer.zero_grad()
            learned_BD[is_open_B] = values_BD.detach()[is_open_B]
        return learned_BD.float()

    def memory(self) -> EditorMemory:
        """Keys, values, radii and the labels (8 bytes a token)."""
        book = self.codebook
        labels = 8 * sum(len(label) for label in book.labels)
        stored = num_bytes([book.keys_KD, book.values_KD, book.radii_K]) + labels
        return EditorMemory(fixed_bytes=0, stored_bytes=stored)
