"""Hidden states of an input at the edit layer l_e, and padded batches of them.

No edit ever changes these tensors, so they are computed once per input (METHOD.md 6) and training,
expert generation and evaluation all start from them. Positions of a sequence:

    [text before] image, prompt, target
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Span = tuple[int, int]
"""Half-open range of positions."""
NO_PYRAMIDS = torch.zeros(0, 0)
PromptRows = Tensor | Callable[[], Tensor]
"""Embeddings of prompts, or what computes them: while generating, only those of an input are
computed whose image passes the visual filter."""


def resolved(rows: PromptRows) -> Tensor:
    """Embeddings of prompts, computed if they are not known yet, [W, P]."""
    return rows if isinstance(rows, Tensor) else rows()


@dataclass(frozen=True, kw_only=True)
class LayerStates:
    """One input at layer l_e: everything needed to route and score it."""

    hidden_TD: Tensor
    """Output of decoder layer l_e at every position; float32."""
    pyramid_E: Tensor
    """Pooled levels of the image tower (`image_tower.py`); empty for a text-only input and
    for a backbone without a pyramid. With views, that of a figure in the image may follow."""
    prompt_embeddings: PromptRows = NO_PYRAMIDS
    """Embeddings of the bare prompt (`prompt_encoder.py`) and, of an edit, of its further wordings;
    empty for a backbone without an encoder."""
    target_embeddings_OD: Tensor
    """Input embeddings of the target tokens."""
    image_span: Span
    prompt_span: Span
    """Prompt tokens after the image, up to and including the last one before the target."""
    target_span: Span
    target_ids_O: Tensor
    """int64."""
    grid: tuple[int, ...] | None = None
    """Grid of the image's patches, for model families whose positions depend on it."""
    form: int | None = None
    """Which form of the edit that it keeps most answers, 0 the fact itself; None: its words tell
    (`prompt_key`)."""

    @property
    def prompt_embeddings_WP(self) -> Tensor:
        """Computed if they are not known yet."""
        return resolved(self.prompt_embeddings)

    @property
    def has_image(self) -> bool:
        """Whether the input has an image; others are routed to textual experts alone."""
        return self.image_span[1] > self.image_span[0]

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.hidden_TD.shape[0])


class Padded(NamedTuple):
    """Zero-padded sequences and their mask; a tuple, so that module hooks see its tensors."""

    values_BSD: Tensor
    mask_BS: Tensor
    """bool, True at real positions."""

    @classmethod
    def pad(cls, parts: Sequence[Tensor]) -> "Padded":
        """Batch sequences of different lengths."""
        lengths = torch.tensor([len(part) for part in parts])
        values = pad_sequence(list(parts), batch_first=True)
        mask = torch.arange(values.shape[1]) < lengths[:, None]
        return cls(values_BSD=values, mask_BS=mask.to(values.device))


def pad_hidden(states: Sequence[LayerStates]) -> Padded:
    """Hidden states at all positions."""
    return Padded.pad([state.hidden_TD for state in states])


def pad_prompts(states: Sequence[LayerStates]) -> Padded:
    """Hidden states of the prompts, h_p."""
    return Padded.pad([state.hidden_TD[slice(*state.prompt_span)] for state in states])


def pad_images(states: Sequence[LayerStates]) -> Padded:
    """Hidden states of the images, h_v."""
    return Padded.pad([state.hidden_TD[slice(*state.image_span)] for state in states])


def image_pyramids(states: Sequence[LayerStates], size: int, *, is_edit: bool) -> list[Tensor]:
    """Of an edit's image, or of another input's image and its figure if there is one, [V, E]; all
    inputs must have an image."""
    return [state.pyramid_E.view(-1, size)[: 1 if is_edit else None] for state in states]


def prompt_embeddings(states: Sequence[LayerStates], *, is_edit: bool) -> list[Tensor]:
    """Of each edit all its wordings, of another input its prompt, [W, P]."""
    return [state.prompt_embeddings_WP[: None if is_edit else 1] for state in states]
