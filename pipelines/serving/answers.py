"""What is asked of the engine, and what it tells about an answer while it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.method.editor import NOTHING_KEPT, Routing
from pipelines.serving.served import ServedVersion

FinishReason = Literal["stop", "length"]
_COLDEST = 1e-6
"""Logits divided by less would be infinite in float32; at this one the most likely token wins."""
_BROKEN = "\ufffd"
"""What the first bytes of a character decode to."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of an answer are chosen."""

    max_tokens: int
    temperature: float = 0.0
    """0: always the most likely token."""
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def chooser(self) -> Callable[[Tensor], int]:
        """Chooses a token from logits [V]; one for each answer."""
        if self.temperature == 0:
            return lambda logits_V: int(logits_V.argmax())
        drawer = torch.Generator()
        _ = drawer.seed() if self.seed is None else drawer.manual_seed(self.seed)

        temperature = max(self.temperature, _COLDEST)

        def draw(logits_V: Tensor) -> int:
            shares, order = (logits_V.cpu() / temperature).softmax(-1).sort(descending=True)
            is_cut = shares.cumsum(-1) - shares >= self.top_p
            is_cut[0] = False  # the most likely token stays, however small top_p is
            shares = shares.masked_fill(is_cut, 0.0)
            return int(order[torch.multinomial(shares, 1, generator=drawer)])

        return draw


@dataclass(frozen=True, kw_only=True)
class Prefilled:
    """The prompt was read; which edits the answer keeps is decided."""

    num_prompt_tokens: int
    routing: Routing = NOTHING_KEPT
    routing_s: float = 0.0
    """Of its whole batch."""


@dataclass(frozen=True)
class Text:
    """More of the answer."""

    delta: str


@dataclass(frozen=True, kw_only=True)
class Done:
    finish_reason: FinishReason
    num_tokens: int


@dataclass(frozen=True)
class Failed:
    error: Exception


Event = Prefilled | Text | Done | Failed


@dataclass(kw_only=True, eq=False)
class Question:
    """One sequence to generate; it keeps its version to the last token."""

    item: BackboneInput
    version: ServedVersion
    sampling: Sampling
    on_event: Callable[[Event], None]
    """Called by the engine's thread; must return at once."""
    is_cancelled: bool = False
    """Set by whoever asked: nobody listens any more."""
    first: Routing | None = None
    """See `Routing.first`."""


def take_hops(questions: Sequence[Question]) -> None:
    """Ask what is asked in place of each question (`hops`)."""
    for version in dict.fromkeys(question.version for question in questions):
        own = [question for question in questions if question.version is version]
        for n, hop in version.hops([question.item for question in own]).items():
            own[n].item, own[n].first = hop.second, hop.first


@dataclass(eq=False)
class TextStream:
    """Turns the tokens of one answer into text that never has to be taken back."""

    decode: Callable[[Sequence[int]], str]
    stop: tuple[str, ...]
    tokens: list[int] = field(default_factory=list)
    is_stopped: bool = False
    """A stop text was met; it is not part of the answer."""
    _num_sent: int = 0

    def push(self, token: int) -> str:
        """The text that is certain after one more token."""
        self.tokens.append(token)
        text = self.decode(self.tokens)
        found = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return self._send(text[: min(found)])
        certain = len(text.rstrip(_BROKEN))
        for stop in self.stop:  # the beginning of a stop text may be its beginning
            held = next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
            certain = min(certain, len(text) - held)
        return self._send(text[:certain])

    def rest(self) -> str:
        """What is left at the end of the answer."""
        return "" if self.is_stopped else self._send(self.decode(self.tokens))

    def _send(self, text: str) -> str:
        new = text[self._num_sent :]
        self._num_sent = max(self._num_sent, len(text))
        return new
