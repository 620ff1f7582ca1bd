"""Versions of the registry as far as the audit log explains them: MLflow alone is not believed."""

from dataclasses import dataclass

from infra.bank.manifest import BankManifest
from infra.storage.checksums import sha256_of
from infra.storage.object_store import ObjectStore
from infra.tracking.audit_log import AuditLog
from infra.tracking.model_registry import BANK_MODEL, ModelVersions, RegisteredVersion

CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"


@dataclass(frozen=True)
class AuditedVersions:
    """What a server says, compared with the log of an operations store at every look."""

    versions: ModelVersions
    operations: ObjectStore

    def champion(self) -> RegisteredVersion | None:
        """The champion; IntegrityError unless the audit log says that it is one, or that there is
        none."""
        found = self.versions.by_alias(BANK_MODEL, CHAMPION)
        if found is None:
            AuditLog(self.operations, BANK_MODEL).check_no_champion()
        else:
            self.manifest(found, CHAMPION)
        return found

    def manifest(self, version: RegisteredVersion, alias: str = "") -> BankManifest:
        """The manifest of a version, or of what an alias points to; IntegrityError where the log
        names another one."""
        text = self.versions.manifest_text(version)
        digest = sha256_of(text.encode())
        AuditLog(self.operations, version.name).check(alias, version.version, digest)
        return BankManifest.from_json(text, f"{version.name} {version.version}")
