"""The generator: all trained modules of LiveEdit, and the folder that holds a checkpoint."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from liveedit_core.errors import IntegrityError, ShapeError
from liveedit_core.method.config import NUM_VIEWS, GeneratorConfig
from liveedit_core.method.expert import ExpertGenerator
from liveedit_core.method.features import FeatureExtractor, Features, PromptExtractor
from liveedit_core.method.prompt_key import PromptKey
from liveedit_core.method.visual_key import VisualKey
from liveedit_core.states import (
    LayerStates,
    Padded,
    image_pyramids,
    pad_images,
    pad_prompts,
    prompt_embeddings,
)
from liveedit_core.whole_files import whole_file, write_whole

WEIGHTS_FILE = "generator.safetensors"
DIGEST_FILE = "digest.txt"
"""Of both; absent in checkpoints of earlier releases."""
CONFIG_FILE = "config.json"


class LearnedTensor(nn.Module):
    """A parameter in a module of its own.

    ZeRO-3 gathers a parameter's shards only while the forward of its module runs, so `forward`
    returns a copy. A scalar is stored with one dimension, as DeepSpeed cannot shard scalars.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.shape = value.shape
        self.value = nn.Parameter(value.reshape(self.shape or (1,)))

    def forward(self) -> Tensor:
        """The tensor."""
        return self.value.clone().reshape(self.shape)


