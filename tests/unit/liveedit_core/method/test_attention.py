"""Cross attention does what Eq. 2 says."""

import pytest
import torch

from liveedit_core.method.attention import CrossAttention

QUERY, CONTEXT, VALUE, HEADS = 8, 6, 12, 2


@pytest.fixture
def attention() -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(QUERY, CONTEXT, VALUE, HEADS).eval().requires_grad_(False)


def everywhere(values_BSD: torch.Tensor) -> torch.Tensor:
    return torch.ones(values_BSD.shape[:2], dtype=torch.bool)


def test_a_context_of_one_token_is_returned_for_any_query(attention: CrossAttention) -> None:
    row = torch.randn(1, 1, CONTEXT)
    for query in (torch.zeros(1, 2, QUERY), torch.randn(1, 2, QUERY)):
        mixed = attention(query, row, everywhere(row))
        torch.testing.assert_close(mixed[0, 0], attention.v_proj(row[0, 0]))


def test_a_zero_query_projection_averages(attention: CrossAttention) -> None:
    attention.q_proj.weight.zero_()
    attention.q_proj.bias.zero_()
    context = torch.randn(1, 5, CONTEXT)
    mixed = attention(torch.randn(1, 1, QUERY), context, everywhere(context))
    torch.testing.assert_close(mixed[0, 0], attention.v_proj(context[0]).mean(0))


def test_masked_tokens_have_no_influence(attention: CrossAttention) -> None:
    query, context = torch.randn(1, 2, QUERY), torch.randn(1, 4, CONTEXT)
    padded = torch.cat([context, 1e4 * torch.randn(1, 3, CONTEXT)], dim=1)
    mask = torch.tensor([[True] * 4 + [False] * 3])
    alone = attention(query, context, everywhere(context))
    torch.testing.assert_close(attention(query, padded, mask), alone)
