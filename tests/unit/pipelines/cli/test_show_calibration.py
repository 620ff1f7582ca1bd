"""`liveedit bank show --recipe`: how strict the visual filter of a version is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.schema import ExpertRow
from infra.storage.object_store import ObjectStore
from liveedit_core.method.calibration import calibrate
from liveedit_core.method.generator import LiveEditGenerator, save_generator
from pipelines.cli.main import main
from tests.random_states import random_expert
from tests.small_rows import SMALL_IDENTITY, identity_of
from tests.tiny_backbone import OUR_CONFIG, tiny_generator

CONFIG = OUR_CONFIG.with_changes(
    visual_size=8,
    visual_rank=8,
    nearest_sentinels=1,
    visual_filter="runner_up",
    visual_gate=0.0,
    max_kept=0,
)


def bank_of(folder: Path, generator: LiveEditGenerator, num_edits: int) -> ExpertBank:
    """Of random experts, beside `recipe.toml`, which names its generator."""
    generator.digest = save_generator(generator, folder / "generator")
    identity = identity_of(
        generator.config,
        backbone_digest="backbone",
        generator_digest=generator.digest,
        embedding_model="tower",
        embedding_size=1,
    )
    bank = ExpertBank.open_or_create(ObjectStore(folder / "store"), "main", identity)
    rows = [
        ExpertRow(
            expert=random_expert(number, generator.config),
            sequence=number,
            subject_id=str(number),
            clip_embedding=np.zeros(1, np.float32),
        )
        for number in range(1, num_edits + 1)
    ]
    bank.commit(bank.fragment_writer().write(rows), epoch=bank.acquire_writer())
    text = f'[generator]\ncheckpoint = "{folder / "generator"}"\n'
    (folder / "recipe.toml").write_text(text)
    return bank


def show(bank: ExpertBank, recipe: Path, *words: str) -> int:
    named = ("--store", bank.store.root_uri, "--bank", bank.name, "--recipe", str(recipe))
    return main(["bank", "show", *named, *words])


@pytest.mark.parametrize(
    ("num_edits", "source", "said"),
    [
        (5, "generator", "offset 0.2500, the generator's, as the bank is too small to tell"),
        (30, "bank", "from 30 images of the bank"),
    ],
)
def test_it_is_that_of_the_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], num_edits: int, source: str, said: str
) -> None:
    generator = tiny_generator(CONFIG)
    generator.visual_key.offset.fill_(0.25)
    bank = bank_of(tmp_path, generator, num_edits)
    version = bank.version
    bank.calibrate(0.3, author="anna", reason="", epoch=bank.acquire_writer())
    assert show(bank, tmp_path / "recipe.toml", "--json", str(version)) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    found = calibrate(generator, bank.load_repository(generator.config, version))
    assert content["calibration"] == asdict(found)
    assert (found.source, found.false_activation) == (source, 0.02)
    assert show(bank, tmp_path / "recipe.toml", str(version)) == 0
    assert said in capsys.readouterr().out


def test_the_filter_of_the_paper_follows_no_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(bank_of(tmp_path, tiny_generator(), 2), tmp_path / "recipe.toml") == 0
    assert "the paper's, which follows no budget" in capsys.readouterr().out


def test_another_generator_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = bank_of(tmp_path, tiny_generator(), 2).store
    other = ExpertBank.open_or_create(store, "other", SMALL_IDENTITY)
    assert show(other, tmp_path / "recipe.toml") == 1
    assert "bank 'other' was written by the generator generator" in capsys.readouterr().err
