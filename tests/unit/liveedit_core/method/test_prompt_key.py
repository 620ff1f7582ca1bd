"""The prompt key: an edit's own wordings always pass, and the feature is the formula."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import ConfigError, RepositoryMismatchError
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.prompt_key import ANCHOR_WEIGHT, OWN_SIMILARITY, PromptKey
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import similarity
from tests.random_states import random_states
from tests.tiny_backbone import (
    OUR_CONFIG,
    PROMPT_SIZE,
    TINY_CONFIG,
    TinyPromptEncoder,
    image,
    request,
    tiny_backbone,
    tiny_generator,
)

FIELDS = {
    "prompt_source": "sentences",
    "prompt_size": PROMPT_SIZE,
    "prompt_rank": 12,
}
CONFIG = TINY_CONFIG.with_changes(**FIELDS, min_gate=0.5)
TOLERANCE = 1e-4


def key_of(scale: float = 20.0, offset: float = 0.1, num_anchors: int = 0) -> PromptKey:
    torch.manual_seed(0)
    key = PromptKey(CONFIG.with_changes(prompt_anchors=num_anchors))
    key.anchors.copy_(functional.normalize(torch.randn(key.anchors.shape), dim=-1))
    key.log_scale.fill_(math.log(scale))
    key.offset.fill_(offset)
    key.mean.normal_()
    key.deviation.uniform_(0.5, 2)
    return key.requires_grad_(False)


def pyramids(*counts: int, seed: int = 1) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(count, CONFIG.prompt_size, generator=draw) for count in counts]


def scores(key: PromptKey, asked: list[Tensor], edits: list[Tensor]) -> Tensor:
    return similarity(key(asked, is_edit=False), key(edits, is_edit=True).flatten(1))


def test_the_similarity_is_the_formula() -> None:
    key = key_of(offset=-2.0)  # low enough that no edit needs a bonus
    asked, edits = pyramids(1, 1, 1), pyramids(1, 1, seed=2)
    units = [
        functional.normalize(((row - key.mean) / key.deviation) @ key.projection.weight.T, dim=-1)
        for row in (torch.cat(asked), torch.cat(edits))
    ]
    expected = 20 * (units[0] @ units[1].T + 2.0)
    torch.testing.assert_close(scores(key, asked, edits), expected, rtol=1e-4, atol=1e-4)


def test_common_questions_count_less() -> None:
    plain, key = key_of(offset=-2.0), key_of(offset=-2.0, num_anchors=50)
    asked, edits = pyramids(1, 1, 1), pyramids(1, 1, seed=2)
    units = [
        functional.normalize(((row - key.mean) / key.deviation) @ key.projection.weight.T, dim=-1)
        for row in (torch.cat(asked), torch.cat(edits))
    ]
    common = [
        ANCHOR_WEIGHT * (unit @ key.anchors.T).sort(descending=True).values[:, :20].mean(1)
        for unit in units
    ]
    expected = 20 * (units[0] @ units[1].T + 2.0 - common[0][:, None] - common[1])
    plain.load_state_dict(key.state_dict(), strict=False)
    torch.testing.assert_close(scores(key, asked, edits), expected, rtol=1e-4, atol=1e-4)
    assert (scores(plain, asked, edits) > expected).all()


def test_an_edit_asked_in_its_own_words_is_what_its_prompt_is() -> None:
    key = key_of(num_anchors=50)
    edits = pyramids(1, 1)
    stored = key(edits, is_edit=True).flatten(1)
    asked = key(edits, is_edit=False)
    torch.testing.assert_close(
        similarity(key.as_asked(stored), stored), similarity(asked, stored), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("num_anchors", [0, 50])
@pytest.mark.parametrize("scale", [0.5, 20.0, 100.0])
@pytest.mark.parametrize("offset", [-0.3, 0.3, 3.0])
def test_every_own_wording_passes_whatever_was_fitted(
    scale: float, offset: float, num_anchors: int
) -> None:
    key = key_of(scale, offset, num_anchors)
    edits = pyramids(1, 3, 2, 6)
    found = key(edits, is_edit=True).flatten(1)
    for stored in (found, found.half().float()):
        for number, wordings_WP in enumerate(edits):
            asked = key([row[None] for row in wordings_WP], is_edit=False)
            own = similarity(asked, stored)[:, number : number + 1]
            slack = TOLERANCE if stored is found else 0.3
            assert (own >= OWN_SIMILARITY - slack).all()
            assert (own.sigmoid() >= CONFIG.min_gate).all()


def test_the_bonus_is_the_smallest_that_is_enough() -> None:
    key = key_of(offset=3.0)
    edits = pyramids(1, 4)
    own = [scores(key, [row[None] for row in edits[i]], edits)[:, i].min() for i in range(2)]
    torch.testing.assert_close(
        torch.stack(own), torch.full((2,), OWN_SIMILARITY), atol=1e-3, rtol=0
    )


def test_an_edit_does_not_depend_on_its_neighbours() -> None:
    key, edits = key_of(), pyramids(2, 1, 3)
    together = key(edits, is_edit=True)
    for number, wordings_WP in enumerate(edits):
        torch.testing.assert_close(key([wordings_WP], is_edit=True)[0], together[number])


@pytest.mark.parametrize("base", [TINY_CONFIG, OUR_CONFIG])
def test_it_replaces_the_prompt_features_of_a_generator(base: object) -> None:
    config = base.with_changes(**FIELDS)  # type: ignore[attr-defined]
    generator = tiny_generator(config)
    plain = tiny_generator(base)  # type: ignore[arg-type]
    assert not any(
        "psi" in name or "prompt_norm" in name for name, _ in generator.named_parameters()
    )
    states = [
        replace(random_states(seed, config=config), prompt_embeddings=rows)
        for seed, rows in enumerate(pyramids(1, 2))
    ]
    edit, asked = generator.edit_features(states), generator.input_features(states)
    visual = plain.input_features(states)
    assert edit.prompt_BQM.shape == asked.prompt_BQM.shape == visual.prompt_BQM.shape
    assert (
        similarity(asked.prompt_BQM, edit.prompt_BQM.flatten(1)).diagonal().min()
        > OWN_SIMILARITY - 0.1
    )
    moved = [replace(state, hidden_TD=state.hidden_TD + 1) for state in states]
    assert torch.equal(generator.edit_features(moved).prompt_BQM, edit.prompt_BQM)


def test_only_a_config_that_asks_for_it_changes_its_file() -> None:
    assert not any("prompt_size" in name for name in TINY_CONFIG.to_dict())
    assert not set(FIELDS) & set(OUR_CONFIG.to_dict())
    stored = CONFIG.to_dict()
    assert set(FIELDS) <= set(stored)
    assert type(CONFIG).from_dict(stored) == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_size": 0}, "prompt_size"),
        ({"prompt_rank": 31}, "prompt_rank"),
        ({"prompt_source": "edit_layer"}, "sentences only"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CONFIG.with_changes(**change)


def test_a_backbone_with_other_embeddings_is_refused() -> None:
    generator = LiveEditGenerator(CONFIG)
    nothing = ExpertRepository.empty(CONFIG)
    with pytest.raises(RepositoryMismatchError, match="prompt_size"):
        Editor(tiny_backbone(), generator, nothing)
    with pytest.raises(RepositoryMismatchError, match="prompt_size"):
        Editor(tiny_backbone().with_prompt_encoder(TinyPromptEncoder(8)), generator, nothing)
    Editor(tiny_backbone().with_prompt_encoder(TinyPromptEncoder()), generator, nothing)
    Editor(
        tiny_backbone().with_prompt_encoder(TinyPromptEncoder()),
        tiny_generator(TINY_CONFIG),
        nothing,
    )


@pytest.mark.parametrize(
    ("prompt", "also_asked"),
    [
        ("What is shown here?", ("Which thing does this picture show?", "w")),
        ("?", ()),
        ("\u8fd9\u662f\u4ec0\u4e48\uff1f", ("O que \u00e9 isto?",)),
        ("\U0001f999", ("\U0001f999\U0001f999 and a rather long question about all of this?",)),
    ],
)
def test_an_edit_answers_every_wording_it_was_given(
    prompt: str, also_asked: tuple[str, ...]
) -> None:
    """From the backbone's own embeddings, alone and in a batch with others."""
    backbone = tiny_backbone().with_prompt_encoder(TinyPromptEncoder())
    generator = tiny_generator(CONFIG)
    generator.prompt_key.load_state_dict(key_of(offset=0.5).state_dict())
    editor = Editor(backbone, generator, ExpertRepository.empty(CONFIG))
    edits = [replace(request(1), prompt=prompt, also_asked=also_asked), request(2), request(3)]
    editor = editor.with_edits(edits)
    asked = [BackboneInput(prompt=p, image_bytes=image(1)) for p in (prompt, *also_asked)]
    own = editor.route(backbone.encode(asked)).prompt_BN[:, 0]
    assert (own >= OWN_SIMILARITY - TOLERANCE).all()


def test_only_prompts_are_encoded_whose_image_passes_the_visual_filter() -> None:
    generator = tiny_generator(CONFIG)
    generator.prompt_key.load_state_dict(key_of(offset=0.5).state_dict())
    backbone = tiny_backbone().with_prompt_encoder(TinyPromptEncoder())
    editor = Editor(backbone, generator, ExpertRepository.empty(CONFIG)).with_edits([request(1)])
    asked = [BackboneInput(prompt=f"{n}?", image_bytes=image(n)) for n in range(8)]
    states = backbone.encode(asked)
    encoded: list[int] = []

    def later(number: int) -> Tensor:
        encoded.append(number)
        return states[number].prompt_embeddings_WP

    lazy = [replace(states[n], prompt_embeddings=partial(later, n)) for n in range(len(states))]
    known, found = editor.route(states), editor.route(lazy)
    passing = (known.margin_BN > 0).any(1).nonzero().flatten().tolist()
    assert 0 < len(passing) < len(states)
    assert encoded == passing
    for name in ("kept_BN", "visual_BN", "margin_BN", "weights_BN"):
        assert torch.equal(getattr(found, name), getattr(known, name)), name
    assert torch.equal(found.prompt_BN[passing], known.prompt_BN[passing])
