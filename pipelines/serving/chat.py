"""POST /v1/chat/completions: a question becomes sequences of the engine, their events an answer."""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.inputs.datasets import TokenCounter
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, RejectType
from liveedit_core.inputs.text import check_text
from liveedit_core.schema import NO_IMAGE
from pipelines.serving.answers import Done, Event, Failed, Prefilled, Question, Text
from pipelines.serving.chat_request import ChatRequest
from pipelines.serving.errors import error_body, status_of
from pipelines.serving.served import ServedVersion
from pipelines.serving.service import Service
from pipelines.serving.telemetry import AnswerClock

_logger = logging.getLogger(__name__)
_LOOK_S = 1.0
"""How often it is looked whether the client is still there."""


@dataclass(kw_only=True)
class Answer:
    """One request while it is answered."""

    service: Service
    request: ChatRequest
    version: ServedVersion
    questions: list[Question] = field(default_factory=list)
    events: "asyncio.Queue[tuple[int, Event]]" = field(default_factory=asyncio.Queue)
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    explanation: dict[str, Any] = field(default_factory=dict)

    def start(self, item: BackboneInput) -> None:
        """Queue one sequence for each answer that is asked for."""
        loop = asyncio.get_running_loop()

        def teller(index: int) -> Callable[[Event], None]:
            def tell(event: Event) -> None:
                with contextlib.suppress(RuntimeError):  # the server has ended
                    loop.call_soon_threadsafe(self.events.put_nowait, (index, event))

            return tell

        sampling = self.request.sampling(self.service.recipe.batch)
        self.questions = [
            Question(item=item, version=self.version, sampling=one, on_event=teller(index))
            for index, one in enumerate(sampling)
        ]
        self.service.engine.ask(self.questions)

    async def told(self, http: Request) -> AsyncIterator[tuple[int, Event]]:
        """The events of all sequences, until the last of them is done or the client goes away."""
        clocks = [AnswerClock(telemetry=self.service.telemetry) for _ in self.questions]
        num_open, looked_s = len(self.questions), time.monotonic()
        try:
            while num_open:
                if time.monotonic() >= looked_s + _LOOK_S:  # also while tokens come
                    if await http.is_disconnected():
                        return
                    looked_s = time.monotonic()
                try:
                    index, event = await asyncio.wait_for(self.events.get(), _LOOK_S)
                except TimeoutError:
                    continue
                if isinstance(event, Prefilled):
                    clocks[index].prefilled(len(event.routing.kept), event.routing_s)
                    self.num_prompt_tokens = event.num_prompt_tokens
                    if not self.explanation:
                        self.explanation = await asyncio.to_thread(self._explained, event)
                elif isinstance(event, Text):
                    clocks[index].text()
                elif isinstance(event, Failed):
                    raise event.error
                else:
                    num_open -= 1
                    self.num_tokens += event.num_tokens
                    self._log(event, clocks[index].done(event.num_tokens))
                yield index, event
        finally:
            for question in self.questions:
                question.is_cancelled = True

    def _explained(self, event: Prefilled) -> dict[str, Any]:
        """Which edits take part; looked up only if it was asked for."""
        version, routing = self.version, event.routing
        about: dict[str, Any] = {"version": version.name}
        if not self.request.liveedit.explain:
            return about
        parts = [part for part in (routing.first, routing) if part is not None]
        facts = version.facts([edit_id for part in parts for edit_id in part.kept])
        rows = [zip(part.kept, part.weights, part.visual_margins, strict=True) for part in parts]
        edits = []
        for edit_id, weight, margin in chain(*rows):
            fact = facts.get(edit_id)
            edits.append(
                {
                    "id": edit_id,
                    "has_image": fact is None or fact.pixel_digest != NO_IMAGE,
                    "prompt": fact.prompt if fact else None,
                    "target": fact.target if fact else None,
                    "weight": round(weight, 6),
                    "visual_margin": round(margin, 6),
                }
            )
        reads_turns = self.service.versions.backbone.reader.reads_conversations
        return {
            **about,
            "bank": version.bank_name,
            "bank_version": version.bank_version,
            "num_edits": version.num_edits,
            "registered": version.registered,
            "edits": edits,
            "turns_read": len(self.request.earlier) + 1 if reads_turns else 1,
        }

    def _log(self, done: Done, seconds: float) -> None:
        text = ""
        if self.service.recipe.http.logs_prompts:
            text = f" question {self.request.question!r}"
        _logger.info(
            "%s %s: %d prompt tokens, %d tokens in %.2f s%s",
            self.id,
            self.version.name,
            self.num_prompt_tokens,
            done.num_tokens,
            seconds,
            text,
        )

    @property
    def usage(self) -> dict[str, int]:
        total = self.num_prompt_tokens + self.num_tokens
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_tokens,
            "total_tokens": total,
        }

    @property
    def head(self) -> dict[str, Any]:
        name = self.request.model
        return {"id": self.id, "created": self.created, "model": name}

    async def whole(self, http: Request) -> dict[str, Any]:
        """The answer in one piece."""
        texts = [""] * len(self.questions)
        reasons: list[str | None] = [None] * len(self.questions)
        async for index, event in self.told(http):
            if isinstance(event, Text):
                texts[index] += event.delta
            elif isinstance(event, Done):
                reasons[index] = event.finish_reason
        return {
            **self.head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "finish_reason": reasons[index],
                    "logprobs": None,
                }
                for index, text in enumerate(texts)
            ],
            "usage": self.usage,
            **({"liveedit": self.explanation} if self.request.liveedit.explain else {}),
        }

    async def chunks(self, http: Request) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        try:
            async for index, event in self.told(http):
                if isinstance(event, Prefilled):
                    yield self._chunk(index, {"role": "assistant", "content": ""})
                elif isinstance(event, Text):
                    yield self._chunk(index, {"content": event.delta})
                elif isinstance(event, Done):
                    yield self._chunk(index, {}, event.finish_reason)
            options = self.request.stream_options
            if options and options.include_usage:
                last = {"object": "chat.completion.chunk", "choices": [], "usage": self.usage}
                yield _sse({**self.head, **last})
        except Exception as error:  # the status is sent already: the stream says what happened
            status, code, message = status_of(error)
            yield _sse(error_body(status, message, code=code))
        yield "data: [DONE]\n\n"

    def _chunk(self, index: int, delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": None,
        }
        # The first chunk tells which edits take part: that is known before the first word.
        is_explained = self.request.liveedit.explain and "role" in delta
        more = {"liveedit": self.explanation} if is_explained else {}
        return _sse({**self.head, "object": "chat.completion.chunk", "choices": [choice], **more})


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def check_question(item: BackboneInput, tokens: TokenCounter, limits: InputLimits) -> None:
    """Refuse what is no question, or too long a one."""
    check_text(item.prompt, "the question", limits.max_prompt_chars)
    for _, text in item.earlier:
        check_text(text, "an earlier message", limits.max_prompt_chars)
    whole = [item.prompt, *(text for _, text in item.earlier)]
    num_tokens = sum(tokens.count_tokens(text) for text in whole)
    if num_tokens > limits.max_prompt_tokens:
        raise RefusedInputError(
            f"the messages have {num_tokens:,} tokens; at most {limits.max_prompt_tokens:,} are "
            "accepted: shorten them",
            RejectType.TOO_MANY_TOKENS,
        )


def chat_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(request: ChatRequest, http: Request) -> Response:
        version = await asyncio.to_thread(service.versions.named, request.model)
        request.sampling(service.recipe.batch)  # refused before the image is read
        url = request.image_url()
        image = None if url is None else await service.images.read(url)
        backbone = service.versions.backbone
        earlier = request.earlier if backbone.reader.reads_conversations else ()
        item = BackboneInput(prompt=request.question, image_bytes=image, earlier=earlier)
        check_question(item, backbone, service.recipe.limits)
        await asyncio.to_thread(backbone.check_input, item)
        answer = Answer(service=service, request=request, version=version)
        answer.start(item)
        headers = {"x-liveedit-version": version.name, "x-request-id": answer.id}
        if request.stream:
            return StreamingResponse(
                answer.chunks(http), media_type="text/event-stream", headers=headers
            )
        return JSONResponse(await answer.whole(http), headers=headers)

    return router
