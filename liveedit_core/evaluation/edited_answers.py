"""What answers of the edited model depend on: where that is equal, they are not computed again.

Another bank version changes it for few questions.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.method.editor import Routing
from liveedit_core.method.repository import ExpertRepository

MAX_SHARED_ANSWERS = 100_000
WEIGHT_DECIMALS = 5
_EXPERTS_READ = 256


class EditedQuery(NamedTuple):
    """All that an edited answer depends on, for one backbone and generator."""

    image_sha256: bytes
    prompt: str
    target: str
    """Under teacher forcing."""
    kept: tuple[bytes, ...]
    """sha256 of each expert's matrices: one edit may be written in more than one way."""
    weights: tuple[float, ...]
    """Rounded: a product over another number of experts differs in the last bits. Those of forms
    follow."""
    max_new_tokens: int
    """Of a free answer; 0: the argmax at each target position and after the target instead."""

    @classmethod
    def of(
        cls,
        question: BackboneInput,
        routing: Routing,
        digests: Mapping[str, bytes],
        max_new_tokens: int = 0,
    ) -> "EditedQuery":
        return cls(
            hashlib.sha256(question.image_bytes or b"").digest(),
            question.prompt,
            "" if max_new_tokens else question.target,
            tuple(digests[edit_id] for edit_id in routing.kept),
            tuple(round(w, WEIGHT_DECIMALS) for w in chain(routing.weights, *routing.form_shares)),
            max_new_tokens,
        )


def clear_if_full(answers: dict[EditedQuery, Any]) -> None:
    """Forget all when there are too many."""
    if len(answers) > MAX_SHARED_ANSWERS:
        answers.clear()


def matrix_digests(
    repository: ExpertRepository, routings: Iterable[Routing], known: Collection[str] = ()
) -> dict[str, bytes]:
    """sha256 of the matrices of all kept experts that are not known, by edit_id."""
    kept = {edit_id for routing in routings for edit_id in routing.kept}.difference(known)
    places = [n for n, edit_id in enumerate(repository.edit_ids) if edit_id in kept]
    digests: dict[str, bytes] = {}
    for start in range(0, len(places), _EXPERTS_READ):
        index_U = torch.tensor(places[start : start + _EXPERTS_READ])
        ranks = repository.ranks_N[index_U].tolist()
        factors = (factor.cpu().split(ranks) for factor in repository.matrices(index_U))
        for n, down_RD, up_RD in zip(index_U.tolist(), *factors, strict=True):
            data = torch.cat([down_RD, up_RD]).numpy().tobytes()
            digests[repository.edit_ids[n]] = hashlib.sha256(data).digest()
    return digests
