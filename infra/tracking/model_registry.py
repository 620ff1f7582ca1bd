"""Generator checkpoints and bank versions as versions of registered MLflow models.

Each is a LoggedModel (its files, its metrics) that a model version points to; aliases say which one
serves. A bank version holds a small manifest only: the tensors stay in the store. Registering the
same content again returns the existing version, so a job may register after every resume.
"""

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra._compat import mlflow_default_uri
from infra.bank.expert_bank import ExpertBank
from infra.bank.manifest import BankManifest
from infra.tracking.tracker import Tracker, log_metrics, open_client
from liveedit_core.errors import InputError, IntegrityError, LiveEditError, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

GENERATOR_MODEL = "liveedit-generator"
BANK_MODEL = "liveedit-bank"
MANIFEST_FILE = "manifest.json"

_KEY_TAG = "liveedit_key"
"""Tag that identifies the content of a model version; unique within a model."""
_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>[0-9]{1,9}))")


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model."""

    name: str
    version: int
    model_id: str
    """The LoggedModel behind it."""
    tags: dict[str, str]


@contextlib.contextmanager
def _tracking_errors(action: str) -> Iterator[None]:
    try:
        yield
    except LiveEditError:
        raise
    except Exception as error:  # MLflow lets errors of many libraries through
        raise TrackingError(f"MLflow could not {action}: {error}") from error


@contextlib.contextmanager
def _scratch(files: Mapping[str, str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        yield Path(folder)


class ModelRegistry:
    """Registers versions for the run of a tracker; jobs go on when it raises TrackingError."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def register_generator(
        self,
        folder: Path,
        *,
        digest: str,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
    ) -> RegisteredVersion:
        """Register a generator folder, once per digest; its files are copied to MLflow."""
        tags = {"digest": digest}
        return self._register(GENERATOR_MODEL, digest, folder, tags, metrics=metrics, step=step)

    def register_checkpoint(
        self, config_text: str, *, digest: str, store_uri: str, tags: Mapping[str, str]
    ) -> RegisteredVersion:
        """Register a training checkpoint, once per digest; its weights stay in the store, below
        `generators/<digest>/`. `tags` say where in training it was made."""
        manifest = {**tags, "store_uri": store_uri, "key": f"generators/{digest}"}
        text = json.dumps(manifest, indent=2, sort_keys=True)
        with _scratch({"config.json": config_text, MANIFEST_FILE: text}) as folder:
            all_tags = {**tags, "digest": digest, "store_uri": store_uri}
            return self._register(GENERATOR_MODEL, digest, folder, all_tags)

    def register_bank_version(
        self,
        bank: ExpertBank,
        version: int,
        *,
        backbone: str = "builtin",
        backbone_dtype: str = "auto",
        metrics: Mapping[str, float] | None = None,
    ) -> RegisteredVersion:
        """Register a committed bank version, once; reads every file of it for its checksum.
        `backbone` and `backbone_dtype` are how workers load the backbone."""
        window = bank.versions.record(version)
        bank.versions.tag(f"registered-{version}", version)  # clean-up keeps it, MLflow or not
        origin = [bank.store.root_uri, bank.name, version, window.committed_at.isoformat()]
        key = hashlib.sha256(json.dumps(origin).encode()).hexdigest()
        known = self._known(BANK_MODEL, key)
        if known is not None:
            return known
        manifest = BankManifest.of(bank, version, backbone=backbone, backbone_dtype=backbone_dtype)
        tags = {
            "store_uri": bank.store.root_uri,
            "bank": bank.name,
            "bank_version": str(version),
            "num_edits": str(window.num_edits),
            "generator_digest": bank.identity.generator_digest,
            "backbone_digest": bank.identity.backbone_digest,
        }
        with _scratch({MANIFEST_FILE: manifest.to_json()}) as folder:
            step = window.num_edits
            return self._register(BANK_MODEL, key, folder, tags, metrics=metrics, step=step)

    def versions(self) -> "ModelVersions":
        connection = self._tracker.connect()
        return ModelVersions(connection.tracking_uri, connection.client)

    def _known(self, name: str, key: str) -> RegisteredVersion | None:
        with _tracking_errors(f"look up a version of {name}"):
            client = self._tracker.connect().client
            known = client.search_model_versions(f"name = '{name}' and tags.{_KEY_TAG} = '{key}'")
            return _registered(known[0]) if known else None

    def _register(
        self,
        name: str,
        key: str,
        folder: Path,
        tags: Mapping[str, str],
        *,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
    ) -> RegisteredVersion:
        with _tracking_errors(f"register a version of {name}"):
            connection = self._tracker.connect()
            client = connection.client
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            known = self._known(name, key)
            if known is not None:
                return known
            model = client.create_logged_model(
                connection.experiment_id,
                name=name,
                source_run_id=connection.run_id,
                tags=dict(tags),
                model_type=name,
            )
            client.log_model_artifacts(model.model_id, str(folder))
            log_metrics(connection, metrics or {}, step=step, model_id=model.model_id)
            client.finalize_logged_model(model.model_id, "READY")
            with mlflow_default_uri(connection.tracking_uri):
                version = client.create_model_version(
                    name,
                    source=f"models:/{model.model_id}",
                    run_id=connection.run_id,
                    tags={**tags, _KEY_TAG: key},
                    model_id=model.model_id,  # a server refuses the source without it
                )
            return _registered(version)


