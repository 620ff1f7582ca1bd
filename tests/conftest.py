"""Settings that hold for every test; in effect before anything heavy is imported."""

import gc
import os
import secrets
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test talks to a hub, reports usage or writes to the MLflow server of the shell.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # nor asks the machine for credentials
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray on 127.0.0.1 alone
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Ray asks for a token, and would otherwise leave one in the home folder. With this one, every Ray
# process that a test starts or talks to belongs to this test run alone.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

# The first example of a property pays for imports and warm-up, so there is no deadline; the same
# examples every time, so that a failure on another machine is the same failure here.
settings.register_profile(
    "liveedit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("liveedit")

_INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark everything in tests/integration, so that `-m "not integration"` leaves it out.

    Tests marked `long` run only when `-m` speaks of them.
    """
    for item in items:
        if _INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_collection_finish() -> None:
    """Keep what is imported out of each later garbage collection, which is a tenth of all work."""
    gc.collect()
    gc.freeze()
