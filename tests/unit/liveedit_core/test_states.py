"""Parts of a sequence are selected by their spans and padded with a mask."""

from dataclasses import replace

import torch

from liveedit_core.states import (
    LayerStates,
    Padded,
    image_pyramids,
    pad_hidden,
    pad_images,
    pad_prompts,
)
from tests.random_states import random_states

SHORT = random_states(1, num_prompt=2, num_target=1, num_before=3)
LONG = random_states(2, num_prompt=6, num_target=4)


def test_padding_keeps_values_and_masks_the_rest() -> None:
    parts = [torch.ones(2, 3), 2 * torch.ones(4, 3), torch.zeros(0, 3)]
    padded = Padded.pad(parts)
    assert padded.mask_BS.tolist() == [[True, True, False, False], [True] * 4, [False] * 4]
    for part, rows, mask in zip(parts, padded.values_BSD, padded.mask_BS, strict=True):
        assert torch.equal(rows[mask], part)
        assert not rows[~mask].any()


def test_spans_select_the_right_positions() -> None:
    pair = [SHORT, LONG]
    for rows, spans in (
        (pad_images(pair), [(3, 7), (0, 4)]),
        (pad_prompts(pair), [(7, 9), (4, 10)]),
        (pad_hidden(pair), [(0, 10), (0, 14)]),
    ):
        for row, (start, stop) in enumerate(spans):
            own = pair[row].hidden_TD[start:stop]
            assert torch.equal(rows.values_BSD[row, : stop - start], own)
            assert int(rows.mask_BS[row].sum()) == stop - start


def test_a_question_has_the_pyramid_of_a_figure_too_an_edit_has_not() -> None:
    whole = replace(SHORT, pyramid_E=torch.tensor([1.0, 2.0]))
    both = replace(LONG, pyramid_E=torch.tensor([3.0, 4.0, 5.0, 6.0]))
    asked = image_pyramids([whole, both], 2, is_edit=False)
    assert [views.tolist() for views in asked] == [[[1, 2]], [[3, 4], [5, 6]]]
    assert image_pyramids([both], 2, is_edit=True)[0].tolist() == [[3, 4]]


def test_an_empty_image_span_means_no_image() -> None:
    text_only = LayerStates(
        hidden_TD=torch.zeros(4, 3),
        pyramid_E=torch.zeros(0),
        target_embeddings_OD=torch.zeros(1, 3),
        image_span=(0, 0),
        prompt_span=(0, 3),
        target_span=(3, 4),
        target_ids_O=torch.tensor([7]),
    )
    assert not text_only.has_image
    assert text_only.num_tokens == 4
    assert SHORT.has_image
