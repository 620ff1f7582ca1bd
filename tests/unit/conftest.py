"""An MLflow database with its tables, for all tests that need one."""

from pathlib import Path

import pytest

from infra.tracking.tracker import Tracker


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables; making one takes seconds, copying it does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = tmp_path_factory.mktemp("mlflow")
        Tracker(root, experiment="Default", run_name="makes-the-tables").connect()
    return root / "mlflow.db"
