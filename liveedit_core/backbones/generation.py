"""Generation by transformers with a residual at the edit layer: routed once, at prefill.

The model generates through a view (`views.py`) with a hook on layer l_e. The hook routes at
prefill, on the hidden states of the prompts, and adds the residual at every step. Beams and several
sequences of one prompt are neighbours in the batch and share the routing of their prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import Residual, RouteOnce
from liveedit_core.states import LayerStates, Span


@dataclass(frozen=True, kw_only=True)
class GenerationBatch:
    """Prompts that generate together: all with an image, or none."""

    index: Sequence[int]
    """Of each in the list of inputs."""
    arguments: dict[str, Tensor]
    """Of transformers' `generate`, padded on the left."""
    spans: Sequence[tuple[Span, Span]]
    """Of image and prompt, without padding."""
    has_image: bool
    pyramids: Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What was generated for one prompt."""

    texts: tuple[str, ...]
    """One, or as many as `num_return_sequences`."""
    token_ids: tuple[tuple[int, ...], ...]
    """Of each, up to the end token."""
    details: Any = field(default=None, repr=False)
    """transformers' own output of the whole batch, with `return_dict_in_generate`."""
    row: int = 0
    """Index of the prompt in that batch."""


def read_continuations(
    batch: GenerationBatch,
    output: Any,
    end_ids: frozenset[int],
    decode: Callable[[Sequence[int]], str],
) -> dict[int, Continuation]:
    """What transformers' `generate` returned, by index of the input."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    start = batch.arguments["input_ids"].shape[1]
    per_prompt = len(sequences) // len(batch.index)
    done = {}
    for row, i in enumerate(batch.index):
        own = sequences[row * per_prompt : (row + 1) * per_prompt, start:].tolist()
        token_ids = tuple(_until_end(ids, end_ids) for ids in own)
        done[i] = Continuation(
            texts=tuple(decode(ids) for ids in token_ids),
            token_ids=token_ids,
            details=None if isinstance(output, Tensor) else output,
            row=row,
        )
    return done


def _until_end(ids: Sequence[int], end_ids: frozenset[int]) -> tuple[int, ...]:
    stop = next((i for i, token in enumerate(ids) if token in end_ids), len(ids))
    return tuple(ids[:stop])


class RoutedLayer:
    """Hook of layer l_e for one batch: routes at prefill, adds the residual at every step."""

    def __init__(self, route: RouteOnce, batch: GenerationBatch) -> None:
        self._route = route
        self._batch = batch
        self._residual: Residual | None = None
        self._is_routed = False

    def __call__(self, hidden_BTD: Tensor) -> Tensor | None:
        """The edited hidden states; None where no expert is kept."""
        count = len(self._batch.index)
        copies = hidden_BTD.shape[0] // count
        if not self._is_routed:
            self._residual = self._route(self._batch.index, self._states(hidden_BTD[::copies]))
            self._is_routed = True
        if self._residual is None:
            return None
        # The beams of a prompt are neighbours: joined, they are one longer sequence.
        joined = hidden_BTD.reshape(count, -1, hidden_BTD.shape[-1])
        return hidden_BTD + self._residual(joined).reshape(hidden_BTD.shape)

    def _states(self, hidden_BTD: Tensor) -> list[LayerStates]:
        states = []
        for row, (image, prompt) in enumerate(self._batch.spans):
            hidden_TD = hidden_BTD[row, hidden_BTD.shape[1] - prompt[1] :].float().cpu().clone()
            states.append(
                LayerStates(
                    hidden_TD=hidden_TD,
                    pyramid_E=self._batch.pyramids[row],
                    target_embeddings_OD=hidden_TD[:0],
                    image_span=image,
                    prompt_span=prompt,
                    target_span=(prompt[1], prompt[1]),
                    target_ids_O=torch.zeros(0, dtype=torch.int64),
                )
            )
        return states
