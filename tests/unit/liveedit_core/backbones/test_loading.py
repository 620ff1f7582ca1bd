"""Backbones by name: what is loaded, and what is said when it cannot be."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from liveedit_core.backbones import loading
from liveedit_core.backbones.checkpoints import (
    checkpoint_digest,
    checkpoint_size,
    loaded_digest,
    split_name,
)
from liveedit_core.backbones.families import PromptFormat
from liveedit_core.backbones.load_options import LoadOptions, ModelDtype
from liveedit_core.backbones.loading import check_memory, load_backbone, store_format
from liveedit_core.backbones.prompt_encoder import EMBEDDING_SIZE
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.suffix import in_dtype
from liveedit_core.builtin.backbone import load_named_backbone
from liveedit_core.errors import ConfigError, IntegrityError, StorageUnavailableError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.generator import save_generator
from tests.other_backbones import saved_family
from tests.tiny_backbone import TINY_CONFIG, image, request, tiny_generator
from tests.tiny_families import family_backbone
from workers.generator_worker import GeneratorWorker
from workers.messages import NumberedRequest
from workers.models import ModelNames

SEEN = BackboneInput(prompt="What is shown here?", target="silver", image_bytes=image(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as save_pretrained writes it."""
    return Path(saved_family("llava", tmp_path_factory.mktemp("llava")))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_a_folder_gives_the_model_that_was_saved(saved: Path) -> None:
    backbone = load_backbone(str(saved), LoadOptions(edit_layer=1))
    (state,) = backbone.encode([SEEN])
    (expected,) = family_backbone("llava").encode([SEEN])
    assert torch.equal(state.hidden_TD, expected.hidden_TD)
    assert backbone.digest == checkpoint_digest(saved)


def test_number_format_and_default_layer(saved: Path) -> None:
    backbone = load_backbone(str(saved), LoadOptions(dtype="bfloat16"))
    assert backbone.edit_layer == 2  # two thirds of 4
    assert backbone.model.dtype == torch.bfloat16
    (state,) = backbone.encode([SEEN])
    assert state.hidden_TD.dtype == torch.float32
    (logits,) = backbone.target_logits([state], state.hidden_TD[None])
    assert logits.isfinite().all()
    assert backbone.encoding != load_backbone(str(saved)).encoding


def test_layers_that_accelerate_moves_about(saved: Path) -> None:
    """Offloaded weights come when their module runs; both halves are still the model's."""
    import accelerate

    backbone = load_backbone(str(saved), LoadOptions(edit_layer=1))
    (expected,) = backbone.encode([SEEN])
    (logits,) = backbone.target_logits([expected], expected.hidden_TD[None])
    answers = backbone.generate([SEEN], None, max_new_tokens=3)
    accelerate.cpu_offload(backbone.model, torch.device("cpu"))
    (state,) = backbone.encode([SEEN])
    assert torch.equal(state.hidden_TD, expected.hidden_TD)
    (again,) = backbone.target_logits([state], state.hidden_TD[None])
    assert torch.equal(again, logits)
    assert backbone.generate([SEEN], None, max_new_tokens=3) == answers


