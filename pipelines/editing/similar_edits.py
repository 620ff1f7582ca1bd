"""Edits that look alike: near-duplicates and conflicts, found by image embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.bank.expert_bank import ExpertBank

_BLOCK_ROWS = 256
_MAX_EDITS = 4096
_MAX_PAIRS = 200


@dataclass(frozen=True, kw_only=True)
class AlikePair:
    """Two edits whose images are alike."""

    similarity: float
    first: str
    """edit_id of the older one."""
    second: str


def alike_pairs(
    bank: ExpertBank, edit_ids: Sequence[str], *, least_similarity: float
) -> list[AlikePair]:
    """Pairs of edits of the newest bank version with like images, most alike first.

    Args:
        bank: The bank.
        edit_ids: One edit of each pair is among the last 4 096 of these.
        least_similarity: Cosine from which two images count as alike.

    Returns:
        At most 200 pairs.
    """
    rows = bank.load_rows(["edit_id", "clip_embedding"])
    held: list[str] = rows.column("edit_id").to_pylist()
    flat = rows.column("clip_embedding").combine_chunks().flatten()
    embeddings_NC = flat.to_numpy(zero_copy_only=False).reshape(len(held), -1)
    wanted = set(edit_ids[-_MAX_EDITS:])
    places = [index for index, edit_id in enumerate(held) if edit_id in wanted]
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(places), _BLOCK_ROWS):
        block = np.array(places[start : start + _BLOCK_ROWS])
        found |= _in_block(embeddings_NC, block, least_similarity)
    best = sorted(found, key=lambda pair: (-found[pair], pair))[:_MAX_PAIRS]
    return [
        AlikePair(similarity=found[pair], first=held[pair[0]], second=held[pair[1]])
        for pair in best
    ]


def _in_block(
    embeddings_NC: npt.NDArray[np.float32], block: npt.NDArray[np.int_], least: float
) -> dict[tuple[int, int], float]:
    similarity_BN = embeddings_NC[block] @ embeddings_NC.T
    pairs = {}
    for row, other in np.argwhere(similarity_BN >= least):
        first, second = sorted((int(block[row]), int(other)))
        if first != second:
            pairs[first, second] = min(float(similarity_BN[row, other]), 1.0)
    return pairs
