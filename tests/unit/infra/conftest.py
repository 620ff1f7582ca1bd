"""A small bank, its experts and an MLflow database, shared by the tests of infra/."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.expert_bank import BankIdentity, ExpertRow
from infra.object_store import ObjectStore
from liveedit_core.config import GeneratorConfig
from liveedit_core.expert import Expert
from liveedit_core.schema import edit_id_of, subject_id_of

MakeRow = Callable[..., ExpertRow]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty store on disk."""
    return ObjectStore(tmp_path / "store")


@pytest.fixture
def identity() -> BankIdentity:
    """D = 6, M = 4, Q = 2, R = 3."""
    return BankIdentity(
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


@pytest.fixture
def generator_config() -> GeneratorConfig:
    """The configuration that fits `identity`."""
    return GeneratorConfig(
        hidden_size=6,
        module_dim=4,
        num_queries=2,
        num_attention_heads=2,
        rank=3,
        num_image_tokens=2,
        edit_layer=5,
    )


@pytest.fixture
def run_root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run root whose default MLflow database has its tables already."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "runs"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    return root


@pytest.fixture
def make_row() -> MakeRow:
    """Makes the row of a request; its numbers depend on the edit only, as those of a generator."""

    def make(sequence: int, picture: str = "", target: str = "yes") -> ExpertRow:
        image = (picture or f"picture {sequence}").encode()
        edit_id = edit_id_of(image, "What is it?", target)
        random = np.random.default_rng(int(edit_id[:8], 16))

        def normal(*shape: int) -> torch.Tensor:
            return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

        return ExpertRow(
            expert=Expert(
                edit_id=edit_id,
                visual_feature_QM=normal(2, 4),
                prompt_feature_QM=normal(2, 4),
                down_RD=normal(3, 6),
                up_RD=normal(3, 6),
            ),
            sequence=sequence,
            subject_id=subject_id_of(image, "What is it?"),
            clip_embedding=normal(5).numpy(),
            provenance={"worker": "test"},
        )

    return make
