"""Every supported family, on a tiny random model: cut, padded, edited and generating."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from liveedit_core.backbones.families import IMAGE, PROMPT, PromptFormat, family_of
from liveedit_core.backbones.generation import Continuation
from liveedit_core.backbones.prompts import collate
from liveedit_core.backbones.protocol import BackboneInput, Residual
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.rejects import RefusedInputError
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates, pad_hidden
from tests.tiny_backbone import TINY_CONFIG, image, plain_convolutions, tiny_generator
from tests.tiny_families import EDIT_LAYER, FAMILIES, family_backbone
from tests.unit.family_parts import tiny_tokenizer


def sized(seed: int, width: int, height: int) -> bytes:
    """The image of a seed, stretched."""
    buffer = io.BytesIO()
    decode_image(image(seed)).resize((width, height), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


SEEN = BackboneInput(prompt="What is shown here?", target="silver kettle", image_bytes=image(1))
ITEMS = (
    SEEN,
    BackboneInput(prompt="Who?", target="Anna", image_bytes=sized(2, 112, 56)),
    BackboneInput(prompt="The opposite of hot is", target="cold"),
    BackboneInput(prompt="Name the thing in the picture.", target="1984", image_bytes=image(3)),
    BackboneInput(prompt="When was it?", target="2020"),
)


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Iterator[VisionLanguageBackbone]:
    with plain_convolutions():
        yield family_backbone(request.param)


def arguments(backbone: VisionLanguageBackbone, item: BackboneInput) -> dict[str, Tensor]:
    """One teacher-forced input as keyword arguments of the whole model."""
    prepared = backbone.reader.prepare(item)
    return collate([prepared], pad_id=0, side="right", dtype=torch.float32, device="cpu")


def whole_model(backbone: VisionLanguageBackbone, item: BackboneInput) -> Any:
    """The uncut model, the way transformers runs it: (rows at l_e [T, D], logits [T, V])."""
    has_image = item.image_bytes is not None
    model = backbone.model.get_submodule("" if has_image else backbone.family.text_generator)
    with torch.no_grad():
        output = model(**arguments(backbone, item), output_hidden_states=True, use_cache=False)
    output = getattr(output, "language_model_outputs", None) or output
    return output.hidden_states[EDIT_LAYER + 1][0], output.logits[0]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_both_halves_give_the_whole_models_numbers(
    backbone: VisionLanguageBackbone, number: int
) -> None:
    hidden_TD, logits_TV = whole_model(backbone, ITEMS[number])
    (state,) = backbone.encode([ITEMS[number]])
    torch.testing.assert_close(state.hidden_TD, hidden_TD, rtol=0, atol=1e-5)
    (logits,) = backbone.target_logits([state], state.hidden_TD[None], has_end=True)
    start, stop = state.target_span
    torch.testing.assert_close(logits, logits_TV[start - 1 : stop], rtol=1e-5, atol=1e-5)


def test_a_padded_batch_gives_what_its_members_give_alone(backbone: VisionLanguageBackbone) -> None:
    states = backbone.encode(ITEMS)
    alone = [backbone.encode([item])[0] for item in ITEMS]
    for one, other in zip(states, alone, strict=True):
        assert (one.image_span, one.prompt_span, one.grid) == (
            other.image_span,
            other.prompt_span,
            other.grid,
        )
        torch.testing.assert_close(one.hidden_TD, other.hidden_TD, rtol=1e-4, atol=2e-5)
    batch = backbone.target_logits(states, pad_hidden(states).values_BSD)
    for state, logits in zip(alone, batch, strict=True):
        (expected,) = backbone.target_logits([state], state.hidden_TD[None])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


LONG = replace(SEEN, prompt="When was it first shown, and who made this kettle? " * 12)


def refusal(backbone: VisionLanguageBackbone, item: BackboneInput) -> str:
    try:
        backbone.check_input(item)
    except RefusedInputError as error:
        return error.message
    return ""


@pytest.mark.parametrize("size", [(1, 1), (3, 80), (90, 4), (29, 57), (301, 7), (640, 480), (0, 0)])
def test_an_image_of_any_size_is_refused_or_right(
    backbone: VisionLanguageBackbone, size: tuple[int, int]
) -> None:
    """(0, 0) stands for a long prompt, which must be right."""
    item = replace(SEEN, image_bytes=sized(2, *size)) if size[0] else LONG
    if reason := refusal(backbone, item):
        assert size[0]
        assert "processor refuses" in reason or "is too small" in reason
        return
    hidden_TD, logits_TV = whole_model(backbone, item)
    state, other = backbone.encode([item, ITEMS[1]])
    torch.testing.assert_close(state.hidden_TD, hidden_TD, rtol=1e-4, atol=3e-5)
    rows = pad_hidden([state, other]).values_BSD
    logits = backbone.target_logits([state, other], rows)[0]
    start, stop = state.target_span
    torch.testing.assert_close(logits, logits_TV[start - 1 : stop - 1], rtol=1e-4, atol=1e-4)


def test_prompts_padded_on_the_left_have_the_states_of_those_padded_on_the_right(
    backbone: VisionLanguageBackbone,
) -> None:
    items = [replace(item, target="") for item in (SEEN, LONG, ITEMS[3])]
    seen: dict[int, LayerStates] = {}

    def route(index: Sequence[int], states: Sequence[LayerStates]) -> None:
        seen.update(zip(index, states, strict=True))

    together = generated(backbone, items, route)
    for i, state in enumerate(backbone.encode(items)):
        torch.testing.assert_close(seen[i].hidden_TD, state.hidden_TD, rtol=1e-4, atol=3e-5)
        assert generated(backbone, items[i : i + 1], None)[0].token_ids == together[i].token_ids
    uncached = generated(backbone, items, None, use_cache=False)
    assert [one.token_ids for one in uncached] == [one.token_ids for one in together]


def embeddings(backbone: VisionLanguageBackbone, item: BackboneInput) -> Tensor:
    """What goes into the first decoder layer, [T, D]."""
    seen: list[Tensor] = []
    first = backbone.decoder.layers[0]
    handle = first.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].clone()))
    backbone.encode([item])
    handle.remove()
    return seen[0]


def changed(one: Tensor, other: Tensor) -> list[int]:
    return (one != other).any(-1).nonzero().flatten().tolist()


def test_another_image_changes_the_image_rows_and_no_others(
    backbone: VisionLanguageBackbone,
) -> None:
    rows = embeddings(backbone, SEEN)
    others = embeddings(backbone, replace(SEEN, image_bytes=image(7)))
    expected = list(range(*backbone.encode([SEEN])[0].image_span))
    ends = FAMILIES[backbone.digest].line_ends
    expected = [row for i, row in enumerate(expected) if i not in ends]
    assert changed(rows, others) == expected


def test_another_word_changes_the_prompt_rows_and_no_others(
    backbone: VisionLanguageBackbone,
) -> None:
    item, other = (replace(SEEN, prompt=f"What is {letter}?") for letter in "ZQ")
    where = changed(embeddings(backbone, item), embeddings(backbone, other))
    start, stop = backbone.encode([item])[0].prompt_span
    assert where
    assert all(start <= row < stop for row in where)


def test_another_target_changes_the_rows_from_there_on(backbone: VisionLanguageBackbone) -> None:
    (state,) = backbone.encode([SEEN])
    (other,) = backbone.encode([replace(SEEN, target="silver raven")])
    first = next(
        i for i, (a, b) in enumerate(zip(state.target_ids_O, other.target_ids_O, strict=False))
        if a != b
    )  # fmt: skip
    same = state.target_span[0] + first
    torch.testing.assert_close(state.hidden_TD[:same], other.hidden_TD[:same], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(state.hidden_TD[same], other.hidden_TD[same], atol=1e-3)


def test_tokens_are_the_processors(backbone: VisionLanguageBackbone) -> None:
    """Also where this adapter puts the image tokens among the text itself."""
    if backbone.family.assembles_tokens:
        text = "Question: What is shown here? Answer:"
    else:
        text = backbone.reader.format.with_image.replace(PROMPT, SEEN.prompt)
        text = text.replace(IMAGE, backbone.reader.image_token)
    done = backbone.processor(
        images=[decode_image(image(1))],
        text=[text],
        return_tensors="pt",
        **backbone.family.image_options,
    )
    prepared = backbone.reader.prepare(replace(SEEN, target=""))
    assert prepared.tokens["input_ids"].tolist() == done["input_ids"][0].tolist()
    assert backbone.decode(prepared.tokens["input_ids"][slice(*prepared.prompt)].tolist()).endswith(
        backbone.reader.format.text_only.replace(PROMPT, SEEN.prompt)[-8:].strip()
    )
    target_ids = backbone.encode([SEEN])[0].target_ids_O
    assert backbone.decode(target_ids.tolist()) == "silver kettle"


def generated(
    backbone: VisionLanguageBackbone, items: Sequence[BackboneInput], route: Any, **more: Any
) -> list[Continuation]:
    options = {"max_new_tokens": 5, "do_sample": False} | more
    return backbone.continuations(items, route, **options)


def all_logits(done: Sequence[Continuation]) -> list[Tensor]:
    return [step for one in done for step in one.details.logits]


def test_a_residual_of_zero_leaves_every_bit_and_another_does_not(
    backbone: VisionLanguageBackbone,
) -> None:
    def add(factor: float) -> Any:
        def route(index: Sequence[int], states: Sequence[LayerStates]) -> Residual:
            return lambda rows: factor * rows.roll(1, -1)

        return route

    options = {"return_dict_in_generate": True, "output_logits": True}
    plain, zero, loud = (
        all_logits(generated(backbone, ITEMS[:2], route, **options))
        for route in (None, add(0.0), add(-2.0))
    )
    assert all(torch.equal(one, other) for one, other in zip(plain, zero, strict=True))
    assert not torch.allclose(plain[0], loud[0], atol=1e-2)


def test_greedy_generation_is_that_of_transformers(backbone: VisionLanguageBackbone) -> None:
    done = generated(backbone, ITEMS, None)
    for item, one in zip(ITEMS, done, strict=True):
        has_image = item.image_bytes is not None
        model = backbone.model.get_submodule("" if has_image else backbone.family.text_generator)
        own = arguments(backbone, replace(item, target=""))
        expected = model.generate(
            **own, max_new_tokens=5, do_sample=False, pad_token_id=backbone.pad_id
        )[0, own["input_ids"].shape[1] :].tolist()
        assert list(one.token_ids[0]) == [i for i in expected if i not in backbone.end_ids]


def edited(backbone: VisionLanguageBackbone) -> Editor:
    config = TINY_CONFIG.with_changes(num_image_tokens=backbone.num_image_tokens, gain=2000.0)
    editor = Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))
    return editor.with_edits(
        [
            EditRequest(image_bytes=image(seed), prompt="What is shown here?", target="raven")
            for seed in range(4)
        ]
    )


def test_experts_act_alike_with_and_without_cache_in_batches_and_beams(
    backbone: VisionLanguageBackbone,
) -> None:
    """Each request keeps its own experts; a request without an image keeps none."""
    editor = edited(backbone)
    asked: list[int] = []

    def only(kept: dict[int, list[int]]) -> Any:
        def route(index: Sequence[int], states: Sequence[LayerStates]) -> Residual | None:
            asked.extend(index)
            if not states[0].has_image:
                return None
            routing = editor.route(states, compared_U=editor.repository.held_positions)
            for row, i in enumerate(index):
                mask = torch.zeros_like(routing.kept_BN[row])
                mask[kept[i]] = True
                routing.kept_BN[row] = mask
                routing.weights_BN[row] = mask.float()
            return editor.residual(routing)

        return route

    kept = {0: [0], 1: [], 3: [1, 2]}
    for options in ({}, {"use_cache": False}, {"num_beams": 3}):
        asked.clear()
        together = generated(backbone, ITEMS, only(kept), **options)
        assert sorted(asked) == [0, 1, 2, 3, 4]
        for i, item in enumerate(ITEMS):
            own = only({0: kept[i]}) if i in kept else None
            (alone,) = generated(backbone, [item], own, **options)
            assert alone.token_ids == together[i].token_ids, (i, options)
    plain = generated(backbone, ITEMS, None)
    greedy = generated(backbone, ITEMS, only(kept))
    assert greedy == generated(backbone, ITEMS, only(kept), use_cache=False)
    assert [a.token_ids == b.token_ids for a, b in zip(plain, greedy, strict=True)][1:3] == [
        True
    ] * 2
    assert any(greedy[i].token_ids != plain[i].token_ids for i in (0, 3))
    assert generated(backbone, ITEMS, None) == plain


@pytest.mark.parametrize("name", [name for name, one in FAMILIES.items() if one.is_variable])
def test_the_sentinel_copes_with_images_of_any_size(name: str) -> None:
    """Sentinel and image rows are both pooled by attention, so their numbers may differ."""
    backbone = family_backbone(name)
    items = [replace(SEEN, image_bytes=sized(4, *size)) for size in ((56, 56), (140, 42))]
    states = backbone.encode(items)
    lengths = {state.image_span[1] - state.image_span[0] for state in states}
    assert len(lengths) == 2
    editor = edited(backbone)
    together = editor.route(states, compared_U=editor.repository.held_positions)
    for row, state in enumerate(states):
        torch.testing.assert_close(
            editor.route([state], compared_U=editor.repository.held_positions).margin_BN[0],
            together.margin_BN[row],
            rtol=1e-4,
            atol=1e-5,
        )


def test_gradients_flow_to_the_rows(backbone: VisionLanguageBackbone) -> None:
    states = backbone.encode([SEEN])
    rows = pad_hidden(states).values_BSD.requires_grad_()
    backbone.target_logits(states, rows)[0].square().mean().backward()
    assert rows.grad is not None
    num_used = states[0].target_span[1] - 1  # the last target token predicts nothing here
    assert rows.grad[0, :num_used].abs().sum(-1).gt(0).all()
    assert not rows.grad[0, num_used:].any()


def test_the_chat_template_of_a_processor_words_the_prompts() -> None:
    from tests.tiny_families import model_and_processor

    model, processor = model_and_processor("llava")
    processor.chat_template = (
        "{% for turn in messages %}USER: {% for part in turn['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %} ASSISTANT:{% endfor %}"
    )
    backbone = VisionLanguageBackbone(model, processor, edit_layer=1, digest="x")
    assert backbone.reader.format == PromptFormat(
        with_image="USER: {image} {prompt} ASSISTANT:", text_only="USER: {prompt} ASSISTANT:"
    )


def test_what_cannot_work_is_refused_with_the_reason() -> None:
    import transformers as t

    text = t.T5Config(vocab_size=len(tiny_tokenizer()))
    with pytest.raises(ConfigError, match="encoder-decoder"):
        family_of(t.Blip2Config(text_config=text))
    with pytest.raises(ConfigError, match="README"):
        family_of(t.MllamaConfig())
    hybrid = t.Qwen2Config(vocab_size=9, layer_types=["linear_attention"] * 32)
    with pytest.raises(ConfigError, match="layers of linear_attention, which no test covers"):
        family_of(t.InternVLConfig(text_config=hybrid))
    for more in ({"hidden_size_per_layer_input": 8}, {"num_kv_shared_layers": 6}):
        fields: Any = {"hidden_size_per_layer_input": 0, **more}
        with pytest.raises(ConfigError, match=f"{next(iter(more))} = "):
            family_of(t.Gemma4Config(text_config=t.Gemma4TextConfig(**fields)))
    with pytest.raises(ConfigError, match=r"edit layer 0: .* image features enter until layer 0"):
        family_backbone("qwen3_vl").at_layer(0)
    model = family_backbone("llava")
    with pytest.raises(ConfigError, match="edit layer 3"):
        VisionLanguageBackbone(model.model, model.processor, edit_layer=3, digest="x")
