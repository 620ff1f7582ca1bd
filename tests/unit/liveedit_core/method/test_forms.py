"""Forms of an expert: answers to what follows from its fact."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import ConfigError, ShapeError
from liveedit_core.method import refine
from liveedit_core.method.config import RefineSection
from liveedit_core.method.editor import Editor
from liveedit_core.method.expert import Expert
from liveedit_core.method.forms import writing
from liveedit_core.method.forms.texts import (
    _WRONG,
    FORMS,
    WORDINGS,
    derived_forms,
    noun_of,
    one_step,
)
from liveedit_core.method.forms.writing import directions
from liveedit_core.method.growing import GrowingRepository
from liveedit_core.method.prompt_key import form_logits, form_row
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import slot_residual, slot_weights
from liveedit_core.model_folder import read_model
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.serving.served import ServedVersion
from tests.random_states import random_expert
from tests.small_rows import SMALL_CONFIG, SMALL_IDENTITY, small_row
from tests.tiny_backbone import (
    OUR_CONFIG,
    PROMPT_SIZE,
    TinyPromptEncoder,
    image,
    plain_convolutions,
    tiny_backbone,
    tiny_generator,
)

CONFIG = OUR_CONFIG.with_changes(
    gain=10.0,
    prompt_source="sentences",
    prompt_size=PROMPT_SIZE,
    prompt_rank=6,
    has_own_ranks=True,
    rank=33,
    num_target_positions=33,
    max_kept=0,
)
PRICE = "How much does it cost?"
DERIVED = RefineSection(mode="on", max_steps=1, derived=True)


def by_name(prompt: str, target: str) -> dict[str, tuple[str, str]]:
    return {form.name: (form.wordings[0], form.target) for form in derived_forms(prompt, target)}


def test_what_follows_from_a_price() -> None:
    forms = by_name(PRICE, "12 euros")
    assert forms["yes"] == ("Would 12 euros be the price?", "yes")
    assert forms["no"][1] == "no"
    assert "12 euros" not in forms["no"][0]
    assert forms["sentence"][1] == "The price is 12 euros."
    assert forms["twice"] == ("Double the price: what do you get?", "24 euros")
    assert derived_forms(PRICE, "12 euros") == derived_forms(PRICE, "12 euros")


@pytest.mark.parametrize(
    ("answer", "steps"),
    [
        ("oak", {"first": "O"}),
        ("4 March 1987", {"year": "1987"}),
        ("1.5 kg", {"twice": "3.0 kg"}),
        ("AB-471", {"last": "1"}),
        ("3, at most 5", {}),
        ("12:30, Mondays", {}),
        ("\u8336", {}),
        ("", {}),
        (f"{10**26 + 1} m", {"twice": f"{2 * 10**26 + 2} m"}),
        ("0.0000001 m", {"twice": "0.0000002 m"}),
        ("9" * 30 + " m", {}),
        ("1234567890123456.7890123456789 m", {}),
        (".5 kg", {}),
        ("3rd floor", {}),
        ("{answer} %s {0}", {"twice": "{answer} %s {0}"}),
    ],
)
def test_one_step_further(answer: str, steps: dict[str, str]) -> None:
    assert one_step(answer) == steps


def test_a_question_of_yes_or_no_has_no_such_forms() -> None:
    assert by_name("Is it open today?", "yes, until 9").keys() == {"sentence"}
    assert "yes" not in by_name("Can I buy it?", "never")
    for prompt in ("Could you tell me the price?", "May I ask who owns it?"):
        assert "yes" in by_name(prompt, "12 euros"), "a polite request"


def test_a_sentence_is_put_into_no_other_sentence() -> None:
    forms = by_name(PRICE, "It costs 12 euros.")
    assert forms["sentence"][1] == "It costs 12 euros."
    assert forms["twice"][1] == "It costs 24 euros"
    named = {"yes", "no", "reversed", "sentence"}
    assert by_name("Who owns it?", "The owner is Anna.").keys() == named
    assert by_name("What is its title?", "It Takes Two").keys() == {*named, "first"}


def test_an_answer_of_dots_has_no_forms() -> None:
    assert derived_forms("What does it say?", " ... ") == []


def test_no_part_of_a_right_answer_is_a_wrong_one() -> None:
    wordings = WORDINGS["yes or no"]
    for answer in ("Lisbon", "in Lisbon, Portugal", "a very small dog", "e", "B"):
        for number in range(20):
            (no,) = (f for f in derived_forms(f"Where is {number}?", answer) if f.name == "no")
            empty = [one.format(noun="place", answer="|").split("|") for one in wordings]
            for asked, (start, end) in zip(no.wordings, empty, strict=False):
                wrong = asked.removeprefix(start).removesuffix(end)
                assert wrong.lower() not in answer.lower()
                assert answer.lower() not in wrong.lower()
    assert "no" not in by_name("What does it say?", " ".join(_WRONG))


def test_the_answer_tells_what_was_asked_for() -> None:
    forms = by_name(PRICE, "12 euros")
    assert forms["reversed"] == ("Which detail of it is 12 euros?", "the price")
    assert "reversed" not in by_name("Hmm?", "12 euros"), "nobody knows what it is"
    assert "reversed" not in by_name("Is the price right?", "no")


def test_what_is_asked_for() -> None:
    nouns = [noun_of(text) for text in ("Who owns this?", "Which colour is it?", "Was ist das?")]
    assert nouns == ["owner", "colour", "answer"]


def test_directions_tell_forms_and_fit_the_code() -> None:
    direction_FS, bias_F = directions()
    assert len(direction_FS) == len(bias_F) == len(FORMS)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that writes forms; its directions are random."""
    draw = torch.Generator().manual_seed(1)
    drawn = torch.randn(len(FORMS), CONFIG.text_size, generator=draw), torch.zeros(len(FORMS))
    monkeypatch.setattr(writing, "directions", lambda: drawn)
    for module in (refine, writing):
        monkeypatch.setattr(module, "MARGIN", -1e9)  # whatever it answers counts
    monkeypatch.setattr(refine, "NOISE", 0.0)
    with plain_convolutions():
        yield EditedModel(*models(), refine=DERIVED, weak="commit")