class LiveEditGenerator(nn.Module):
    """Two expert generators, two feature extractors (or keys) and a LayerNorm.

    Every parameter belongs to a submodule and is used in that submodule's forward only, so that
    ZeRO-3 can shard them all.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.has_pyramid = config.visual_source == "tower_pyramid"
        self.has_prompt_key = config.prompt_source == "sentences"
        if self.has_prompt_key:
            self.prompt_key = PromptKey(config)
        if self.has_pyramid:
            self.visual_key = VisualKey(config)
            extractor = nn.Identity if self.has_prompt_key else partial(PromptExtractor, config)
            self.edit_extractor: nn.Module = extractor()
            self.input_extractor: nn.Module = extractor()
        else:
            self.edit_extractor = FeatureExtractor(config, has_sentinel=False)
            self.input_extractor = FeatureExtractor(config, has_sentinel=True)
        self.down_generator = ExpertGenerator(config)
        self.up_generator = ExpertGenerator(config)
        self.hidden_norm = nn.LayerNorm(config.hidden_size)
        if config.has_target_embeddings:
            self.end_row = LearnedTensor(torch.randn(1, config.hidden_size))
        if config.num_target_positions:
            self.down_generator.initialize_as_copier(1)
            past = config.num_target_positions if config.has_target_embeddings else 0
            self.up_generator.initialize_as_copier(2 + past)
        if config.soft_routing == "prompt_and_visual":
            self.visual_weight = LearnedTensor(torch.tensor(1.0))
        self.digest = ""
        """Of the checkpoint it was loaded from."""
        self.register_state_dict_post_hook(_shorten_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_lengthen_names)  # type: ignore[no-untyped-call]

    def margin_weight(self) -> Tensor | float:
        """c: weight of the visual margin in the softmax; 0 in the paper."""
        return self.visual_weight() if hasattr(self, "visual_weight") else 0.0

    def edit_features(self, states: Sequence[LayerStates]) -> Features:
        """Features stored with an expert (Eq. 3 and 4)."""
        features = self._features(self.edit_extractor, states)
        return self._with_prompts(features, states, range(len(states)), is_edit=True)

    def input_features(
        self, states: Sequence[LayerStates], *, has_prompts: bool = True
    ) -> Features:
        """Features of an input, with its threshold (Eq. 3 to 5); without `has_prompts` those of
        prompts are zero."""
        features = self._features(self.input_extractor, states)
        return self.with_prompts(features, states) if has_prompts else features

    def with_prompts(
        self, features: Features, states: Sequence[LayerStates], is_asked_B: Tensor | None = None
    ) -> Features:
        """Input features with those of prompts: all that are known already, and what
        `is_asked_B` (None: every input) needs."""
        asked = [True] * len(states) if is_asked_B is None else is_asked_B.tolist()
        known = [isinstance(state.prompt_embeddings, Tensor) for state in states]
        rows = [row for row in range(len(states)) if asked[row] or known[row]]
        return self._with_prompts(features, states, rows, is_edit=False)

    def _with_prompts(
        self,
        features: Features,
        states: Sequence[LayerStates],
        rows: Sequence[int],
        *,
        is_edit: bool,
    ) -> Features:
        if not self.has_prompt_key or not rows:
            return features
        pyramids = prompt_embeddings([states[row] for row in rows], is_edit=is_edit)
        is_textual = [not states[row].has_image for row in rows]
        found_XQM = self.prompt_key(pyramids, is_edit=is_edit, is_textual=is_textual)
        index = torch.tensor(rows, device=found_XQM.device)
        zeros_BQM = found_XQM.new_zeros(len(states), *found_XQM.shape[1:])
        return features._replace(prompt_BQM=zeros_BQM.index_copy(0, index, found_XQM))

    def _features(self, extractor: nn.Module, states: Sequence[LayerStates]) -> Features:
        """Those of prompts are zero, and so are those of the images of states that have none."""
        shown = [row for row, state in enumerate(states) if state.has_image]
        if not self.has_prompt_key or len(shown) == len(states):
            return self._features_of_images(extractor, states)
        if not shown:
            is_edit = extractor is self.edit_extractor
            return self._features_of_none(len(states), states[0].hidden_TD, is_edit=is_edit)
        some = self._features_of_images(extractor, [states[row] for row in shown])
        index = torch.tensor(shown, device=states[0].hidden_TD.device)

        def among_all(part_SQM: Tensor) -> Tensor:
            zeros_BQM = part_SQM.new_zeros(len(states), *part_SQM.shape[1:])
            return zeros_BQM.index_copy(0, index, part_SQM)

        return some.mapped(among_all)

    def _features_of_none(self, count: int, like: Tensor, *, is_edit: bool) -> Features:
        zeros_BQM = like.new_zeros(count, self.config.num_queries, self.config.module_dim)
        if self.config.visual_filter == "sentinel":
            return Features(zeros_BQM, zeros_BQM, zeros_BQM, zeros_BQM)
        zeros_BVR = like.new_zeros(count, 1 if is_edit else NUM_VIEWS, self.config.visual_rank)
        zeros_B1R = zeros_BVR[:, :1]
        return Features(zeros_BVR, zeros_BQM, zeros_B1R, zeros_B1R)

    def _features_of_images(self, extractor: nn.Module, states: Sequence[LayerStates]) -> Features:
        is_edit, prompt_BQM = extractor is self.edit_extractor, None
        if self.has_prompt_key:
            shape = (len(states), self.config.num_queries, self.config.module_dim)
            prompt_BQM = states[0].hidden_TD.new_zeros(shape)
        if not self.has_pyramid:
            features: Features = extractor(pad_prompts(states), pad_images(states), prompt_BQM)
            return features
        if prompt_BQM is None:
            prompt_BQM = extractor(pad_prompts(states))
        pyramids = image_pyramids(states, self.config.visual_size, is_edit=is_edit)
        visual, threshold, same = self.visual_key(pyramids, is_edit=is_edit)
        return Features(visual, prompt_BQM, threshold, same)

    @property
    def can_route_texts(self) -> bool:
        """Whether prompts alone tell edits apart: without it, every edit needs an image."""
        return self.has_prompt_key and bool(self.prompt_key.text_size) and self.config.min_gate > 0

    @property
    def filter_offset(self) -> float:
        """How much an image must beat the runner-up by, where no bank says it."""
        return float(self.visual_key.offset) if self.has_pyramid else 0.0

    def write_matrices(self, states: Sequence[LayerStates]) -> tuple[Tensor, Tensor]:
        """(down, up), each [B, R, D], of the experts of some edits (Eq. 1).

        Slots beyond an edit's own rank are zero.
        """
        signal, position_BS = self.edit_signal(states)
        down_BRD, up_BRD = (
            write(signal, position_BS) for write in (self.down_generator, self.up_generator)
        )
        if not self.config.has_own_ranks:
            return down_BRD, up_BRD
        ranks_B = self.ranks(states).to(down_BRD.device)
        is_used_BR = torch.arange(self.config.rank, device=ranks_B.device) < ranks_B[:, None]
        return down_BRD * is_used_BR[..., None], up_BRD * is_used_BR[..., None]

    def ranks(self, states: Sequence[LayerStates]) -> Tensor:
        """Rank of the expert of each edit, int64 [B] on the CPU."""
        if not self.config.has_own_ranks:
            return torch.full((len(states),), self.config.rank)
        return torch.tensor([len(state.target_ids_O) + 1 for state in states])

    def edit_signal(self, states: Sequence[LayerStates]) -> tuple[Padded, Tensor]:
        """h_v ++ h_p ++ h_o (++ target embeddings ++ end), and each element's position index."""
        parts, positions = [], []
        end_row = self.end_row() if self.config.has_target_embeddings else None
        count = self.config.num_target_positions
        last = max(count - 1, 0)  # later target positions share this index
        longest = self.config.max_target_tokens
        for state in states:
            if longest is not None and len(state.target_ids_O) > longest:
                raise ShapeError(
                    f"a target has {len(state.target_ids_O)} tokens; an expert of this generator "
                    f"holds {longest}"
                )
            spans = (state.image_span, state.prompt_span, state.target_span)
            part = [state.hidden_TD[slice(*span)] for span in spans]
            num_image, num_prompt, num_target = (len(piece) for piece in part)
            targets = torch.arange(num_target).clamp(max=last) + 2
            others = torch.zeros(num_image + num_prompt, dtype=torch.int64)
            others[-1] = 1
            index = [others, targets]
            if end_row is not None:
                part += [state.target_embeddings_OD, end_row]
                end = torch.tensor([min(num_target, last) + 2])
                index += [targets + count, end + count]
            parts.append(torch.cat(part))
            positions.append(torch.cat(index))
        signal = Padded.pad(parts)
        position_BS = nn.utils.rnn.pad_sequence(positions, batch_first=True)
        return signal, position_BS.to(signal.values_BSD.device)


