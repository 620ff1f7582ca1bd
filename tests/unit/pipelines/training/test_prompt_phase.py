"""The prompt key of a training run: fitted once on the question families, and never trained."""

import pytest
import torch

from liveedit_core.errors import ConfigError
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.routing import similarity
from liveedit_core.training.recipe import PhaseSection
from pipelines.training import questions
from pipelines.training.cases import training_models
from pipelines.training.loop import GeneratorTrainer
from pipelines.training.questions import question_families, variants
from pipelines.training.recipe import CheckpointSection, TrainRecipe
from tests.tiny_backbone import TinyPromptEncoder, tiny_backbone
from tests.tiny_training import TINY_KEY, TINY_MODEL, tiny_material

MODEL = TINY_MODEL.with_changes(
    prompt_source="sentences",
    prompt_rank=20,
)
RECIPE = TrainRecipe(
    seed=5,
    model=MODEL,
    visual_key=TINY_KEY,
    checkpoint=CheckpointSection(every_steps=2),
    experts=PhaseSection(steps=2, batch_size=4),
)


def test_question_families_are_questions_in_other_words() -> None:
    families = question_families()
    assert len(families) > 100
    assert min(map(len, families)) > 1
    assert not any("What would you call this?" in family for family in families)  # evaluation only


def test_variants_name_what_is_shown() -> None:
    wordings = ["How old is it?", "age", "Wie alt ist es?", "Is This it?", "Since when is this so?"]
    assert variants(wordings, 0) == [
        "How old is the picture?",
        "Is this image it?",
        "Since when is the thing shown so?",
    ]
    assert variants(wordings, 1)[0] == "How old is this thing?"
    assert len(variants(wordings * 4, 0)) == 6


def test_it_is_fitted_in_place_of_the_prompt_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    families = [family[:4] for family in question_families()[:12]]
    monkeypatch.setattr(questions, "question_families", lambda: families)
    backbone = tiny_backbone().with_prompt_encoder(TinyPromptEncoder())
    trainer = GeneratorTrainer(RECIPE, backbone, tiny_material())
    trainer.fit_prompt_key()
    before = {k: v.clone() for k, v in trainer.generator.prompt_key.state_dict().items()}
    trainer.run()
    after = trainer.generator.prompt_key.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    figures = trainer.curve[0]
    assert (figures["phase"], trainer.curve[-1]["phase"]) == ("prompt_key", "experts")
    passes_every_own_wording(trainer.generator, backbone.encode_prompts(tuple(families[0])))


def passes_every_own_wording(generator: LiveEditGenerator, rows_WP: torch.Tensor) -> None:
    asked, stored = [row[None] for row in rows_WP], generator.prompt_key([rows_WP], is_edit=True)
    own = similarity(generator.prompt_key(asked, is_edit=False), stored.flatten(1))
    assert (own > 2.9).all()


def test_the_backbone_embeds_prompts_where_the_recipe_says_so() -> None:
    assert training_models(RECIPE).options.has_prompt_encoder
    plain = RECIPE.with_changes(model=MODEL.with_changes(prompt_source="edit_layer"))
    assert not training_models(plain).options.has_prompt_encoder


def test_gradient_steps_for_a_closed_form_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"prompt\.steps"):
        RECIPE.with_changes(prompt=PhaseSection(steps=1))
