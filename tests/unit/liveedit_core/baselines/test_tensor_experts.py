"""Tensor experts: their factors route, and write what they learned there and nowhere else."""

import torch
from torch.nn import functional

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.tensor_experts import Blocks, TensorExperts, layer_normed, written
from liveedit_core.method.editor import edit_input
from tests.tiny_backbone import case
from tests.unit.liveedit_core.baselines.learning_editors import TENSORS, UNRELATED

CENTRE = torch.linspace(-1, 1, 24)


def filled(hidden_MD: torch.Tensor, rank: int = 2) -> Blocks:
    blocks = Blocks(CENTRE, rank)
    first, second, coefficients_MK = blocks.fitted(hidden_MD)
    outputs = torch.randn_like(first), torch.randn_like(second)
    blocks.add([first, second, *outputs], coefficients_MK.square().sum(1))
    return blocks


def test_a_block_writes_to_its_own_token_what_its_factors_say() -> None:
    hidden_MD = torch.randn(3, 24)
    blocks = filled(hidden_MD)
    assert blocks.shape == (4, 6)
    others_XD = torch.randn(2, 24)
    found_XD = blocks.residual(torch.cat([others_XD, hidden_MD]), least_share=0.99)
    assert not found_XD[:2].any()
    first, second, one, two = (part.double() for part in blocks.factors)
    for m in range(3):
        matrix = functional.normalize(layer_normed(hidden_MD[m]) - CENTRE, dim=-1).view(4, 6)
        added = [
            (first[m, k] @ matrix.double() @ second[m, k]) * torch.outer(one[m, k], two[m, k])
            for k in range(2)
        ]
        expected = torch.stack(added).sum(0)
        torch.testing.assert_close(
            found_XD[2 + m].double(), expected.flatten(), rtol=1e-4, atol=1e-5
        )


def test_blocks_hold_all_of_a_token_at_full_rank() -> None:
    blocks = filled(torch.randn(3, 24), rank=9)
    assert blocks.rank == 4
    torch.testing.assert_close(blocks.own_M, torch.ones(3))
    ones_MK = torch.ones(3, 4)
    assert written(ones_MK, *blocks.factors[2:]).shape == (3, 24)


def test_of_two_edits_with_one_question_the_later_answers(backbone: VisionLanguageBackbone) -> None:
    model = TensorExperts(backbone, TENSORS, unrelated=UNRELATED)
    question = case(0).edit
    (state,) = backbone.encode([edit_input(question)])
    model.teach([question], [state])
    before = len(model.blocks)
    assert before == len(state.target_ids_O) + 1
    model.teach([question], [state])
    end_D = model.hidden([state])[0, state.target_span[0] - 1]
    outputs = [part.clone() for part in model.blocks.factors[2:]]
    first_XD = model.blocks.residual(end_D[None], 0.9)
    for part, kept in zip(model.blocks.factors[2:], outputs, strict=True):
        part[:before] = 0
        assert kept[:before].any()
    assert torch.equal(model.blocks.residual(end_D[None], 0.9), first_XD)
