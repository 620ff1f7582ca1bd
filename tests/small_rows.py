"""Rows of a bank without a model: as with a generator, they depend only on the edit."""

import numpy as np
import torch

from infra.bank.schema import BankIdentity, ExpertRow
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.expert import Expert
from liveedit_core.schema import EditRequest

SMALL_IDENTITY = BankIdentity(
    backbone_digest="backbone",
    generator_digest="generator",
    edit_layer=5,
    hidden_size=6,
    module_dim=4,
    num_queries=2,
    rank=3,
    embedding_model="tower",
    embedding_size=5,
)
SMALL_CONFIG = GeneratorConfig(
    hidden_size=6,
    module_dim=4,
    num_queries=2,
    num_attention_heads=2,
    rank=3,
    num_image_tokens=2,
    edit_layer=5,
)


def small_request(image: str, target: str = "yes", submitter: str = "someone") -> EditRequest:
    """A request; nothing here decodes its image."""
    return EditRequest(
        image_bytes=image.encode(), prompt="What is it?", target=target, submitter=submitter
    )


def small_row(sequence: int, image: str = "", target: str = "yes") -> ExpertRow:
    """The row of a request."""
    request = small_request(image or f"image {sequence}", target)
    random = np.random.default_rng(int(request.edit_id[:8], 16))

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    return ExpertRow(
        expert=Expert(
            edit_id=request.edit_id,
            visual_feature_QM=normal(2, 4),
            prompt_feature_QM=normal(2, 4),
            down_RD=normal(3, 6),
            up_RD=normal(3, 6),
        ),
        sequence=sequence,
        subject_id=request.subject_id,
        clip_embedding=normal(5).numpy(),
        provenance={"worker": "test"},
    )


def request_of(sequence: int, target: str = "yes") -> EditRequest:
    """The request of a sequence number."""
    return small_request(f"image {sequence}", target)


def row_of(sequence: int, request: EditRequest | None = None) -> ExpertRow:
    """The row of a sequence number, or of another request."""
    wanted = request or request_of(sequence)
    return small_row(sequence, (wanted.image_bytes or b"").decode(), wanted.target)