def models() -> tuple[Any, Any]:
    backbone = tiny_backbone.__wrapped__().with_prompt_encoder(TinyPromptEncoder())
    return backbone, tiny_generator(CONFIG)


def with_forms(expert: Expert, *slots: int, width: int = CONFIG.text_size) -> Expert:
    """The last slots become those of forms."""
    draw = torch.Generator().manual_seed(len(slots))
    rows = [form_row(count, 0.5, torch.randn(width, generator=draw)) for count in slots]
    return replace(expert, forms_FX=torch.stack(rows))


def editor_of(*experts: Expert) -> Editor:
    backbone, generator = models()
    return Editor(backbone, generator, ExpertRepository.from_experts(CONFIG, experts))


def test_an_expert_with_forms_answers_as_one_expert_for_each_of_them() -> None:
    """Each form as an edit of its own, whose prompt feature holds its key."""
    with plain_convolutions():
        packed = with_forms(random_expert(1, CONFIG, rank=6), 1, 2)
        other = random_expert(2, CONFIG, rank=4)
        key = tiny_generator(CONFIG).prompt_key
        rank = CONFIG.prompt_rank
        length = float(key([torch.ones(1, CONFIG.prompt_size)], is_edit=False).flatten()[rank])
        single = []
        for name, slots, (_, bias, *key_S) in (
            ("plain", slice(0, 3), (0, 0.0, *[0.0] * CONFIG.text_size)),
            ("one", slice(3, 4), packed.forms_FX[0].tolist()),
            ("two", slice(4, 6), packed.forms_FX[1].tolist()),
        ):
            feature = packed.prompt_feature_QM.flatten().clone()
            unit = CONFIG.num_queries * CONFIG.module_dim**0.5 / length
            feature[rank] += bias * unit
            feature[rank + 2 : rank + 2 + CONFIG.text_size] += torch.tensor(key_S) * unit
            single.append(
                replace(
                    packed,
                    edit_id=name,
                    prompt_feature_QM=feature.view_as(packed.prompt_feature_QM),
                    down_RD=packed.down_RD[slots],
                    up_RD=packed.up_RD[slots],
                    forms_FX=torch.zeros(0, 0),
                )
            )
        together, apart = editor_of(other, packed), editor_of(other, *single)
        asked = [BackboneInput(prompt=PRICE, image_bytes=image(n)) for n in range(3)]
        states = together.backbone.encode(asked)
        routing, split = together.route(states), apart.route(states)
        assert torch.allclose(
            routing.prompt_BN[:, 1], split.prompt_BN[:, 1:].logsumexp(1), atol=1e-4
        )
        shares_BF = routing.form_shares[1].shares_BF
        assert torch.allclose(shares_BF, split.prompt_BN[:, 1:].softmax(1), atol=1e-4)
        weight_BR = slot_weights(routing.weights_BN, torch.tensor([4, 6]), routing.form_shares)
        assert torch.equal(weight_BR[:, :4], routing.weights_BN[:, :1].expand(-1, 4))
        expected = routing.weights_BN[:, 1:] * shares_BF[:, [0, 0, 0, 1, 2, 2]]
        assert torch.equal(weight_BR[:, 4:], expected)
        served = ServedVersion(name="v1", num_edits=2, editor=together).route(states)
        for row, (found, kept) in enumerate(served):
            is_formed = [edit_id == packed.edit_id for edit_id in found.kept]
            assert [bool(shares) for shares in found.form_shares] == is_formed * any(is_formed)
            for expert in kept.experts:
                if expert.edit_id == packed.edit_id:
                    assert isinstance(expert.weight, Tensor)
                    assert torch.equal(expert.weight, expected[row])
        assert any(packed.edit_id in found.kept for found, _ in served)
        residual = together.residual(routing)
        assert residual is not None
        hidden_BTD = torch.randn(3, 5, CONFIG.hidden_size)
        normed_BTD = together.generator.hidden_norm(hidden_BTD)
        down_LD, up_LD = together.repository.down_LD, together.repository.up_LD
        added_BTD = slot_residual(normed_BTD, weight_BR, down_LD, up_LD, CONFIG.gain)
        assert torch.allclose(residual(hidden_BTD), added_BTD, atol=1e-5)


