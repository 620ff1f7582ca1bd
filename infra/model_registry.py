"""Generator checkpoints and bank versions as versions of registered MLflow models.

Each is a LoggedModel (its files, its metrics) that a model version points to; aliases say which one
serves. A bank version holds a small manifest only: the tensors stay in the store. Registering the
same thing again finds the version that is there, so a job may register after every resume.
"""

import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra._compat import mlflow_default_uri
from infra.expert_bank import ExpertBank
from infra.tracking import Connection, Tracker
from liveedit_core.errors import LiveEditError, TrackingError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

GENERATOR_MODEL = "liveedit-generator"
BANK_MODEL = "liveedit-bank"

_KEY_TAG = "liveedit_key"
"""Tag that tells what a model version is a version of; never two with one key."""


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


class ModelRegistry:
    """Registers for one run; a job goes on without it when it raises TrackingError."""

    def __init__(self, tracker: Tracker) -> None:
        """Use the server and the run of a tracker.

        Args:
            tracker: Of the job that registers.
        """
        self._tracker = tracker

    def register_generator(
        self,
        folder: Path,
        *,
        digest: str,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        step: int = 0,
    ) -> RegisteredVersion:
        """Register a generator checkpoint, once per digest.

        Args:
            folder: safetensors and config.json; copied into MLflow's artifacts.
            digest: sha256 of the checkpoint.
            metrics: What it reached.
            params: How it was made.
            step: Optimizer steps of the run, for the metrics.

        Raises:
            TrackingError: MLflow does not answer.
        """
        return self._register(
            GENERATOR_MODEL,
            key=digest,
            folder=folder,
            tags={"digest": digest},
            params=params or {},
            metrics=metrics or {},
            step=step,
        )

    def register_checkpoint(
        self,
        config_text: str,
        *,
        digest: str,
        store_uri: str,
        tags: Mapping[str, str],
    ) -> RegisteredVersion:
        """Register a checkpoint of a training run, once per digest; its weights stay in the store.

        Args:
            config_text: its config.json.
            digest: sha256 of the checkpoint.
            store_uri: root of the store that holds `generators/<digest>/`.
            tags: where in training it was made.

        Raises:
            TrackingError: MLflow does not answer.
        """
        manifest = {**tags, "store_uri": store_uri, "key": f"generators/{digest}"}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(config_text)
            text = json.dumps(manifest, indent=2, sort_keys=True)
            (Path(folder) / "manifest.json").write_text(text)
            return self._register(
                GENERATOR_MODEL,
                key=digest,
                folder=Path(folder),
                tags={**tags, "digest": digest, "store_uri": store_uri},
                params={},
                metrics={},
            )

    def register_bank_version(
        self,
        bank: ExpertBank,
        version: int,
        *,
        manifest: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> RegisteredVersion:
        """Register a committed bank version, once.

        Args:
            bank: The bank.
            version: One that a commit returned.
            manifest: Added to the manifest, which says where the bank is and what it was made for.
            metrics: What the version reached; the step is its number of edits.

        Raises:
            IntegrityError: No window was committed as this version.
            TrackingError: MLflow does not answer.
        """
        window = bank.window(version)
        content = {
            **(manifest or {}),
            "store_uri": bank.store_uri,
            "bank": bank.name,
            "bank_version": version,
            "committed_at": window.committed_at.isoformat(),
            "num_edits": window.num_edits,
            "identity": asdict(bank.identity),
        }
        origin = [bank.store_uri, bank.name, version, content["committed_at"]]
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(content, indent=2, sort_keys=True)
            (Path(folder) / "manifest.json").write_text(text)
            return self._register(
                BANK_MODEL,
                key=hashlib.sha256(json.dumps(origin).encode()).hexdigest(),
                folder=Path(folder),
                tags={
                    "store_uri": bank.store_uri,
                    "bank": bank.name,
                    "bank_version": str(version),
                    "num_edits": str(window.num_edits),
                    "generator_digest": bank.identity.generator_digest,
                },
                params={},
                metrics=metrics or {},
                step=window.num_edits,
            )

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias ("challenger", "champion") to a version.

        Raises:
            TrackingError: MLflow does not answer, or knows no such version.
        """
        with _tracking_errors(f"set alias {alias!r} of {name} to version {version}"):
            client = self._tracker.connect().client
            client.set_registered_model_alias(name, alias, str(version))

    def set_tag(self, name: str, version: int, key: str, value: str) -> None:
        """Tag a version.

        Raises:
            TrackingError: MLflow does not answer, or knows no such version.
        """
        with _tracking_errors(f"tag version {version} of {name}"):
            client = self._tracker.connect().client
            client.set_model_version_tag(name, str(version), key, value)

    def get(self, name: str, alias: str) -> RegisteredVersion | None:
        """The version that an alias points to, or None when nothing has this alias.

        Raises:
            TrackingError: MLflow does not answer.
        """
        with _tracking_errors(f"look up alias {alias!r} of {name}"):
            client = self._tracker.connect().client
            models = client.search_registered_models(f"name = '{name}'")
            if not models or alias not in models[0].aliases:
                return None
            return _registered(client.get_model_version_by_alias(name, alias))

    def _register(
        self,
        name: str,
        *,
        key: str,
        folder: Path,
        tags: Mapping[str, str],
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        step: int = 0,
    ) -> RegisteredVersion:
        with _tracking_errors(f"register a version of {name}"):
            connection = self._tracker.connect()
            client = connection.client
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            known = client.search_model_versions(f"name = '{name}' and tags.{_KEY_TAG} = '{key}'")
            if known:
                return _registered(known[0])
            model = client.create_logged_model(
                connection.experiment_id,
                name=name,
                source_run_id=connection.run_id,
                tags=dict(tags),
                params={param: str(value) for param, value in params.items()},
                model_type=name,
            )
            client.log_model_artifacts(model.model_id, str(folder))
            _log_model_metrics(connection, model.model_id, metrics, step)
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


def _log_model_metrics(
    connection: Connection, model_id: str, metrics: Mapping[str, float], step: int
) -> None:
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    connection.client.log_batch(
        connection.run_id,
        metrics=[
            Metric(metric, float(value), now_ms, step, model_id=model_id)
            for metric, value in metrics.items()
        ],
    )


def _registered(version: "ModelVersion") -> RegisteredVersion:
    model_id = (version.source or "").removeprefix("models:/")
    return RegisteredVersion(version.name, int(version.version), model_id, dict(version.tags))
