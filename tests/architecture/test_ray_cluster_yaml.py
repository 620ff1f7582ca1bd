"""ray_cluster.yaml is a launcher file that Ray itself accepts, and it gives nothing away."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.architecture.project import PACKAGES, ROOT

FILE = ROOT / "ray_cluster.yaml"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The file as the launcher reads it: from the project's folder, not yet filled out."""
    monkeypatch.chdir(ROOT)
    config: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return config


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_ray_would_refuse_a_misspelt_field(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu_generator"]["max_worker"] = 4
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(cluster))


def test_the_cluster_has_the_agreed_shape(cluster: dict[str, Any]) -> None:
    nodes = cluster["available_node_types"]
    assert cluster["provider"]["type"] == "aws"
    assert set(nodes) == {"head", "gpu_generator", "cpu_worker"}
    assert cluster["head_node_type"] == "head"
    assert nodes["head"]["resources"] == {"CPU": 0}
    workers = {name: node for name, node in nodes.items() if name != "head"}
    for node in workers.values():
        assert 0 <= node["min_workers"] < node["max_workers"]
    assert cluster["max_workers"] == sum(node["max_workers"] for node in workers.values())


def test_everything_the_setup_needs_is_sent(cluster: dict[str, Any]) -> None:
    mounts: dict[str, str] = cluster["file_mounts"]
    in_project = {local for local in mounts.values() if not local.startswith("~")}
    assert in_project >= {*PACKAGES, "Makefile", "pyproject.toml", "requirements.lock"}
    missing = [local for local in sorted(in_project) if not Path(local).exists()]
    assert missing == []


def test_no_door_is_open_and_no_secret_is_written_down(cluster: dict[str, Any]) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert "0.0.0.0" not in text
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|secret_access_key|RAY_AUTH_TOKEN=", text)
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