def test_forms_stay_with_their_expert() -> None:
    experts = [random_expert(0, CONFIG), with_forms(random_expert(1, CONFIG, rank=4), 1, 2)]
    repository = ExpertRepository.from_experts(CONFIG, experts)
    assert repository.forms.keys() == {1}
    assert repository.take([1, 0]).forms.keys() == {0}
    joined = repository.joined(repository.take([1]))
    assert joined.forms.keys() == {1, 2}
    growing = GrowingRepository(repository)
    growing.add([with_forms(random_expert(2, CONFIG, rank=3), 1), random_expert(3, CONFIG)])
    assert growing.snapshot().forms.keys() == {1, 2}
    growing.hold(held=(), dropped=["edit-0"])
    assert growing.compact(()).snapshot().forms.keys() == {0, 1}


def test_edits_are_written_with_forms_and_saved_with_them(
    model: EditedModel, tmp_path: Path
) -> None:
    first = model.edit(image(0), PRICE, "12 euros")
    textual = model.edit(None, PRICE, "12 euros")
    held = model.editor.repository
    (place,) = held.forms
    assert held.edit_ids[place] == first != textual
    names = [form.name for form in derived_forms(PRICE, "12 euros")]
    counts = [count_tokens(model, form.target) + 1 for form in derived_forms(PRICE, "12 euros")]
    assert held.forms[place][:, 0].tolist() == counts, names
    assert int(held.ranks_N[place]) == count_tokens(model, "12 euros") + 1 + sum(counts)
    editor = model.editor
    asked = editor.backbone.encode([BackboneInput(prompt=PRICE)])[0].prompt_embeddings_WP
    logits_BF = form_logits(editor.generator.prompt_key.text(asked), held.forms[place])
    assert logits_BF[:, 1:].max() <= writing.OWN_ODDS + 1e-4, "its own question is no form"
    model.save(tmp_path)
    again, _ = read_model(tmp_path, editor.backbone.digest, editor.generator)
    assert torch.equal(again.forms[place], held.forms[place])
    model.remove(textual)
    with pytest.raises(ConfigError, match=r"refine\.derived"):
        model.export(tmp_path / "experts.safetensors")
    model.remove(first)
    assert not model.editor.repository.compact().forms


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_correction_keeps_forms_unless_it_is_told_otherwise(
    model: EditedModel, is_kept: bool
) -> None:
    first = model.edit(image(0), PRICE, "12 euros")
    fact, editor = model.fact(first), model.editor
    assert fact is not None
    again = (
        RefineSection(mode="on", max_steps=1) if is_kept else DERIVED.with_changes(derived=False)
    )
    parts = (editor.backbone, editor.generator, editor.repository)
    later = EditedModel(*parts, {first: fact}, refine=again, weak="commit")
    later.edit(image(0), PRICE, "13 euros")
    assert [item.supersedes for item in later.corrections] == [first]
    assert bool(later.editor.repository.compact().forms) == is_kept


def count_tokens(model: EditedModel, target: str) -> int:
    return model.editor.backbone.count_target_tokens(target)


def test_a_bank_stores_forms(tmp_path: Path) -> None:
    config = SMALL_CONFIG.with_changes(prompt_source="sentences", prompt_size=3, prompt_rank=1)
    store = ObjectStore(tmp_path.as_uri())
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    plain, row = small_row(1), small_row(2)
    formed = replace(row, expert=with_forms(row.expert, 1, 1, width=config.text_size))
    bank.commit(bank.fragment_writer().write([plain, formed]), epoch=bank.acquire_writer())
    loaded = bank.load_repository(config)
    assert loaded.forms.keys() == {1}
    assert (bank.has_forms(1), bank.has_forms()) == (False, True)
    assert torch.equal(loaded.forms[1], formed.expert.forms_FX)
    before = replace(SMALL_IDENTITY, has_forms=False)
    with pytest.raises(ShapeError, match="before experts had any"):
        formed.check(before)
    plain.check(before)
    old = ExpertBank.open_or_create(store, "old", before)
    old.commit(old.fragment_writer().write([plain]), epoch=old.acquire_writer())
    assert old.load_repository(config).forms == {}
    assert not old.has_forms()


def test_what_cannot_write_forms_says_so() -> None:
    backbone, generator = models()
    with pytest.raises(ConfigError, match=r"refine\.mode"):
        EditedModel(backbone, generator, refine=RefineSection(mode="off", derived=True))
    with pytest.raises(ConfigError, match="has room for the embedding"):
        EditedModel(backbone, generator, refine=DERIVED)
    with pytest.raises(ValueError, match=r"generator\.shards = 1"):
        LifelongEditRecipe.model_validate(
            {"refine": {"derived": True}, "generator": {"shards": 2, "num_gpus": 1}}
        )
