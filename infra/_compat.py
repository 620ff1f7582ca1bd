"""Shims for faults of libraries; each names the fault, where it lives and when to delete it."""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lance import LanceDataset


@contextlib.contextmanager
def mlflow_default_uri(uri: str) -> Iterator[None]:
    """Make `uri` MLflow's process-wide default for a moment.

    Fault: on a database store, `MlflowClient.create_model_version(source="models:/m-...")` looks
    the LoggedModel up through the process-wide tracking URI, not through the client's own
    (mlflow 3.17, store/model_registry/sqlalchemy_store.py, the "TODO: Propagate tracking URI").
    Delete when: that lookup uses the store's own URI.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def limit_mlflow_database_retries(db_utils: ModuleType) -> None:
    """Let MLflow give up on a database that cannot be opened after one second, not after 100.

    Fault: `create_sqlalchemy_engine_with_retry` sleeps up to 51 s between ten tries, and no option
    changes that (mlflow 3.17, store/db/utils.py, MAX_RETRY_COUNT).
    Delete when: the number of tries can be configured.
    """
    if not hasattr(db_utils, "MAX_RETRY_COUNT"):
        raise AttributeError("mlflow.store.db.utils.MAX_RETRY_COUNT is gone: review this shim")
    vars(db_utils)["MAX_RETRY_COUNT"] = 3


def transaction_properties(dataset: "LanceDataset", version: int) -> dict[str, str]:
    """The short texts that were committed with a version; empty when there are none.

    Fault: `read_transaction` raises TypeError for a compaction that moved a scalar index along, as
    Python's `RewrittenIndex` lacks the fields that Rust hands over (pylance 14.0, lance/dataset.py
    and python/src/transaction.rs). Such a compaction is Lance's own and has no texts of ours.
    Delete when: it can be read.
    """
    try:
        transaction = dataset.read_transaction(version)
    except TypeError:
        return {}
    return dict((transaction and transaction.transaction_properties) or {})
