"""A server over the tiny backbone: versions, an engine, and answers collected from it."""

import queue
from collections.abc import Sequence
from dataclasses import dataclass, field

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import EditRequest
from pipelines.serving.answers import Done, Event, Failed, Prefilled, Question, Sampling, Text
from pipelines.serving.engine import Engine
from pipelines.serving.served import ServedVersion
from tests.tiny_backbone import OUR_CONFIG, request, tiny_backbone, tiny_generator

WAIT_S = 60.0


def edited_version(requests: Sequence[EditRequest], name: str = "v1") -> ServedVersion:
    """A version in memory with strong random experts."""
    generator = tiny_generator(OUR_CONFIG)
    editor = Editor(tiny_backbone(), generator, ExpertRepository.empty(generator.config))
    editor = editor.with_edits(requests)
    return ServedVersion(name=name, bank=name, num_edits=len(requests), editor=editor)


def some_requests(count: int) -> list[EditRequest]:
    return [request(seed) for seed in range(count)]


@dataclass
class Asked:
    """One question and what came back."""

    question: Question
    events: "queue.Queue[Event]"
    text: str = ""
    prefilled: Prefilled | None = None
    deltas: list[str] = field(default_factory=list)

    def done(self) -> Done:
        """Wait for the end; raises what the engine failed with."""
        while True:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, Prefilled):
                self.prefilled = event
            elif isinstance(event, Text):
                self.deltas.append(event.delta)
                self.text += event.delta
            elif isinstance(event, Failed):
                raise event.error
            else:
                return event


def ask(
    engine: Engine,
    item: BackboneInput,
    version: ServedVersion,
    max_tokens: int = 8,
    **sampling: object,
) -> Asked:
    """Queue one question."""
    events: queue.Queue[Event] = queue.Queue()
    question = Question(
        item=item,
        version=version,
        sampling=Sampling(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
        on_event=events.put,
    )
    asked = Asked(question, events)
    engine.ask([question])
    return asked
