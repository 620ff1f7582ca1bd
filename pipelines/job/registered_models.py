"""Looks up bank versions in the registry, and the models that a version needs."""

from pathlib import Path
from typing import TypedDict

from infra.bank.expert_bank import ExpertBank
from infra.bank.manifest import BankManifest
from infra.storage.object_store import ObjectStore
from infra.tracking.generator_checkpoints import GeneratorCheckpoints
from infra.tracking.model_registry import (
    BANK_MODEL,
    GENERATOR_MODEL,
    ModelVersions,
    RegisteredVersion,
)
from liveedit_core.backbones.checkpoints import lasting_name
from liveedit_core.backbones.load_options import LoadOptions, PromptProtocol
from liveedit_core.builtin.backbone import builtin_generator_folder
from liveedit_core.errors import InputError, IntegrityError
from liveedit_core.method.generator import CONFIG_FILE, WEIGHTS_FILE, digest_of
from pipelines.job.sections import BackboneSection
from workers.models import BUILTIN, ModelNames

_READER = "reader"
"""Name of a run that only reads checkpoints."""


def newest_version(versions: ModelVersions) -> RegisteredVersion:
    """The newest registered bank version; InputError if there is none. Versions may be registered
    out of order (a resumed run registers what an outage left out): of the bank that was registered
    last, it is the one with the highest bank version."""
    registered = versions.all(BANK_MODEL)
    if not registered:
        raise InputError(
            f"there is no version of {BANK_MODEL} on {versions.tracking_uri} yet: lifelong_edit.py "
            "registers them"
        )
    bank = _bank_of(registered[-1])
    return max(
        (item for item in registered if _bank_of(item) == bank),
        key=lambda item: (int(item.tags.get("bank_version", "0")), item.version),
    )


def version_of(versions: ModelVersions, bank: ExpertBank, version: int) -> RegisteredVersion:
    """The registered version of a committed bank version."""
    for item in versions.all(BANK_MODEL):
        is_same = item.tags.get("bank_version") == str(version)
        if is_same and _bank_of(item) == (bank.store.root_uri, bank.name):
            return item
    raise InputError(
        f"version {version} of bank {bank.name!r} is not registered on {versions.tracking_uri}; "
        "start the run once more, it registers what an outage left out"
    )


class RecordedBackbone(TypedDict, total=False):
    """Arguments of `ModelRegistry.register_bank_version`."""

    backbone: str
    backbone_dtype: str


def recorded_backbone(section: BackboneSection) -> RecordedBackbone:
    """The backbone as `ModelRegistry.register_bank_version` records it, without the device."""
    is_builtin = section.name == BUILTIN
    return {
        "backbone": section.name if is_builtin else lasting_name(section.name),
        "backbone_dtype": section.dtype,
    }


def registered_models(
    manifest: BankManifest,
    *,
    generator: str = BUILTIN,
    device: str = "auto",
    prompt_protocol: PromptProtocol = "chat",
) -> ModelNames:
    """The backbone of a bank version, at the edit layer of its experts, and its generator. Experts
    of the other prompt protocol have another backbone digest: they are refused, not scored."""
    options = LoadOptions(
        dtype=manifest.backbone_dtype,  # type: ignore[arg-type]  # checked there
        device=device,
        edit_layer=manifest.identity.edit_layer,
        prompt_protocol=prompt_protocol,
    )
    return ModelNames(backbone=manifest.backbone, generator=generator, options=options)


def fetch_generator(versions: ModelVersions, digest: str, cache: Path) -> Path:
    """The verified folder of a generator checkpoint, downloaded to `cache`/`digest` if needed."""
    builtin = builtin_generator_folder()
    if digest_of(builtin) == digest:
        return builtin
    folder = cache / digest
    if _is_checkpoint(folder) and digest_of(folder) == digest:
        return folder
    registered = [v for v in versions.all(GENERATOR_MODEL) if v.tags.get("digest") == digest]
    if not registered:
        raise IntegrityError(
            f"generator {digest[:16]} is not a version of {GENERATOR_MODEL} on "
            f"{versions.tracking_uri}, nor the built-in one: start the run that used it once more, "
            "it registers its generator"
        )
    folder.mkdir(parents=True, exist_ok=True)
    versions.fetch(registered[-1], folder)
    if not _is_checkpoint(folder):
        store_uri = registered[-1].tags["store_uri"]
        return GeneratorCheckpoints(ObjectStore(store_uri), _READER).fetch(digest, folder)
    found = digest_of(folder)
    if found != digest:
        raise IntegrityError(
            f"generator {digest[:16]}: the bytes in MLflow have digest {found[:16]}; they were "
            "altered and must not serve"
        )
    return folder


def _bank_of(version: RegisteredVersion) -> tuple[str, str]:
    return version.tags.get("store_uri", ""), version.tags.get("bank", "")


def _is_checkpoint(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))
