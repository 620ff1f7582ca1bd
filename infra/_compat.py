"""Shims for faults of libraries; each names the fault, where it lives and when to delete it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import quote

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


def keep_mlflow_from_making_folders(db_utils: ModuleType) -> None:
    """Our databases are in folders that exist.

    Fault: `_make_parent_dirs_if_sqlite` makes the folder of a SQLite URI without decoding it: an
    empty twin of a folder with "?" or "%" in its name (mlflow 3.17, store/db/utils.py).
    Delete when: it decodes the path.
    """
    if not hasattr(db_utils, "_make_parent_dirs_if_sqlite"):
        raise AttributeError("mlflow.store.db.utils._make_parent_dirs_if_sqlite: review this shim")
    vars(db_utils)["_make_parent_dirs_if_sqlite"] = lambda db_uri: None


def create_tag(dataset: "LanceDataset", name: str, version: int) -> None:
    """Name a version of a table.

    Fault: the tags of a table on disk are written where they belong, but their folder is made
    under the percent-encoded path: an empty twin of a folder with a space or an umlaut, and an
    error where the parent is not writable (pylance 14.0, dataset/refs.rs).
    Delete when: `tags.create` makes no folder elsewhere. Until then it sees a plain name.
    """
    if "://" in dataset.uri or quote(dataset.uri) == dataset.uri:
        dataset.tags.create(name, version)
        return
    import lance

    with tempfile.TemporaryDirectory() as folder:
        alias = Path(folder) / "table"
        alias.symlink_to(dataset.uri)
        lance.dataset(str(alias)).tags.create(name, version)


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
