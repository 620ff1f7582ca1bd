"""The engine: one thread that answers questions of all versions with one model.

    waiting --while there is a place--> prefill, routed once --> running --a token a step--> done

Every step decodes one token of every running sequence, whatever its version and length. Versions
share the forward: their experts are one dense product with a weight for each row and rank slot.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from liveedit_core.backbones.generation import GenerationBatch, RoutedLayer
from liveedit_core.backbones.protocol import Residual
from liveedit_core.backbones.slots import DecodingSlots
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import LiveEditError
from liveedit_core.method.editor import NOTHING_KEPT, Routing
from liveedit_core.method.fused_rows import KeptExperts, fused_rows
from liveedit_core.states import LayerStates
from pipelines.serving.answers import (
    Done,
    Event,
    Failed,
    Prefilled,
    Question,
    Text,
    TextStream,
    take_hops,
)

_logger = logging.getLogger(__name__)
_JOIN_AT_ONCE = 8
"""Prompts of one prefill, so that running answers do not wait for a long one."""


class BusyError(LiveEditError):
    """Too many questions wait; come back later."""

    retryable = True


class EngineClosedError(LiveEditError):
    """The server is shutting down."""


@dataclass(kw_only=True, eq=False)
class _Sequence:
    """A running answer."""

    question: Question
    stream: TextStream
    choose: Callable[[Tensor], int]
    kept: KeptExperts | None

    def tell(self, event: Event) -> None:
        if not self.question.is_cancelled:
            self.question.on_event(event)

    def take(self, token: int, end_ids: frozenset[int]) -> bool:
        """One more token; returns whether the answer goes on."""
        if self.question.is_cancelled:
            return False
        is_end = token in end_ids
        if not is_end:
            self._tell_text(self.stream.push(token))
        num_tokens = len(self.stream.tokens)
        is_full = num_tokens >= self.question.sampling.max_tokens
        if not (is_end or self.stream.is_stopped or is_full):
            return True
        self._tell_text(self.stream.rest())
        has_stopped = is_end or self.stream.is_stopped
        self.tell(Done(finish_reason="stop" if has_stopped else "length", num_tokens=num_tokens))
        return False

    def _tell_text(self, delta: str) -> None:
        if delta:
            self.tell(Text(delta))


@dataclass
class Engine:
    """Answers questions until it is closed."""

    backbone: VisionLanguageBackbone
    max_running: int = 16
    max_waiting: int = 256
    _waiting: deque[Question] = field(default_factory=deque)
    _running: list[_Sequence] = field(default_factory=list)
    _is_closed: bool = False

    def __post_init__(self) -> None:
        self._slots = DecodingSlots(self.backbone)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def ask(self, questions: Sequence[Question]) -> None:
        """Queue questions, or none of them: BusyError when too many wait."""
        with self._changed:
            if self._is_closed:
                raise EngineClosedError("the server is shutting down")
            if len(self._waiting) + len(questions) > self.max_waiting:
                raise BusyError(f"{len(self._waiting):,} questions wait already")
            self._waiting.extend(questions)
            self._changed.notify()

    def close(self) -> None:
        """Fail what is not done, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            new, is_closed = self._next()
            if is_closed:
                self._fail_all(EngineClosedError("the server is shutting down"))
                return
            if new:
                self._start(new)
            if self._running:
                try:
                    self._advance(self._slots.step([s.stream.tokens[-1] for s in self._running]))
                except Exception as error:  # whatever a model raises must not end the server
                    _logger.exception("a step failed; its answers are given up")
                    self._fail_running(error)

    def _next(self) -> tuple[list[Question], bool]:
        """Questions that there is a place for; waits where nothing is to be done."""
        with self._changed:
            while not (self._waiting or self._running or self._is_closed):
                self._changed.wait()
            new: list[Question] = []
            if self._is_closed:
                return new, True
            free = min(self.max_running - len(self._running), _JOIN_AT_ONCE)
            while self._waiting and len(new) < free:
                question = self._waiting.popleft()
                if not question.is_cancelled:
                    new.append(question)
            return new, False

    def _start(self, questions: Sequence[Question]) -> None:
        """Prefill; one question that fails does not spoil the others."""
        try:
            take_hops(questions)
            batches = self.backbone.generation_batches([question.item for question in questions])
        except Exception as error:
            if len(questions) > 1:
                for question in questions:
                    self._start([question])
                return
            if not isinstance(error, LiveEditError):
                _logger.exception("a question cannot be read")
            questions[0].on_event(Failed(error))
            return
        for batch in batches:
            own, num_running = [questions[i] for i in batch.index], len(self._running)
            try:
                self._join(batch, own)
            except Exception as error:
                _logger.exception("a prefill failed")
                for question in own:
                    question.on_event(Failed(error))
                if len(self._slots) != num_running:  # it failed half way: nothing can be trusted
                    self._fail_running(error)

    def _join(self, batch: GenerationBatch, questions: Sequence[Question]) -> None:
        router = _Router(questions)
        own = replace(batch, index=range(len(questions)))
        hook = RoutedLayer(router.route, own, self.backbone.device) if router.has_edits else None
        logits_BV = self._slots.join(own, hook)
        joined = []
        for row, question in enumerate(questions):
            sequence = _Sequence(
                question=question,
                stream=TextStream(self.backbone.decode, question.sampling.stop),
                choose=question.sampling.chooser(),
                kept=router.kept.get(row),
            )
            sequence.tell(
                Prefilled(
                    num_prompt_tokens=batch.items[row].num_tokens,
                    routing=replace(router.routings.get(row, NOTHING_KEPT), first=question.first),
                    routing_s=router.seconds,
                )
            )
            joined.append(sequence)
        before = len(self._running)
        self._running += joined
        self._take(range(before, len(self._running)), logits_BV, has_new=True)

    def _advance(self, logits_BV: Tensor) -> None:
        self._take(range(len(self._running)), logits_BV, has_new=False)

    def _take(self, rows: range, logits_BV: Tensor, *, has_new: bool) -> None:
        """Choose the next token of some sequences, and let go of those that end."""
        ended = set()
        for row, logits_V in zip(rows, logits_BV, strict=True):
            sequence = self._running[row]
            try:
                goes_on = sequence.take(sequence.choose(logits_V), self.backbone.end_ids)
            except Exception as error:  # its logits are no numbers: the other rows are sound
                _logger.exception("an answer failed")
                sequence.tell(Failed(error))
                goes_on = False
            if not goes_on:
                ended.add(row)
        if ended:
            stay = [row for row in range(len(self._running)) if row not in ended]
            self._slots.keep(stay)
            self._running = [self._running[row] for row in stay]
        if ended or has_new:
            self._slots.residual = fused_rows([sequence.kept for sequence in self._running])

    def _fail_running(self, error: Exception) -> None:
        for sequence in self._running:
            sequence.tell(Failed(error))
        self._running = []
        self._slots = DecodingSlots(self.backbone)

    def _fail_all(self, error: Exception) -> None:
        self._fail_running(error)
        for question in self._waiting:
            question.on_event(Failed(error))
        self._waiting.clear()


class _Router:
    """Routes the questions of one prefill, each by its own version."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._versions = [question.version for question in questions]
        self.has_edits = any(version.num_edits for version in self._versions)
        self.routings: dict[int, Routing] = {}
        self.kept: dict[int, KeptExperts] = {}
        self.seconds = 0.0

    def route(self, index: Sequence[int], states: Sequence[LayerStates]) -> Residual | None:
        """A `RouteOnce`."""
        start_s = time.perf_counter()
        groups: dict[int, list[int]] = {}
        for row in index:
            if self._versions[row].is_routed(states[row]):
                groups.setdefault(id(self._versions[row]), []).append(row)
        for rows in groups.values():
            routed = self._versions[rows[0]].route([states[row] for row in rows])
            for row, (routing, kept) in zip(rows, routed, strict=True):
                self.routings[row], self.kept[row] = routing, kept
        residual = fused_rows([self.kept.get(row) for row in index])
        self.seconds = time.perf_counter() - start_s
        return residual
