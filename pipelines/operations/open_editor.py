"""Open what was promoted: a registered bank version becomes an editor that answers.

    editor = open_editor("models:/liveedit-bank@champion")
    editor.answer([BackboneInput(prompt="What is this?", image_bytes=...)])[0].text

Everything that the answers depend on is compared with what was registered: the backbone's digest,
the generator's bytes, and every file of the bank version.
"""

import os
import tempfile
from pathlib import Path

from infra.tracking.model_registry import BANK_MODEL, ModelVersions
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.errors import ConfigError, RepositoryMismatchError
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import load_generator
from pipelines.job.registered_models import fetch_generator, registered_models

CHAMPION_URI = f"models:/{BANK_MODEL}@champion"


def open_editor(
    uri: str = CHAMPION_URI,
    backbone: Backbone | None = None,
    *,
    device: str = "cpu",
    tracking_uri: str = "",
) -> Editor:
    """Open a registered bank version.

    Args:
        uri: `models:/liveedit-bank@champion`, or `models:/liveedit-bank/7`.
        backbone: The frozen model, if it is loaded already; by default the one that the version was
            made with is loaded by its name, in the number format that it was made in.
        device: Where a backbone that is loaded here computes: "cpu", "cuda", "cuda:1" or "auto".
        tracking_uri: Of MLflow; by default the environment's MLFLOW_TRACKING_URI.

    Returns:
        An editor; its repository holds the experts of that very version.

    Raises:
        ConfigError: No tracking URI is known, or the backbone cannot be loaded.
        InputError: The URI names no version that exists.
        IntegrityError: A file of the bank version or of the generator is missing or altered.
        RepositoryMismatchError: The backbone is another one, or the bank was made anew.
        TrackingError: MLflow does not answer.
    """
    server = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not server:
        raise ConfigError(
            "no MLflow is named: set MLFLOW_TRACKING_URI or give tracking_uri "
            "(sqlite:////folder/of/runs/mlflow.db for runs without a server)"
        )
    versions = ModelVersions(server)
    version = versions.find(uri)
    manifest = versions.manifest(version)
    name = f"{version.name} {version.version}"
    bank = manifest.verified_bank(name)
    model = backbone or registered_models(manifest, device=device).load_backbone()
    if model.digest != manifest.identity.backbone_digest:
        raise RepositoryMismatchError(
            f"{name} was made with the backbone {manifest.identity.backbone_digest}, this one is "
            f"{model.digest}: its experts mean nothing there"
        )
    with tempfile.TemporaryDirectory() as cache:
        generator = load_generator(
            fetch_generator(versions, manifest.identity.generator_digest, Path(cache))
        )
    repository = bank.load_repository(generator.config, manifest.bank_version)
    return Editor(model, generator, repository)
