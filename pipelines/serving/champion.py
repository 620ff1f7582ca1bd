"""The champion of the registry, where there is a registry; MLflow is imported only then."""

import os
from functools import cached_property
from pathlib import Path

from infra.bank.manifest import BankManifest
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelVersions, RegisteredVersion
from infra.tracking.tracker import default_tracking_uri
from pipelines.operations.audited import CHAMPION, PREVIOUS_CHAMPION, AuditedVersions


class ChampionSource:
    """Looks up registered versions of `liveedit-bank`."""

    def __init__(self, run_root: Path, operations_uri: str) -> None:
        """The audit log is in the operations store."""
        self._run_root = run_root
        self._operations_uri = operations_uri
        self._manifests: dict[int, BankManifest] = {}

    @property
    def exists(self) -> bool:
        """Whether a server is named, or a job has made the database."""
        has_server = bool(os.environ.get("MLFLOW_TRACKING_URI"))
        return has_server or (self._run_root / "mlflow.db").exists()

    @cached_property
    def versions(self) -> ModelVersions:
        return ModelVersions(default_tracking_uri(self._run_root))

    def champion(self) -> RegisteredVersion | None:
        """TrackingError when MLflow does not answer."""
        return self.versions.by_alias(BANK_MODEL, CHAMPION) if self.exists else None

    @property
    def _audited(self) -> AuditedVersions:
        return AuditedVersions(self.versions, ObjectStore(self._operations_uri))

    def explained(self) -> RegisteredVersion | None:
        """The champion; IntegrityError unless the audit log says that it is one."""
        return self._audited.champion() if self.exists else None

    def previous(self) -> RegisteredVersion | None:
        return self.versions.by_alias(BANK_MODEL, PREVIOUS_CHAMPION) if self.exists else None

    def registered(self) -> list[RegisteredVersion]:
        """All versions, oldest first."""
        return self.versions.all(BANK_MODEL) if self.exists else []

    def manifest(self, version: RegisteredVersion) -> BankManifest:
        """Downloaded once; what it says of a version never changes."""
        if version.version not in self._manifests:
            self._manifests[version.version] = self._audited.manifest(version)
        return self._manifests[version.version]
