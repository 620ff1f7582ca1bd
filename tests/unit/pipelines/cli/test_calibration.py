"""How strict the visual filter of a version is (`liveedit bank show --recipe`), and calibrating it
by images of a folder (`liveedit bank calibrate --images`)."""

import copy
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from infra.bank.expert_bank import ExpertBank
from infra.bank.schema import ExpertRow
from infra.bank.traffic import read_traffic
from infra.storage.checksums import sha256_of
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.image_views import figure
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.calibration import calibrate
from liveedit_core.method.generator import LiveEditGenerator, save_generator
from pipelines.cli.main import main
from tests.random_states import random_expert
from tests.small_rows import SMALL_IDENTITY, identity_of
from tests.tiny_backbone import OUR_CONFIG, image, tiny_backbone, tiny_generator
from workers.models import ModelNames

CONFIG = OUR_CONFIG.with_changes(
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
        backbone_digest=tiny_backbone().digest,
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


def run(command: str, bank: ExpertBank, *words: str) -> int:
    return main(["bank", command, "--store", bank.store.root_uri, "--bank", bank.name, *words])


def show(bank: ExpertBank, recipe: Path, *words: str) -> int:
    return run("show", bank, "--recipe", str(recipe), *words)


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> VisionLanguageBackbone:
    """That of each recipe: the tiny one, which trims images and has views of them."""
    backbone = copy.copy(tiny_backbone())
    tower = backbone.image_tower
    assert tower is not None
    backbone.image_tower = ImageTower(
        tower.model, tower.processor, tower.path, levels=tower.levels, has_views=True
    )
    monkeypatch.setattr(ModelNames, "load_backbone", lambda _: backbone)
    return backbone


def folder_of(folder: Path, *images: bytes) -> Path:
    folder.mkdir()
    for number, data in enumerate(images):
        (folder / f"{number}.png").write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("num_edits", "source", "said"),
    [
        (5, "generator", "offset 0.2500, the generator's, as the bank is too small to tell"),
        (30, "bank", "images of the bank"),
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


def page() -> bytes:
    """An image that is looked at twice in a question: a figure, and a line apart from it."""
    pixels = np.full((160, 160, 3), 255, np.uint8)
    pixels[20:84, 20:84] = np.random.default_rng(0).integers(0, 200, (64, 64, 3))
    pixels[140:144, 20:150] = 0
    assert figure(Image.fromarray(pixels)) is not None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_a_folder_calibrate_a_bank_of_any_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backbone: VisionLanguageBackbone
) -> None:
    generator = tiny_generator(CONFIG)
    bank, recipe = bank_of(tmp_path, generator, 5), tmp_path / "recipe.toml"
    images = [page(), *(image(seed) for seed in range(24))]
    traffic = folder_of(tmp_path / "images", *images, images[0], b"no image", b"")
    (traffic / "sub").mkdir()
    words = ("--images", str(traffic), "--recipe", str(recipe), "--author", "anna")
    before = bank.version
    assert run("calibrate", bank, *words, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["num_images"], content["num_files"], content["num_unreadable"]) == (25, 28, 2)
    assert (content["version"], content["false_activation"]) == (before + 1, 0.02)
    found = bank.load_repository(generator.config).traffic_MR
    assert found is not None
    for row, data in zip(found, sorted(images, key=sha256_of), strict=True):
        asked = generator.input_features(
            backbone.encode([BackboneInput(prompt="What is shown here?", image_bytes=data)])
        ).visual_BQM.flatten()[:8]
        assert torch.nn.functional.cosine_similarity(row, asked, dim=0) > 0.999
    # Random keys are so large that some images count as edited ones.
    said = calibrate(generator, bank.load_repository(generator.config))
    assert said.source == "images"
    assert show(bank, recipe) == 0
    assert f"from {said.num_images} images of the traffic" in capsys.readouterr().out
    assert run("calibrate", bank, *words, "--false-activation", "0.1") == 0
    assert "25 images of 28 files; 2 files could not be read" in capsys.readouterr().out
    assert bank.history()[-1].traffic == content["traffic"]
    assert bank.history()[-1].false_activation == 0.1
    assert run("calibrate", bank, "--no-images") == 0
    assert (bank.history()[-1].traffic, bank.history()[-1].false_activation) == ("", 0.1)


def test_of_many_images_those_with_the_smallest_hashes_are_taken(
    tmp_path: Path, backbone: VisionLanguageBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cli.traffic.MAX_IMAGES", 21)
    bank = bank_of(tmp_path, tiny_generator(CONFIG), 1)
    images = sorted((image(seed) for seed in range(30)), key=sha256_of)
    for name, chosen in (("all", images[::-1]), ("first", images[:21])):
        folder = folder_of(tmp_path / name, *chosen)
        words = ("--images", str(folder), "--recipe", str(tmp_path / "recipe.toml"))
        assert run("calibrate", bank, *words) == 0
    (key,) = bank.store.list("traffic/")
    assert len(read_traffic(bank.store, Path(key).stem)) == 21


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "name --false-activation SHARE, --images FOLDER, --no-images, or two"),
        (("--images", "few", "--no-images"), 2, "--images and --no-images exclude each other"),
        (("--images", "few"), 2, "--recipe FILE.toml"),
        (("--images", "few", "--recipe", "recipe.toml"), 1, "few has 19 different images"),
        (("--images", "none", "--recipe", "recipe.toml"), 1, "cannot read the folder none"),
    ],
)
@pytest.mark.usefixtures("backbone")
def test_errors_say_what_is_missing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    bank = bank_of(tmp_path, tiny_generator(CONFIG), 1)
    folder_of(tmp_path / "few", *(image(seed) for seed in range(19)), image(0))
    monkeypatch.chdir(tmp_path)
    before = bank.version
    assert run("calibrate", bank, *words) == code
    assert message in capsys.readouterr().err
    assert (bank.version, bank.store.list("traffic/")) == (before, [])


def test_images_need_the_models_that_wrote_the_bank_and_a_filter_with_an_offset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backbone: VisionLanguageBackbone
) -> None:
    folder = folder_of(tmp_path / "images", *(image(seed) for seed in range(20)))
    words = ("--images", str(folder), "--recipe", str(tmp_path / "recipe.toml"))
    bank = bank_of(tmp_path, tiny_generator(), 1)
    assert run("calibrate", bank, *words) == 2
    assert "no offset that images could calibrate" in capsys.readouterr().err
    backbone.digest = "another"
    assert run("calibrate", bank, *words) == 1
    assert "written by the backbone tiny, that of the recipe is another" in capsys.readouterr().err


def test_a_version_is_exported_for_other_runtimes(tmp_path: Path) -> None:
    generator = tiny_generator(CONFIG)
    bank = bank_of(tmp_path, generator, 5)
    file = tmp_path / "experts.safetensors"
    given = [str(file), str(bank.version), "--recipe", str(tmp_path / "recipe.toml")]
    assert run("export", bank, *given) == 0
    with safe_open(str(file), "pt") as opened:
        metadata, down_LD = opened.metadata(), opened.get_tensor("down")
    assert json.loads(metadata["edit_ids"]) == bank.edit_ids(bank.version)
    assert metadata["backbone_digest"] == bank.identity.backbone_digest
    stored = bank.load_repository(generator.config, bank.version)
    assert torch.equal(down_LD, stored.down_LD)
