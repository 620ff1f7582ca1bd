"""Generation by transformers with a residual at the edit layer: routed once, at prefill.

The model generates through a view (`views.py`) with a hook on layer l_e. The hook routes at
prefill, on the hidden states of the prompts, and adds the residual at every step. Beams and several
sequences of one prompt are neighbours in the batch and share the routing of their prompt.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from liveedit_core.backbones.prompts import Prepared
from liveedit_core.backbones.protocol import Residual, RouteOnce
from liveedit_core.errors import ConfigError
from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class GenerationBatch:
    """Prompts that generate together: all with an image, or none."""

    index: Sequence[int]
    """Position of each in the list of inputs."""
    arguments: dict[str, Tensor]
    """Of transformers' `generate`, padded on the left."""
    items: Sequence[Prepared]

    @property
    def has_image(self) -> bool:
        return self.items[0].has_image


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What was generated for one prompt."""

    texts: tuple[str, ...]
    """As many as `num_return_sequences`."""
    token_ids: tuple[tuple[int, ...], ...]
    """Up to the end token."""
    details: Any = field(default=None, repr=False)
    """transformers' own output of the whole batch, with `return_dict_in_generate`."""
    row: int = 0
    """Index of the prompt in that batch."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the checkpoint's generation_config and the arguments, those that changed the answer."""


_KEPT_BY_GREEDY = ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")
_OF_SAMPLING = frozenset(
    ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
)
_SILENT = frozenset(
    ("use_cache", "transformers_version", "stopping_criteria", "tokenizer", "_from_model_config")
)


def apply_settings(view: Any, decoder: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a view of a model generates by, as far as it has an effect on the answer. A family may
    leave the generation to a part of it, on the path to its decoder.

    `is_greedy` is taken from the arguments. With it the checkpoint's settings that reweigh, forbid
    or force tokens are left out: the answer would not be the model's argmax.
    """
    from transformers import GenerationConfig

    is_greedy = arguments.pop("is_greedy", False)
    generator = view
    for name in ("", *decoder.split(".")):
        view = getattr(view, name, view)  # of a part that generates, the path begins before it
        if not (hasattr(view, "can_generate") and view.can_generate()):
            continue
        generator = view
        if is_greedy:  # all parts on this path are the view's own
            kept = {name: getattr(view.generation_config, name, None) for name in _KEPT_BY_GREEDY}
            view.generation_config = GenerationConfig(**kept, do_sample=False, num_beams=1)
    settings = {**generator.generation_config.to_diff_dict(), **arguments}
    unused = _SILENT if settings.get("do_sample") else _SILENT | _OF_SAMPLING
    return {name: value for name, value in settings.items() if name not in unused}


KNOWN_GOOD: Mapping[str, Any] = {"max_new_tokens": 1, "is_greedy": True}
"""Arguments with which any prompt generates."""


@contextlib.contextmanager
def argument_errors(arguments: Mapping[str, Any], known_good: Callable[[], Any]) -> Iterator[None]:
    """ConfigError for what transformers raises on arguments with which it cannot generate."""
    try:
        yield
    except (ArithmeticError, AttributeError, OSError, TypeError, ValueError) as error:
        known_good()  # raises for a fault of the program
        given = ", ".join(sorted(arguments))
        raise ConfigError(f"generate cannot use its arguments ({given}): {error}") from error


def read_continuations(
    batch: GenerationBatch,
    output: Any,
    end_ids: frozenset[int],
    decode: Callable[[Sequence[int]], str],
    settings: Mapping[str, Any],
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
            settings=settings,
        )
    return done


def _until_end(ids: Sequence[int], end_ids: frozenset[int]) -> tuple[int, ...]:
    stop = next((i for i, token in enumerate(ids) if token in end_ids), len(ids))
    return tuple(ids[:stop])


class FewUnfinished:
    """Stopping criterion of a batch: at most a quarter of its answers have not ended, after at most
    half of the tokens. `rows` are those answers."""

    def __init__(
        self, batch: GenerationBatch, end_ids: frozenset[int], max_new_tokens: int
    ) -> None:
        self.rows: list[int] = []
        prompts_BT = batch.arguments["input_ids"]
        self._start = prompts_BT.shape[1]
        self._latest = self._start + max_new_tokens // 2
        self._end_ids = prompts_BT.new_tensor(sorted(end_ids))

    def __call__(self, ids_BT: Tensor, scores: Any, **options: Any) -> Tensor:
        is_open_B = ~torch.isin(ids_BT[:, self._start :], self._end_ids).any(1)
        rows = is_open_B.nonzero().flatten().tolist()
        is_met = ids_BT.shape[1] <= self._latest and 4 * len(rows) <= len(is_open_B)
        self.rows = rows if is_met else []
        return torch.full_like(is_open_B, is_met)


def route_of_some(route: RouteOnce | None, chosen: Sequence[int]) -> RouteOnce | None:
    """The route of some of the inputs, called with their positions among these."""
    if route is None:
        return None
    return lambda index, states: route([chosen[i] for i in index], states)


class RoutedLayer:
    """Hook of layer l_e for one batch: routes at prefill, adds the residual at every step."""

    def __init__(self, route: RouteOnce, batch: GenerationBatch, device: torch.device) -> None:
        """`device` is that of the states that `route` gets."""
        self._route = route
        self._batch = batch
        self._device = device
        self._residual: Residual | None = None
        self._is_prefill = True

    def __call__(self, hidden_BTD: Tensor) -> Tensor | None:
        """The edited hidden states; None where no expert is kept."""
        count = len(self._batch.index)
        copies = hidden_BTD.shape[0] // count
        if self._is_prefill:
            self._residual = self._route(self._batch.index, self._states(hidden_BTD[::copies]))
            self._is_prefill = False
        if self._residual is None:
            return None
        # The beams of a prompt are neighbours: joined, they are one longer sequence.
        joined = hidden_BTD.reshape(count, -1, hidden_BTD.shape[-1])
        return hidden_BTD + self._residual(joined).reshape(hidden_BTD.shape)

    def _states(self, hidden_BTD: Tensor) -> list[LayerStates]:
        states = []
        for padded_TD, item in zip(hidden_BTD, self._batch.items, strict=True):
            hidden_TD = padded_TD[len(padded_TD) - item.num_tokens :]
            hidden_TD = hidden_TD.to(self._device, torch.float32, copy=True)
            states.append(
                LayerStates(
                    hidden_TD=hidden_TD,
                    pyramid_E=item.pyramid_E,
                    prompt_embeddings=item.prompt_embeddings,
                    target_embeddings_OD=hidden_TD[:0],
                    image_span=item.image,
                    prompt_span=item.prompt,
                    target_span=item.target,
                    target_ids_O=torch.zeros(0, dtype=torch.int64, device=self._device),
                    form=item.form,
                )
            )
        return states
