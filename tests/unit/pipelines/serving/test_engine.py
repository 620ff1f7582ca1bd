"""The engine: what it answers in a crowd is what the library answers alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import ConfigError
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import EditRequest
from pipelines.serving.answers import Done, Sampling, TextStream
from pipelines.serving.engine import BusyError, Engine, EngineClosedError
from pipelines.serving.served import ExpertCache, ServedVersion, unedited
from tests.serving_parts import ask, edited_version, some_requests
from tests.tiny_backbone import (
    OUR_CONFIG,
    PROMPT_SIZE,
    TinyPromptEncoder,
    answers,
    plain_convolutions,
    question,
    tiny_backbone,
    tiny_generator,
)
from tests.tiny_families import FAMILIES, family_backbone


@pytest.fixture
def engine() -> Iterator[Engine]:
    with plain_convolutions():
        started = Engine(tiny_backbone(), max_running=4, max_waiting=64)
        yield started
        started.close()


def offline(version: ServedVersion, item: BackboneInput, max_tokens: int) -> str:
    """What the library answers."""
    if version.editor is None:
        greedy = {"max_new_tokens": max_tokens, "do_sample": False}
        return tiny_backbone().continuations([item], None, **greedy)[0].texts[0]
    return answers(version.editor, [item], max_tokens)[0].text


def test_answers_of_many_versions_and_lengths_are_those_of_the_library(engine: Engine) -> None:
    versions = [edited_version(some_requests(3)), edited_version(some_requests(6), "v2")]
    versions.append(unedited())
    items = [question(seed) for seed in range(6)]
    items.append(BackboneInput(prompt="The opposite of hot is"))
    jobs = [
        (item, version, 1 + 3 * (number % 4))
        for number, (item, version) in enumerate((i, v) for i in items for v in versions)
    ]
    asked = [ask(engine, item, version, length) for item, version, length in jobs]
    for one in asked:
        one.done()
    expected = [offline(version, item, length) for item, version, length in jobs]
    assert [one.text for one in asked] == expected
    own = [one for one, (item, v, _) in zip(asked, jobs, strict=True) if v is versions[1]]
    assert any(one.prefilled and one.prefilled.routing.kept for one in own)
    edits, plain = (offline(v, items[0], 7) for v in (versions[1], versions[2]))
    assert edits != plain, "the experts must matter here"


def test_a_textual_edit_answers_questions_with_and_without_an_image() -> None:
    fields = {"prompt_source": "sentences", "prompt_size": PROMPT_SIZE, "prompt_rank": 6}
    config = OUR_CONFIG.with_changes(**fields, min_gate=0.5, gain=30.0)
    backbone = tiny_backbone().with_prompt_encoder(TinyPromptEncoder())
    empty = ExpertRepository.empty(config)
    fact = EditRequest(image_bytes=None, prompt="Who made this?", target="Anna")
    editor = Editor(backbone, tiny_generator(config), empty).with_edits([fact])
    version = ServedVersion(name="v1", bank="v1", num_edits=1, editor=editor)
    items = [
        BackboneInput(prompt=fact.prompt),
        BackboneInput(prompt=fact.prompt, image_bytes=question(0).image_bytes),
        BackboneInput(prompt="The opposite of hot is"),
    ]
    with plain_convolutions():
        started = Engine(backbone, max_running=4, max_waiting=64)
        asked = [ask(started, item, version) for item in items]
        for one in asked:
            one.done()
        expected = [done.text for done in answers(editor, items, 8)]
        started.close()
    assert [one.text for one in asked] == expected
    kept = [one.prefilled.routing.kept if one.prefilled else None for one in asked]
    assert kept == [(fact.edit_id,), (fact.edit_id,), ()]


def test_a_short_answer_does_not_wait_for_a_long_one(engine: Engine) -> None:
    long = ask(engine, question(0), unedited(), 120)
    short = ask(engine, question(1), unedited(), 1)
    short.done()
    assert not any(isinstance(event, Done) for event in list(long.events.queue))
    assert long.done().num_tokens > 1


def test_a_question_that_nobody_waits_for_makes_room(engine: Engine) -> None:
    gone = ask(engine, question(0), unedited(), 10_000)
    gone.question.is_cancelled = True
    assert ask(engine, question(1), unedited(), 3).done().num_tokens <= 3
    assert engine.num_running <= 1, "the one that was told its end may not be gone yet"


def test_seeds_decide_what_is_drawn(engine: Engine) -> None:
    def drawn(seed: int) -> str:
        one = ask(engine, question(0), unedited(), 12, temperature=2.0, seed=seed)
        one.done()
        return one.text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1
    greedy = offline(unedited(), question(0), 12)
    for temperature, top_p in ((2.0, 1e-6), (2.0, 5e-324), (1e-38, 1.0), (5e-324, 5e-324)):
        one = ask(engine, question(0), unedited(), 12, temperature=temperature, top_p=top_p)
        one.done()
        assert one.text == greedy, (temperature, top_p)


def test_an_answer_whose_token_cannot_be_chosen_fails_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(sampling: Sampling) -> Callable[[Tensor], int]:
        if not sampling.seed:
            return lambda logits_V: int(logits_V.argmax())
        return lambda logits_V: int(torch.multinomial(logits_V * torch.nan, 1))

    monkeypatch.setattr(Sampling, "chooser", broken)
    long = ask(engine, question(0), unedited(), 60)
    failing = ask(engine, question(1), unedited(), 60, seed=1)
    with pytest.raises(RuntimeError):
        failing.done()
    long.done()
    assert long.text == offline(unedited(), question(0), 60)


def test_a_bad_image_fails_alone(engine: Engine) -> None:
    bad = ask(engine, BackboneInput(prompt="What is it?", image_bytes=b"no image"), unedited())
    good = ask(engine, question(0), unedited())
    with pytest.raises(Exception, match="not an image"):
        bad.done()
    good.done()


def test_what_fails_in_a_prefill_leaves_the_running_answers_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ask(engine, question(0), unedited(), 60)
    broken = edited_version(some_requests(1))
    monkeypatch.setattr(broken.editor, "route", None)
    failing = ask(engine, question(1), broken)
    with pytest.raises(TypeError):
        failing.done()
    long.done()
    assert long.text == offline(unedited(), question(0), 60)


def test_a_full_queue_and_a_closed_engine_say_so() -> None:
    engine = Engine(tiny_backbone(), max_running=1, max_waiting=2)
    running = [ask(engine, question(0), unedited(), 10_000)]
    with pytest.raises(BusyError):
        running += [ask(engine, question(0), unedited(), 10_000) for _ in range(4)]
    engine.close()
    for one in running:
        with pytest.raises(EngineClosedError):
            one.done()
    with pytest.raises(EngineClosedError):
        ask(engine, question(0), unedited())


def test_experts_beyond_the_bound_are_read_again(engine: Engine) -> None:
    whole = edited_version(some_requests(4))
    small = ServedVersion(
        name="v1", bank="v1", num_edits=4, editor=whole.editor, experts=ExpertCache(1)
    )
    one = ask(engine, question(0), small)
    one.done()
    assert one.prefilled is not None
    assert one.prefilled.routing.kept
    assert small.experts.num_bytes == 0
    assert one.text == offline(whole, question(0), 8)


def test_text_is_sent_once_and_never_taken_back() -> None:
    def decode(tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace").strip()

    stream = TextStream(decode, ("END", "ENDE"))
    sent = [stream.push(byte) for byte in "é is an ENEND and".encode()]
    assert sent[0] == "", "half a character"
    assert "".join(sent) == "é is an EN"
    assert stream.is_stopped
    assert stream.rest() == ""
    open_end = TextStream(decode, ("END",))
    assert "".join([open_end.push(byte) for byte in b"xEN"]) == "x"
    assert open_end.rest() == "EN"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_refused_or_answers_in_a_crowd_as_alone(name: str) -> None:
    with plain_convolutions():
        backbone = family_backbone(name)
        if not backbone.family.has_plain_steps:
            with pytest.raises(ConfigError, match="cannot share a cache yet"):
                Engine(backbone)
            return
        items = [question(0), question(1), BackboneInput(prompt="The opposite of hot is")]
        items.append(replace(question(2), prompt="Name the thing in the picture. " * 4))
        engine = Engine(backbone, max_running=4)
        asked = [ask(engine, item, unedited(), 9) for item in items]
        for one in asked:
            one.done()
        engine.close()
        done = backbone.continuations(items, None, max_new_tokens=9, do_sample=False)
    assert [one.text for one in asked] == [one.texts[0] for one in done]


def test_an_expert_that_was_written_again_with_forms_is_read_again() -> None:
    cache = ExpertCache(1 << 20)
    for rank in (2, 5):
        factor_LD = torch.full((rank, 4), float(rank))
        repository = ExpertRepository(
            edit_ids=("a",),
            visual=torch.zeros(1, 1),
            prompt=torch.zeros(1, 1),
            ranks_N=torch.tensor([rank]),
            down=factor_LD,
            up=factor_LD,
        )
        editor: Any = SimpleNamespace(repository=repository)
        (expert,) = cache.matrices("bank", editor, [0])
        assert torch.equal(expert.down_RD, factor_LD)
