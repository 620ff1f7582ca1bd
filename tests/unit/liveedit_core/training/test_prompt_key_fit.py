"""The fit of the prompt key, on families of questions that it has never seen."""

import pytest
import torch
from torch import Tensor

from liveedit_core.method.config import PromptKeyRecipe
from liveedit_core.method.prompt_key import OWN_SIMILARITY, PromptKey
from liveedit_core.method.routing import similarity
from liveedit_core.training.prompt_key_fit import PromptKeyReport, fit_prompt_key
from tests.tiny_backbone import TINY_CONFIG

NUM_FAMILIES, NUM_WORDINGS = 160, 4
CONFIG = TINY_CONFIG.with_changes(
    prompt_source="sentences",
    prompt_size=32,
    prompt_rank=10,
)
FAMILIES = torch.arange(NUM_FAMILIES).repeat_interleave(NUM_WORDINGS)
STYLE = 3.0


def wordings(seed: int) -> Tensor:
    """12 channels tell families apart, 20 are style."""
    draw = torch.Generator().manual_seed(seed)
    families = torch.randn(NUM_FAMILIES, 12, generator=draw)[FAMILIES]
    families = families + 0.3 * torch.randn(families.shape, generator=draw)
    style = STYLE * torch.randn(len(FAMILIES), 20, generator=draw)
    return torch.cat([families, style], dim=1)


def fitted(other_fraction: float = 0.02, num_anchors: int = 0) -> tuple[PromptKey, PromptKeyReport]:
    torch.manual_seed(0)
    config = CONFIG.with_changes(prompt_anchors=num_anchors)
    key = PromptKey(config).requires_grad_(False)
    recipe = PromptKeyRecipe(num_components=32, ridge=0.1, other_fraction=other_fraction)
    return key, fit_prompt_key(key, wordings(1), FAMILIES, recipe)


def unseen_scores(key: PromptKey) -> tuple[Tensor, Tensor]:
    """Of every wording of other families with the edit of each, and which are a family's own."""
    rows = wordings(2)
    edits = key([row[None] for row in rows[::NUM_WORDINGS]], is_edit=True).flatten(1)
    asked = [row[None] for row in rows]
    return similarity(key(asked, is_edit=False), edits), FAMILIES[:, None] == torch.arange(
        NUM_FAMILIES
    )


@pytest.mark.parametrize("num_anchors", [0, NUM_FAMILIES])
@pytest.mark.parametrize("other_fraction", [0.01, 0.05])
def test_the_gate_lets_as_many_other_questions_pass_as_asked(
    other_fraction: float, num_anchors: int
) -> None:
    key, report = fitted(other_fraction, num_anchors)
    scores, is_own = unseen_scores(key)
    assert (scores[~is_own] > 0).float().mean() == pytest.approx(other_fraction, rel=0.5)
    assert report.others_kept == pytest.approx(other_fraction, rel=0.2)


def test_unseen_families_are_known_in_other_words_as_the_report_says() -> None:
    key, report = fitted()
    scores, is_own = unseen_scores(key)
    others = torch.arange(len(FAMILIES)) % NUM_WORDINGS > 0
    kept = (scores[is_own][others] > 0).float().mean()
    first = (scores.argmax(1) == FAMILIES)[others].float().mean()
    assert kept > 0.9
    assert first > 0.8
    assert report.own_kept == pytest.approx(float(kept), abs=0.07)
    assert report.own_first > first  # fewer edits to tell apart
    assert report.num_edited == NUM_FAMILIES / 4


def test_wordings_that_cannot_be_told_apart_still_give_numbers() -> None:
    """Hardly any wording passes for another, but every edit knows its own."""
    torch.manual_seed(0)
    key = PromptKey(CONFIG).requires_grad_(False)
    rows = torch.randn(24, CONFIG.prompt_size)
    recipe = PromptKeyRecipe(other_fraction=1e-6)
    report = fit_prompt_key(key, rows, torch.arange(12).repeat_interleave(2), recipe)
    assert report.own_kept < 0.5
    own = [row[None] for row in rows]
    similar = similarity(key(own, is_edit=False), key(own, is_edit=True).flatten(1))
    assert similar.diagonal().min() > OWN_SIMILARITY - 0.1


def test_half_of_the_other_wordings_that_pass_have_full_weight() -> None:
    key, _ = fitted()
    scores, is_own = unseen_scores(key)
    others = torch.arange(len(FAMILIES)) % NUM_WORDINGS > 0
    own = scores[is_own][others]
    assert own[own > 0].median() == pytest.approx(OWN_SIMILARITY, rel=0.2)
