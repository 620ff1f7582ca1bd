"""Open a promoted bank version as an edited model.

    model = open_editor("models:/liveedit-bank@champion")
    model.answer("tapir.png", "What animal is this?")
    model.explain("tapir.png", "What animal is this?")

Backbone, generator and every file of the bank version are compared with their registered digests.
"""

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote

from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelVersions
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import ConfigError, RepositoryMismatchError
from liveedit_core.method.generator import load_generator
from pipelines.job.registered_models import fetch_generator, registered_models
from pipelines.operations.audited import CHAMPION, AuditedVersions

CHAMPION_URI = f"models:/{BANK_MODEL}@{CHAMPION}"


def open_editor(
    uri: str = CHAMPION_URI,
    backbone: Backbone | None = None,
    *,
    device: str = "auto",
    tracking_uri: str = "",
    operations: str = "",
) -> EditedModel:
    """Open a registered bank version, `models:/<name>@<alias>` or `models:/<name>/<number>`; edits
    made to the result stay in memory.

    `backbone` is the frozen model if it is loaded already; otherwise the one recorded with the
    version is loaded on `device`. `tracking_uri` is by default MLFLOW_TRACKING_URI; `operations`,
    the store whose audit log must explain a champion, is LIVEEDIT_OPERATIONS, or the folder
    `operations` beside a database of runs. Fails with an IntegrityError or RepositoryMismatchError
    instead of serving altered or unfitting content.
    """
    server = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not server:
        raise ConfigError(
            "no MLflow server: set MLFLOW_TRACKING_URI or pass tracking_uri "
            "(sqlite:////folder/of/runs/mlflow.db for runs without a server)"
        )
    versions = ModelVersions(server)
    version = versions.find(uri)
    alias, store_uri = uri.partition("@")[2], operations or _operations_of(server)
    if store_uri:
        manifest = AuditedVersions(versions, ObjectStore(store_uri)).manifest(version, alias)
    elif alias == CHAMPION:
        raise ConfigError(
            f"{uri}: name the store whose audit log says which version is the champion, with "
            "`operations` or LIVEEDIT_OPERATIONS; it is the `store` of promotion.py"
        )
    else:
        manifest = versions.manifest(version)
    name = f"{version.name} {version.version}"
    bank = manifest.verified_bank(name)
    model = backbone or registered_models(manifest, device=device).load_backbone()
    if model.digest != manifest.identity.backbone_digest:
        raise RepositoryMismatchError(
            f"{name} was made with the backbone {manifest.identity.backbone_digest}, this one is "
            f"{model.digest}: its experts do not fit"
        )
    with tempfile.TemporaryDirectory() as cache:
        generator = load_generator(
            fetch_generator(versions, manifest.identity.generator_digest, Path(cache))
        )
    repository = bank.load_repository(generator.config, manifest.bank_version)
    return EditedModel(model, generator, repository)


def _operations_of(server: str) -> str:
    """The operations store of a tracking server, as far as it is known here; "" if not."""
    beside = re.fullmatch(r"sqlite:///(?P<folder>.*)/mlflow\.db", server)
    default = str(Path(unquote(beside["folder"])) / "operations") if beside else ""
    return os.environ.get("LIVEEDIT_OPERATIONS", "") or default
