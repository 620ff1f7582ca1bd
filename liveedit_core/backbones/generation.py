"""Generation by transformers with a residual at the edit layer: routed once, at prefill.

The model generates behind a view (`views.py`) whose layer l_e asks for the residual the first time
it runs, on the rows of the prompts, and adds it from then on. All arguments of transformers'
`generate` are allowed: beams and several sequences of one prompt stand side by side in the batch
and share the routing of their prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput, Residual, RouteOnce
from liveedit_core.backbones.views import RowsHook
from liveedit_core.errors import ConfigError
from liveedit_core.states import LayerStates, Span


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts that generate together: all with an image, or none."""

    index: Sequence[int]
    """Where they are in the list of inputs."""
    arguments: dict[str, Tensor]
    """What transformers' `generate` takes of them, padded on the left."""
    spans: Sequence[tuple[Span, Span]]
    """Image and prompt rows of each, without padding."""
    has_image: bool
    pyramids: Callable[[], Sequence[Tensor]]
    """Asked when the batch is routed: at layer l_e, after the image tower."""
    model: Any = None
    """A view of the backbone's model to generate with; None for the model itself."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What was generated for one prompt; several sequences where several were asked for."""

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    """Without what comes after the end token."""
    details: Any = field(default=None, repr=False)
    """transformers' own output of the whole batch, with `return_dict_in_generate`."""
    row: int = 0
    """Which prompt of that batch this is."""


class Generating(Protocol):
    """A backbone that generates by transformers."""

    end_ids: frozenset[int]
    pad_id: int

    def prompt_batches(self, inputs: Sequence[BackboneInput]) -> list[PromptBatch]:
        """The prompts in batches, whatever targets the inputs carry."""
        ...

    def generating_model(self, hook: RowsHook | None, batch: PromptBatch) -> Any:
        """What generates a batch: the model, or a view of it with a hook at layer l_e."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """See `protocol.Backbone.decode`."""
        ...


@torch.no_grad()
def continuations(
    backbone: Generating,
    inputs: Sequence[BackboneInput],
    route: RouteOnce | None,
    **arguments: Any,
) -> list[Continuation]:
    """Continue prompts.

    Args:
        backbone: has the model.
        inputs: prompts with or without images.
        route: asked once for each batch with images; None leaves the backbone alone.
        arguments: of transformers' `generate`.

    Raises:
        ConfigError: an argument that would cut the prefill into pieces.
    """
    if arguments.get("prefill_chunk_size"):
        raise ConfigError("prefill_chunk_size: routing needs the whole prompt in one piece")
    done: dict[int, Continuation] = {}
    for batch in backbone.prompt_batches(inputs):
        hook = RoutedLayer(route, batch) if route is not None and batch.has_image else None
        model = backbone.generating_model(hook, batch)
        output = model.generate(**batch.arguments, **arguments)
        sequences = output if isinstance(output, Tensor) else output.sequences
        start = batch.arguments["input_ids"].shape[1]
        per_prompt = len(sequences) // len(batch.index)
        for row, i in enumerate(batch.index):
            own = sequences[row * per_prompt : (row + 1) * per_prompt, start:].tolist()
            token_ids = tuple(_until_end(ids, backbone.end_ids) for ids in own)
            done[i] = Continuation(
                texts=tuple(backbone.decode(ids) for ids in token_ids),
                token_ids=token_ids,
                details=None if isinstance(output, Tensor) else output,
                row=row,
            )
    return [done[i] for i in range(len(inputs))]


def _until_end(ids: Sequence[int], end_ids: frozenset[int]) -> tuple[int, ...]:
    stop = next((i for i, token in enumerate(ids) if token in end_ids), len(ids))
    return tuple(ids[:stop])


class RoutedLayer:
    """Hook of layer l_e for one batch: routes at prefill, adds the residual at every step.

    Args:
        route: asked with the prompts' states.
        batch: the prompts.
    """

    def __init__(self, route: RouteOnce, batch: PromptBatch) -> None:
        self._route = route
        self._batch = batch
        self._residual: Residual | None = None
        self._is_routed = False

    def __call__(self, rows_BTD: Tensor) -> Tensor | None:
        """What the rows become; None where nothing is kept."""
        count = len(self._batch.index)
        copies = rows_BTD.shape[0] // count
        if not self._is_routed:
            self._residual = self._route(self._batch.index, self._states(rows_BTD[::copies]))
            self._is_routed = True
        if self._residual is None:
            return None
        # Beams of one prompt are neighbours: side by side they are one longer row of tokens.
        joined = rows_BTD.reshape(count, -1, rows_BTD.shape[-1])
        return rows_BTD + self._residual(joined).reshape(rows_BTD.shape)

    def _states(self, rows_BTD: Tensor) -> list[LayerStates]:
        states = []
        pyramids = self._batch.pyramids()
        for row, (image, prompt) in enumerate(self._batch.spans):
            hidden_TD = rows_BTD[row, rows_BTD.shape[1] - prompt[1] :].float().cpu().clone()
            states.append(
                LayerStates(
                    hidden_TD=hidden_TD,
                    pyramid_E=pyramids[row],
                    target_embeddings_OD=hidden_TD[:0],
                    image_span=image,
                    prompt_span=prompt,
                    target_span=(prompt[1], prompt[1]),
                    target_ids_O=torch.zeros(0, dtype=torch.int64),
                )
            )
        return states