LEARNED_TENSORS = ("end_row", "visual_weight")
"""Attributes that are a `LearnedTensor`; checkpoints hold them without `.value` and unreshaped."""


def _shorten_names(module: nn.Module, tensors: Any, prefix: str, _: Any) -> None:
    """From names in memory to names in checkpoints."""
    for name in LEARNED_TENSORS:
        if f"{prefix}{name}.value" in tensors:
            value = tensors.pop(f"{prefix}{name}.value")
            tensors[f"{prefix}{name}"] = value.reshape(getattr(module, name).shape)


def _lengthen_names(module: nn.Module, tensors: Any, prefix: str, *_: Any) -> None:
    """Inverse of `_shorten_names`."""
    for name in LEARNED_TENSORS:
        if f"{prefix}{name}" in tensors and hasattr(module, name):
            value = tensors.pop(f"{prefix}{name}")
            tensors[f"{prefix}{name}.value"] = value.reshape(getattr(module, name).value.shape)


def save_generator(generator: LiveEditGenerator, folder: Path) -> str:
    """Write weights, config and their digest, and return the digest.

    A folder whose save was cut off has another digest than it says, or none, and does not open.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
    text = json.dumps(generator.config.to_dict(), indent=2, sort_keys=True) + "\n"
    with whole_file(folder / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)
        digest = _digest(text.encode(), partial.read_bytes())
        write_whole(folder / DIGEST_FILE, digest + "\n")
    write_whole(folder / CONFIG_FILE, text)
    return digest


def digest_of(folder: Path) -> str:
    """sha256 over weights and config of a checkpoint folder."""
    return _digest(*((folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)))


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def load_generator(folder: Path) -> LiveEditGenerator:
    """Read a checkpoint folder; float32 on the CPU, eval mode, frozen."""
    try:
        config = GeneratorConfig.from_dict(json.loads((folder / CONFIG_FILE).read_text()))
        tensors = load_file(folder / WEIGHTS_FILE)
        generator = LiveEditGenerator(config)
        generator.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"generator checkpoint {folder}: {error}") from error
    generator.digest = digest_of(folder)
    said = folder / DIGEST_FILE
    if said.exists() and said.read_text().strip() != generator.digest:
        raise IntegrityError(
            f"generator checkpoint {folder}: its parts are not of one save, which was cut off, or "
            "were altered; save or fetch it again"
        )
    return generator.eval().requires_grad_(False)
