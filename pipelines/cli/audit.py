"""`liveedit bank verify --audit`: the chain of promotions, and the champion that it decided."""

import os

from infra.storage.object_store import ObjectStore
from infra.tracking.audit_log import AuditLog, AuditRecord
from infra.tracking.model_registry import BANK_MODEL, ModelVersions
from liveedit_core.errors import InputError, IntegrityError
from pipelines.cli.context import CommandContext
from pipelines.operations.audited import AuditedVersions

DAMAGED = 3


def verify_audit(context: CommandContext) -> int:
    output = context.output
    uri = context.options.audit or context.options.store
    store = ObjectStore(uri)
    log = AuditLog(store, BANK_MODEL)
    records: list[AuditRecord] = []
    problem = ""
    try:
        records = log.records()
        output.data(num_records=len(records), head=log.head())
        if server := os.environ.get("MLFLOW_TRACKING_URI", ""):
            AuditedVersions(ModelVersions(server), store).champion()
    except IntegrityError as error:
        problem = error.message
    if not (records or problem or store.list()):
        raise InputError(f"there is nothing in {uri}")
    output.data(problem=problem)
    if problem:
        output.say(f"DAMAGED  {problem}")
        return DAMAGED
    if not records:
        output.say(f"there are no audit records in {uri}: nothing was promoted")
        return 0
    output.say(f"{len(records)} audit records are whole; note this digest elsewhere: {log.head()}")
    return 0
