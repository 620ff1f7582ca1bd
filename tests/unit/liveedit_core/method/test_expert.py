"""Experts are finite, and written from the whole edit (Eq. 1)."""

import math
from dataclasses import replace

import pytest
import torch

from liveedit_core.errors import NumericsError
from liveedit_core.method.expert import ExpertGenerator
from liveedit_core.states import Padded
from tests.random_states import random_expert
from tests.tiny_backbone import TINY_CONFIG


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["down_RD", "visual_feature_QM"])
def test_a_non_finite_expert_is_refused_by_name(name: str, bad: float) -> None:
    expert = random_expert(3)
    expert.check_finite()
    tensor = getattr(expert, name).clone()
    tensor[0, 0] = bad
    with pytest.raises(NumericsError, match=rf"edit-3.*{name}"):
        replace(expert, **{name: tensor}).check_finite()


def generator(**change: float) -> ExpertGenerator:
    torch.manual_seed(0)
    config = TINY_CONFIG.with_changes(**change)
    return ExpertGenerator(config).eval().requires_grad_(False)


SIGNAL = Padded.pad([torch.randn(9, 32, generator=torch.Generator().manual_seed(1))])
NO_POSITION = torch.zeros(1, 9, dtype=torch.int64)


def test_the_scale_divides_the_matrix() -> None:
    plain, scaled = generator(expert_scale=1.0), generator(expert_scale=5.0)
    torch.testing.assert_close(plain(SIGNAL, NO_POSITION) / 5, scaled(SIGNAL, NO_POSITION))


def test_without_position_embeddings_order_does_not_matter() -> None:
    module = generator()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    shuffled = Padded(values_BSD=SIGNAL.values_BSD[:, order], mask_BS=SIGNAL.mask_BS)
    torch.testing.assert_close(module(SIGNAL, NO_POSITION), module(shuffled, NO_POSITION))


def test_position_embeddings_distinguish_target_tokens() -> None:
    module = generator(num_target_positions=3)
    position = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 3, 4]])
    swapped = torch.tensor([[0, 0, 0, 0, 0, 1, 3, 2, 4]])
    assert not torch.allclose(module(SIGNAL, position), module(SIGNAL, swapped), atol=1e-5)
