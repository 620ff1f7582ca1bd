"""Baselines learn what they should, leave the backbone alone and are scored like LiveEdit."""

import pytest
import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.grace import Grace
from liveedit_core.baselines.live_edit import LiveEdit
from liveedit_core.baselines.protocol import ComparedEditor
from liveedit_core.baselines.settings import FineTuningConfig, GraceConfig
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import PROTOCOLS, PreparedCases, ProbeResult
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.evaluation.summaries import summarize
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import EditRequest, ProbeKind
from tests.tiny_backbone import EDIT_LAYER, NUM_LAYERS, OUR_CONFIG, case, tiny_generator

CONFIG = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)
CASES = [case(seed) for seed in range(3)]
REQUESTS = [case.edit for case in CASES]
STRONG = FineTuningConfig(max_steps=80, learning_rate=3e-2, stop_loss=0.1)


@pytest.fixture(scope="module")
def editor(backbone: VisionLanguageBackbone) -> Editor:
    return Editor(backbone, tiny_generator(CONFIG), ExpertRepository.empty(CONFIG))


@pytest.fixture(scope="module")
def prepared(editor: Editor) -> PreparedCases:
    return CaseScorer(editor).prepare(CASES, has_free_answers=True, max_new_tokens=4)


def teach(model: ComparedEditor, editor: Editor, requests: list[EditRequest]) -> None:
    model.teach(requests, editor.backbone.encode([edit_input(request) for request in requests]))


def score(model: ComparedEditor, prepared: PreparedCases) -> list[ProbeResult]:
    return model.score(prepared, protocols=PROTOCOLS, max_new_tokens=4)


def test_fine_tuning_reaches_text_without_an_image(
    backbone: VisionLanguageBackbone, editor: Editor, prepared: PreparedCases
) -> None:
    model = FineTuning(backbone, STRONG)
    teach(model, editor, REQUESTS)
    text = [r for r in score(model, prepared) if r.kind is ProbeKind.TEXT_LOCALITY]
    assert any(result.answer_after != result.answer_before for result in text)


def test_fine_tuning_leaves_the_backbone_as_it_was(
    backbone: VisionLanguageBackbone, editor: Editor, prepared: PreparedCases
) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    layer = backbone.decoder.layers[-1]
    model = FineTuning(backbone, STRONG)
    teach(model, editor, REQUESTS[:1])
    score(model, prepared)
    assert backbone.decoder.layers[-1] is layer
    assert all(torch.equal(before[n], t) for n, t in backbone.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_edits_are_learned_one_after_another(
    backbone: VisionLanguageBackbone, editor: Editor, prepared: PreparedCases
) -> None:
    """Chunks are a matter of speed; the order of edits is not."""
    config = FineTuningConfig(max_steps=25, learning_rate=1e-3)
    together, apart, backwards = (FineTuning(backbone, config) for _ in range(3))
    teach(together, editor, REQUESTS)
    for request in REQUESTS:
        teach(apart, editor, [request])
    teach(backwards, editor, REQUESTS[::-1])
    first, second, other = (list(m.tuned.parameters()) for m in (together, apart, backwards))
    for one, same in zip(first, second, strict=True):
        # Adam makes a step of any size of gradient, so rounding in one of them shows.
        torch.testing.assert_close(one, same, rtol=0, atol=1e-3)
    assert any(not torch.allclose(o, b, atol=1e-2) for o, b in zip(first, other, strict=True))


def test_an_edit_below_the_stop_loss_costs_no_steps(
    backbone: VisionLanguageBackbone, editor: Editor
) -> None:
    original = list(backbone.decoder.layers[-1].mlp.down_proj.parameters())
    for stop_loss, is_tuned in ((1e6, False), (0.0, True)):
        model = FineTuning(backbone, FineTuningConfig(max_steps=1, stop_loss=stop_loss))
        teach(model, editor, REQUESTS[:1])
        pairs = zip(original, model.tuned.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs) is not is_tuned


def test_live_edit_is_scored_as_by_the_scorer(editor: Editor, prepared: PreparedCases) -> None:
    model = LiveEdit(editor)
    teach(model, editor, REQUESTS[:2])
    teach(model, editor, REQUESTS[2:])
    repository = editor.with_edits(REQUESTS).repository
    expected = CaseScorer(editor).score(prepared, repository, protocols=PROTOCOLS, max_new_tokens=4)
    scored = score(model, prepared)
    assert len(model.editor.repository) == 3
    assert [(r.score, r.kept) for r in scored] == [(r.score, r.kept) for r in expected]
    assert summarize(scored).keys() == summarize(expected).keys()


@pytest.mark.parametrize("layer", [EDIT_LAYER, NUM_LAYERS])
def test_a_layer_that_is_not_after_the_edit_layer_is_refused(
    layer: int, backbone: VisionLanguageBackbone
) -> None:
    with pytest.raises(ConfigError, match="earlier edit layer"):
        Grace(backbone, GraceConfig(layer=layer))