def test_a_job_loads_the_backbone_with_its_generators_settings(saved: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    key = {"prompt_source": "sentences", "prompt_size": EMBEDDING_SIZE, "prompt_rank": 4}
    save_generator(tiny_generator(TINY_CONFIG.with_changes(edit_layer=0, **key)), tmp_path)
    names = ModelNames(backbone=str(saved), generator=str(tmp_path))
    loaded = names.load_backbone()
    assert (loaded.edit_layer, loaded.prompt_size) == (0, EMBEDDING_SIZE)
    named = replace(names, options=LoadOptions(edit_layer=1))
    assert named.load_backbone().edit_layer == 1
    assert replace(names, generator="").load_backbone().prompt_size == 0


def test_a_worker_writes_experts_with_it(saved: Path, tmp_path: Path) -> None:
    save_generator(tiny_generator(TINY_CONFIG), tmp_path)
    worker = GeneratorWorker(
        ModelNames(backbone=str(saved), generator=str(tmp_path)), InputLimits()
    )
    batch = worker.generate([NumberedRequest(sequence=1, request=request(1))])
    assert batch.rejected == ()
    (expert,) = batch.experts
    assert expert.expert.edit_id == request(1).edit_id
    assert worker.describe().backbone_digest == checkpoint_digest(saved)


def test_the_digest_is_that_of_the_contents_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    """The hub's cache has links to files that are named by their sha256."""
    import hashlib

    digest = checkpoint_digest(folder)
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blobs / name)
        (snapshot / file.name).symlink_to(blobs / name)
    assert checkpoint_digest(snapshot) == digest
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"more": 1}))
    assert checkpoint_digest(folder) != digest


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_quantized_weights_are_refused_where_they_cannot_be(
    saved: Path, dtype: ModelDtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = LoadOptions(dtype=dtype)
    assert options.dtype_in_memory == "auto"
    with pytest.raises(ConfigError, match="needs a GPU, and this model would be on cpu"):
        load_backbone(str(saved), options)
    with pytest.raises(ConfigError, match="never quantized"):
        load_named_backbone("builtin", options)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        load_backbone(str(saved), options)
    size = checkpoint_size(saved, "bfloat16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: True)
    check_memory("x", saved, options, free_bytes=size.num_bytes)
    assert loaded_digest(saved, dtype) not in (checkpoint_digest(saved), loaded_digest(saved, "x"))


def test_whole_numbers_stay_when_a_suffix_is_converted() -> None:
    module = torch.nn.Linear(2, 2)
    module.weight = torch.nn.Parameter(torch.tensor([[100]], dtype=torch.int8), requires_grad=False)
    copied = in_dtype(module, torch.bfloat16)
    assert (copied.weight.dtype, copied.bias.dtype) == (torch.int8, torch.bfloat16)


def test_a_prompt_format_beside_the_weights_is_used(folder: Path) -> None:
    wording = PromptFormat(with_image="Q: {image} {prompt} A:", text_only="Q: {prompt} A:")
    store_format(folder, wording)
    assert load_backbone(str(folder)).reader.format == wording
    (folder / "liveedit_prompt.json").write_text("{}")
    with pytest.raises(IntegrityError, match="with_image"):
        load_backbone(str(folder))


def test_too_little_memory_is_said_before_anything_is_loaded(saved: Path) -> None:
    size = checkpoint_size(saved, "auto")
    assert checkpoint_size(saved, "bfloat16").num_bytes * 2 == size.num_bytes
    assert size.num_parameters == family_backbone("llava").model.num_parameters()
    check_memory("x", saved, LoadOptions(), free_bytes=2 * size.num_bytes)
    with pytest.raises(ConfigError, match=r"need 0\.00 GB on cpu.*bfloat16"):
        check_memory("x", saved, LoadOptions(), free_bytes=size.num_bytes)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("owner/model", StorageUnavailableError, "hf download owner/model"),
        ("owner/model@v2", StorageUnavailableError, "cannot be reached"),
        ("no_such_folder", ConfigError, "no such folder"),
        ("./no/such", ConfigError, "no such folder"),
    ],
)
def test_names_that_lead_nowhere(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_backbone(name)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GatedRepoError", "Accept the terms at https://huggingface.co/owner/model"),
        ("RepositoryNotFoundError", "no such repository, or it is private"),
        ("RevisionNotFoundError", "there is no revision 'v2'"),
    ],
)
def test_what_the_hub_refuses(kind: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*arguments: object, **options: object) -> str:
        error = getattr(huggingface_hub.errors, kind)
        raise error.__new__(error, "refused")  # without the answer of a server

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ConfigError, match=words):
        load_backbone("owner/model@v2")


def test_a_revision_is_pinned_after_an_at_sign(saved: Path) -> None:
    assert split_name("owner/model@abc") == ("owner/model", "abc")
    assert split_name("owner/model") == ("owner/model", "")
    assert split_name(str(saved)) == (str(saved), "")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (("processor_config.json", "preprocessor_config.json"), ConfigError, "processor"),
        (("config.json",), ConfigError, r"config\.json"),
        (("model.safetensors",), ConfigError, "no safetensors"),
    ],
)
def test_missing_files(
    folder: Path, spoil: tuple[str, ...], error: type[Exception], words: str
) -> None:
    for name in spoil:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(error, match=words):
        load_backbone(str(folder))


def test_damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        load_backbone(str(folder))
