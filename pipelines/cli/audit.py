"""`liveedit bank verify --audit`: the chain of promotions, and the champion that it decided."""

import os

from infra.storage.checksums import sha256_of
from infra.storage.object_store import ObjectStore
from infra.tracking.audit_log import AuditLog
from infra.tracking.model_registry import BANK_MODEL, ModelVersions
from liveedit_core.errors import IntegrityError
from pipelines.cli.context import CommandContext

DAMAGED = 3


def verify_audit(context: CommandContext) -> int:
    output = context.output
    uri = context.options.audit or context.options.store
    log = AuditLog(ObjectStore(uri), BANK_MODEL)
    problem = ""
    try:
        records = log.records()
        output.data(num_records=len(records), head=log.head())
        _check_champion(log)
    except IntegrityError as error:
        problem = error.message
    output.data(problem=problem)
    if problem:
        output.say(f"DAMAGED  {problem}")
        return DAMAGED
    output.say(f"{len(records)} audit records are whole; note this digest elsewhere: {log.head()}")
    return 0


def _check_champion(log: AuditLog) -> None:
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server:
        versions = ModelVersions(server)
        champion = versions.by_alias(BANK_MODEL, "champion")
        if champion is not None:
            digest = sha256_of(versions.manifest_text(champion).encode())
            log.check("champion", champion.version, digest)
