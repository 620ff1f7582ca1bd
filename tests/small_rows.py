"""Rows of a bank without a model: as with a generator, they depend only on the edit."""

from dataclasses import replace
from typing import Any

import numpy as np

from infra.bank.schema import BankIdentity, ExpertRow
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.schema import EditRequest
from tests.random_states import random_expert

SMALL_CONFIG = GeneratorConfig(
    hidden_size=6,
    module_dim=4,
    num_queries=2,
    num_attention_heads=2,
    rank=3,
    num_image_tokens=2,
    edit_layer=5,
)


def identity_of(config: GeneratorConfig, **others: Any) -> BankIdentity:
    """Of a bank whose experts have the sizes of a config."""
    names = ("edit_layer", "hidden_size", "module_dim", "num_queries", "rank", "visual_width")
    return BankIdentity(**{name: getattr(config, name) for name in names}, **others)


SMALL_IDENTITY = identity_of(
    SMALL_CONFIG,
    backbone_digest="backbone",
    generator_digest="generator",
    embedding_model="tower",
    embedding_size=5,
)


def small_request(image: str, target: str = "yes", submitter: str = "someone") -> EditRequest:
    """A request; nothing here decodes its image."""
    return EditRequest(
        image_bytes=image.encode(),
        prompt="What is it?",
        target=target,
        image_uri=f"s3://bucket/{image}",
        submitter=submitter,
    )


def refusal(line: int, message: str = "bad", *, edit_id: str = "") -> Rejected:
    """A rejection as the log gets it."""
    return Rejected(
        line_number=line, error_type="NotJson", message=message, raw="{" * 9, edit_id=edit_id
    )


def small_row(sequence: int, image: str = "", target: str = "yes") -> ExpertRow:
    """The row of a request."""
    return row_of(sequence, small_request(image or f"image {sequence}", target))


def request_of(sequence: int, target: str = "yes") -> EditRequest:
    """The request of a sequence number."""
    return small_request(f"image {sequence}", target)


def row_of(sequence: int, request: EditRequest | None = None) -> ExpertRow:
    """The row of a sequence number, or of another request; experts have 2 to 4 slots."""
    request = request or request_of(sequence)
    seed = int(request.edit_id[:8], 16)
    return ExpertRow(
        expert=replace(random_expert(seed, SMALL_CONFIG, 2 + seed % 3), edit_id=request.edit_id),
        sequence=sequence,
        subject_id=request.subject_id,
        clip_embedding=np.random.default_rng(seed).standard_normal(5).astype(np.float32),
        provenance={"worker": "test"},
    )
