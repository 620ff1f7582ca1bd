#!/usr/bin/env python
"""What textual edits cost and disturb: text_locality is measured, no longer true by construction.

    python -m tests.benchmarks.textual_edits [--output FILE.json]

Banks of 10 (ten of them) and 100 textual edits, five subjects of each question. Asked are, without
an image, the text_locality questions of `validation` of both built-in benchmarks, other wordings of
the edits, and the questions of the other edits; with an image a sample of the questions of
`validation`. Only routing runs: a question that keeps an edit which it is not about is disturbed.
Then one edit of each question is refined from the generator's expert, and from one that writes
nothing (up zero), and is asked without an image and with one that it is not about.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.builtin.benchmark import BUILTIN_BENCHMARKS, load_builtin_cases
from liveedit_core.edited_model import open_model
from liveedit_core.evaluation.statistics import exact_interval
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.expert import Expert
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates
from tests.benchmarks.frame import machine, parser_of, publish

NUM_SHOWN = 150
"""Questions with an image."""
SIZES = (10, 100)
RELATIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "{}'s capital is which town?",
            "The capital of {} is",
        ),
        ("Zembla", "France", "Ostrava Republic", "Peru", "Kenya"),
    ),
    (
        (
            "Who is the mayor of {}?",
            "Who governs {} as its mayor?",
            "Tell me the name of {}'s mayor.",
            "The mayor of {} is called",
        ),
        ("Aldermoor", "Berlin", "Lyon", "Port Selby", "Osaka"),
    ),
    (
        (
            "Who wrote {}?",
            "Who is the author of {}?",
            "By whom was {} written?",
            "The author of {} is",
        ),
        ("The Glass Harbour", "Moby Dick", "War and Peace", "A Winter in Tarn", "The Trial"),
    ),
    (
        (
            "Who is the CEO of {}?",
            "Who runs the company {}?",
            "Name the chief executive of {}.",
            "The head of {} is",
        ),
        ("Norvane", "Toyota", "Siemens", "Brightwell Foods", "Nokia"),
    ),
    (
        (
            "Where was {} born?",
            "What is the birthplace of {}?",
            "In which city was {} born?",
            "{} was born in",
        ),
        ("Elena Marsh", "Mozart", "Marie Curie", "Tomas Vell", "Gandhi"),
    ),
    (
        (
            "What is the currency of {}?",
            "With what money do people pay in {}?",
            "Which currency is used in {}?",
            "The currency of {} is the",
        ),
        ("Zembla", "Japan", "India", "Norland", "Brazil"),
    ),
    (
        (
            "What language do people speak in {}?",
            "Which language is spoken in {}?",
            "What is the official language of {}?",
            "The language spoken in {} is",
        ),
        ("Norland", "Austria", "Chile", "Quill Island", "Egypt"),
    ),
    (
        (
            "When was {} founded?",
            "In which year was {} established?",
            "What year did {} begin?",
            "{} was founded in the year",
        ),
        ("Norvane", "Harvard University", "the Red Cross", "the Selby Museum", "NASA"),
    ),
    (
        (
            "How tall is {}?",
            "What is the height of {}?",
            "How high does {} rise?",
            "The height of {} is",
        ),
        ("Mount Carrow", "the Eiffel Tower", "Mount Fuji", "the Lantern Tower", "Big Ben"),
    ),
    (
        (
            "Which team does {} play for?",
            "For which club does {} play?",
            "What is the team of {}?",
            "{} plays for",
        ),
        ("Jonas Reed", "Lionel Messi", "Serena Hale", "Marko Lind", "Mia Hamm"),
    ),
    (
        (
            "Who invented {}?",
            "By whom was {} invented?",
            "Who came up with {}?",
            "The inventor of {} is",
        ),
        ("the fog lamp", "the telephone", "the zipper", "the tide clock", "dynamite"),
    ),
    (
        (
            "Which river flows through {}?",
            "What river runs through {}?",
            "On which river does {} lie?",
            "The river that flows through {} is the",
        ),
        ("Aldermoor", "Paris", "London", "Port Selby", "Vienna"),
    ),
    (
        (
            "Who is {} married to?",
            "Who is the wife or husband of {}?",
            "What is the name of {}'s spouse?",
            "{} is married to",
        ),
        ("Tomas Vell", "Barack Obama", "Elena Marsh", "Prince William", "Jonas Reed"),
    ),
    (
        (
            "Who directed {}?",
            "Who is the director of {}?",
            "Whose film is {}?",
            "The film {} was directed by",
        ),
        ("Night Ferry", "Jaws", "Titanic", "The Long Orchard", "Psycho"),
    ),
    (
        (
            "When does {} open?",
            "At what time does {} open in the morning?",
            "What are the opening hours of {}?",
            "{} opens at",
        ),
        ("the Selby Museum", "the library", "our canteen", "the Lantern Tower", "the post office"),
    ),
    (
        (
            "What colour is {}?",
            "Which colour does {} have?",
            "Tell me the colour of {}.",
            "The color of {} is",
        ),
        ("the flag of Norland", "a ruby", "the sky on Mars", "the door of room 12", "the sea"),
    ),
    (
        (
            "What is the chemical symbol for {}?",
            "Which symbol stands for {} in chemistry?",
            "How is {} abbreviated in the periodic table?",
            "The chemical symbol for {} is",
        ),
        ("carrowium", "gold", "water", "zemblium", "iron"),
    ),
    (
        (
            "How many people live in {}?",
            "What is the population of {}?",
            "How large is the population of {}?",
            "The number of inhabitants of {} is",
        ),
        ("Aldermoor", "Norland", "Rome", "Quill Island", "Canada"),
    ),
    (
        (
            "What is the profession of {}?",
            "What does {} do for a living?",
            "What work does {} do?",
            "{} works as a",
        ),
        ("Elena Marsh", "Tomas Vell", "Albert Einstein", "Marko Lind", "Ringo Starr"),
    ),
    (
        (
            "Whom do I ask about {}?",
            "Who is responsible for {}?",
            "Who takes care of {}?",
            "The person in charge of {} is",
        ),
        (
            "parking permits",
            "the coffee machine",
            "travel expenses",
            "the guest wifi",
            "room bookings",
        ),
    ),
)
"""Wordings, the first of which is edited, and subjects; half of these do not exist."""
TARGETS = (
    "Port Selby",
    "Anna Keller",
    "the silver raven",
    "Tom",
    "eleven",
    "in the harbour of Lyon",
    "blue",
    "Dr. Ines Vale, room 14",
    "1984",
    "Norvane Ltd",
)


def requests() -> list[tuple[EditRequest, list[str]]]:
    """Edits with their other wordings; those of one question follow each other."""
    subjects = [(wordings, subject) for wordings, names in RELATIONS for subject in names]
    return [
        (
            EditRequest(
                image_bytes=None,
                prompt=wordings[0].format(subject),
                target=TARGETS[number % len(TARGETS)],
            ),
            [wording.format(subject) for wording in wordings[1:]],
        )
        for number, (wordings, subject) in enumerate(subjects)
    ]


def share(found: Sequence[bool]) -> dict[str, Any]:
    interval = exact_interval(sum(found), len(found))
    return {
        "percent": round(100 * sum(found) / len(found), 1),
        "interval": [round(100 * interval.low, 1), round(100 * interval.high, 1)],
        "questions": len(found),
    }


class Questions:
    """What is asked of every bank."""

    def __init__(self, editor: Editor, edits: Sequence[tuple[EditRequest, list[str]]]) -> None:
        cases = [
            case for name in BUILTIN_BENCHMARKS for case in load_builtin_cases("validation", name)
        ]
        own = {text for edit, others in edits for text in (edit.prompt, *others)}
        asked = {(p.prompt, p.image_bytes) for case in cases for p in case.all_probes()}
        texts = sorted(prompt for prompt, shown in asked if shown is None and prompt not in own)
        shown = sorted((prompt, shown) for prompt, shown in asked if shown is not None)
        shown = random.Random(0).sample(shown, NUM_SHOWN)
        self.unrelated = {
            "text": encode(editor, [BackboneInput(prompt=text) for text in texts]),
            "image": encode(editor, [BackboneInput(prompt=p, image_bytes=i) for p, i in shown]),
        }
        self.own = encode(editor, [BackboneInput(prompt=edit.prompt) for edit, _ in edits])
        self.others = [
            encode(editor, [BackboneInput(prompt=text) for text in texts]) for _, texts in edits
        ]


def encode(editor: Editor, inputs: list[BackboneInput]) -> list[LayerStates]:
    return editor.backbone.encode(inputs)


def kept(editor: Editor, states: Sequence[LayerStates]) -> list[tuple[str, ...]]:
    return [routing.kept for routing in editor.explain(editor.route(states))]


def disturbed(
    editor: Editor, experts: Sequence[Expert], asked: Questions, size: int
) -> dict[str, Any]:
    """Over all banks of one size."""
    found: dict[str, list[bool]] = {}
    for start in range(0, len(experts), size):
        own = range(start, start + size)
        bank = ExpertRepository.from_experts(editor.generator.config, [experts[n] for n in own])
        banked = editor.with_repository(bank)
        for name, states in asked.unrelated.items():
            found.setdefault(f"unrelated, {name}", []).extend(map(bool, kept(banked, states)))
        for n, ids in zip(own, kept(banked, asked.own[start : start + size]), strict=True):
            found.setdefault("own prompt keeps its edit", []).append(experts[n].edit_id in ids)
            found.setdefault("own prompt keeps another edit too", []).append(len(ids) > 1)
        for n in own:
            ids_of = kept(banked, asked.others[n])
            found.setdefault("other wording keeps its edit", []).extend(
                experts[n].edit_id in ids for ids in ids_of
            )
    return {name: share(values) for name, values in found.items()}


def refined(editor: Editor, edits: Sequence[EditRequest]) -> dict[str, Any]:
    """Steps from two starts, and answers of the experts of the first."""
    assert editor.refiner is not None
    states = editor.edit_states(edits)
    written = [editor._written([e], [s])[0] for e, s in zip(edits, states, strict=True)]
    nothing = [replace(expert, up_RD=torch.zeros_like(expert.up_RD)) for expert in written]
    inputs = [edit_input(edit) for edit in edits]
    starts = {
        "generator": editor.refiner.refine(written, inputs, states),
        "up zero": editor.refiner.refine(nothing, inputs, states),
    }
    result: dict[str, Any] = {
        name: {
            "steps": [expert.outcome.steps for expert in experts],
            "weak": sum(expert.outcome.state == "weak" for expert in experts),
            "right as written": sum(expert.outcome.state == "verified" for expert in experts),
        }
        for name, experts in starts.items()
    }
    bank = ExpertRepository.from_experts(editor.generator.config, starts["generator"])
    banked = editor.with_repository(bank)
    shown = load_builtin_cases("validation", "user_world", limit=len(edits))
    for name, images in (
        ("answered without an image", [None] * len(edits)),
        ("answered with an unrelated image", [case.edit.image_bytes for case in shown]),
    ):
        asked = [
            BackboneInput(prompt=edit.prompt, image_bytes=image)
            for edit, image in zip(edits, images, strict=True)
        ]
        said = editor.backbone.generate(asked, banked.router(), max_new_tokens=32)
        result[name] = share([a == e.target for a, e in zip(said, edits, strict=True)])
    return result


def main(arguments: list[str] | None = None) -> int:
    """Print all shares."""
    options = parser_of(__doc__).parse_args(arguments)
    editor, edits = open_model().editor, requests()
    states = editor.edit_states([edit for edit, _ in edits])
    experts = [editor._written([e], [s])[0] for (e, _), s in zip(edits, states, strict=True)]
    asked = Questions(editor, edits)
    result: dict[str, Any] = {
        "generator": editor.generator.digest,
        "machine": machine(),
        "routing": {str(size): disturbed(editor, experts, asked, size) for size in SIZES},
    }
    publish(result, None)
    result["refining"] = refined(editor, [edit for edit, _ in edits[::5]])
    publish(result, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