class ModelVersions:
    """Looks up, aliases and tags registered versions; needs no run. Every method raises
    TrackingError when MLflow does not answer."""

    def __init__(self, tracking_uri: str, client: "MlflowClient | None" = None) -> None:
        self.tracking_uri = tracking_uri
        with _tracking_errors(f"open {tracking_uri}"):
            self._client = client or open_client(tracking_uri)

    def find(self, uri: str) -> RegisteredVersion:
        """The version of `models:/<name>@<alias>` or `models:/<name>/<number>`, else InputError."""
        match = _MODEL_URI.fullmatch(uri)
        if match is None:
            raise InputError(f"expected models:/<name>@<alias> or models:/<name>/<n>, got {uri!r}")
        name, alias, number = match["name"], match["alias"], match["number"]
        if alias:
            found = self.by_alias(name, alias)
        else:
            found = next((v for v in self.all(name) if v.version == int(number)), None)
        if found is None:
            known = ", ".join(str(version.version) for version in self.all(name)) or "none"
            raise InputError(
                f"{uri} does not exist on {self.tracking_uri}; versions there: {known}"
            )
        return found

    def all(self, name: str) -> list[RegisteredVersion]:
        """Every version of a model, oldest first; empty when there is no such model."""
        with _tracking_errors(f"list the versions of {name}"):
            versions: list[ModelVersion] = []
            token: str | None = None
            while token is None or token:
                page = self._client.search_model_versions(f"name = '{name}'", page_token=token)
                versions += page
                token = page.token or ""
            return sorted(map(_registered, versions), key=lambda item: item.version)

    def by_alias(self, name: str, alias: str) -> RegisteredVersion | None:
        """The version that an alias points to, if any."""
        with _tracking_errors(f"look up alias {alias!r} of {name}"):
            models = self._client.search_registered_models(f"name = '{name}'")
            if not models or alias not in models[0].aliases:
                return None
            return _registered(self._client.get_model_version_by_alias(name, alias))

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias ("challenger", "champion") to a version; 0 deletes the alias."""
        with _tracking_errors(f"set alias {alias!r} of {name} to version {version}"):
            if version:
                self._client.set_registered_model_alias(name, alias, str(version))
            else:
                self._client.delete_registered_model_alias(name, alias)

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Tag a version; the last value of a name wins."""
        with _tracking_errors(f"tag version {version} of {name}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, str(version), key, value)

    def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tag a run; the last value of a name wins."""
        with _tracking_errors(f"tag run {run_id}"):
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)

    def fetch(self, version: RegisteredVersion, folder: Path) -> None:
        with _tracking_errors(f"download the files of {version.name} {version.version}"):
            from mlflow.artifacts import download_artifacts

            # By artifact location: MLflow would look a LoggedModel up through the process-wide
            # tracking URI. Into a scratch folder: a local store returns its own files otherwise.
            location = self._client.get_logged_model(version.model_id).artifact_location
            with tempfile.TemporaryDirectory() as scratch:
                found = download_artifacts(
                    location, dst_path=scratch, tracking_uri=self.tracking_uri
                )
                shutil.copytree(found, folder, dirs_exist_ok=True)

    def manifest(self, version: RegisteredVersion) -> BankManifest:
        text = self.manifest_text(version)
        return BankManifest.from_json(text, f"{version.name} {version.version}")

    def manifest_text(self, version: RegisteredVersion) -> str:
        """The manifest as it is in MLflow; audit records hold its sha256."""
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(version, Path(folder))
            path = Path(folder) / MANIFEST_FILE
            name = f"{version.name} {version.version}"
            if not path.is_file():
                raise IntegrityError(f"{name} has no {MANIFEST_FILE} among its files in MLflow")
            return path.read_text(encoding="utf-8")


def _registered(version: "ModelVersion") -> RegisteredVersion:
    model_id = (version.source or "").removeprefix("models:/")
    return RegisteredVersion(version.name, int(version.version), model_id, dict(version.tags))
