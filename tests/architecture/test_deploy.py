"""The files of infra/deploy are what Kubernetes, KubeRay, systemd and Docker accept, as far as that
can be told without them; they run our jobs, agree with one another and give nothing away.
"""

import configparser
import copy
import json
import os
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines import lifelong_edit
from pipelines.editing.recipe import FollowSection
from tests.architecture.project import ROOT, run

DEPLOY = ROOT / "infra" / "deploy"
KUBERNETES_VERSIONS = ("1.31", "1.37")
"""The oldest with a stable podFailurePolicy, and the newest that the schemas know."""
KUBERAY = json.loads((DEPLOY / "schemas" / "kuberay.json").read_text(encoding="utf-8"))
JOB_FILES = {"ray-cluster": "RayCluster", "ray-job": "RayJob", "ray-cronjob": "RayCronJob"}
KUBERAY_FILES = {**JOB_FILES, "ray-service": "RayService"}

Document = dict[str, Any]


def documents(name: str) -> list[Document]:
    return list(yaml.safe_load_all((DEPLOY / f"{name}.yaml").read_text(encoding="utf-8")))


def document(name: str, kind: str) -> Document:
    (found,) = (item for item in documents(name) if item["kind"] == kind)
    return found


def nightly() -> Document:
    return document("nightly-cronjob", "CronJob")


def nightly_pod() -> Document:
    pod: Document = nightly()["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return pod


def follower() -> Document:
    return document("follow-deployment", "Deployment")


def follower_pod() -> Document:
    pod: Document = follower()["spec"]["template"]["spec"]
    return pod


def check_kubernetes(document: Document) -> None:
    for version in KUBERNETES_VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def check_kuberay(document: Document) -> None:
    """The closed schema of ours around the pods, Kubernetes' own for the pods."""
    jsonschema.Draft202012Validator(KUBERAY).validate(document)
    for template in pod_templates(document):
        check_kubernetes({"apiVersion": "v1", "kind": "PodTemplate", "template": template})


def pod_templates(node: Any) -> Iterator[Document]:
    """Every pod template below a node."""
    if isinstance(node, dict):
        for name, child in node.items():
            if name in ("template", "submitterPodTemplate"):
                yield child
            else:
                yield from pod_templates(child)
    elif isinstance(node, list):
        for child in node:
            yield from pod_templates(child)


def cluster_of(name: str) -> Document:
    (document,) = documents(name)
    spec: Document = document["spec"]
    job: Document = spec.get("jobTemplate", spec)
    for place in ("rayClusterSpec", "rayClusterConfig"):
        job = job.get(place, job)
    return job


def commands() -> Iterator[str]:
    """What every file starts, as one line each."""
    yield " ".join(nightly_pod()["containers"][0]["args"])
    for name in ("ray-job", "ray-cronjob"):
        spec = documents(name)[0]["spec"]
        yield spec.get("jobTemplate", spec)["entrypoint"].removeprefix("python ")
    yield " ".join(follower_pod()["containers"][0]["args"])
    for service in ("nightly", "follow", "serve"):
        yield unit(f"liveedit-{service}.service")["Service"]["ExecStart"].split("python ", 1)[1]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string((DEPLOY / name).read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize("name", ["nightly-cronjob", "follow-deployment"])
def test_kubernetes_accepts_its_files(name: str) -> None:
    for document in documents(name):
        check_kubernetes(document)


@pytest.mark.parametrize(("name", "kind"), KUBERAY_FILES.items())
def test_kuberay_accepts_its_files(name: str, kind: str) -> None:
    (document,) = documents(name)
    assert document["kind"] == kind
    check_kuberay(document)


def test_the_schema_lists_what_the_files_use_and_no_more() -> None:
    """So every field of it is one that somebody had a reason to compare with KubeRay's own."""
    used: set[tuple[str, str]] = set()

    def walk(node: Any, schema: Document, place: str) -> None:
        if "$ref" in schema:
            place = schema["$ref"].rpartition("/")[2]
            schema = KUBERAY["$defs"][place]
        if isinstance(node, list):
            for item in node:
                walk(item, schema["items"], place)
        elif isinstance(node, dict) and "properties" in schema:
            assert schema["additionalProperties"] is False, place
            for name, child in node.items():
                used.add((place, name))
                walk(child, schema["properties"][name], f"{place}.{name}")

    def listed(schema: Document, place: str) -> Iterator[tuple[str, str]]:
        for name, child in schema.get("properties", {}).items():
            yield place, name
            yield from listed(child, f"{place}.{name}")

    for name, kind in KUBERAY_FILES.items():
        walk(documents(name)[0], {"$ref": f"#/$defs/{kind}"}, kind)
    assert {
        item for place, part in KUBERAY["$defs"].items() for item in listed(part, place)
    } == used


def misspell(document: Document, path: str, wrong: str) -> None:
    *parents, last = path.split(".")
    node: Any = document
    for step in parents:
        node = node[int(step)] if step.isdigit() else node[step]
    node[wrong] = node.pop(last)


CLUSTER = "spec.jobTemplate.rayClusterSpec"


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("spec.schedule", "shedule"),
        ("spec.jobTemplate.entrypoint", "entryPoint"),
        ("metadata.name", "nam"),
        ("spec.jobTemplate.ttlSecondsAfterFinished", "ttlSecondsAfterFinish"),
        (f"{CLUSTER}.headGroupSpec", "headGroup"),
        (f"{CLUSTER}.workerGroupSpecs.0.maxReplicas", "maximum"),
        (f"{CLUSTER}.authOptions.mode", "modus"),
        (f"{CLUSTER}.autoscalerOptions.idleTimeoutSeconds", "idle"),
        (f"{CLUSTER}.workerGroupSpecs.0.groupName", "name"),
        (f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus", "num-cpu"),
        (f"{CLUSTER}.headGroupSpec.template.spec.containers.0.image", "img"),
    ],
)
def test_a_misspelt_field_would_be_found(path: str, wrong: str) -> None:
    cron_job = copy.deepcopy(documents("ray-cronjob")[0])
    misspell(cron_job, path, wrong)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_kuberay(cron_job)


def test_a_regression_is_not_tried_again_and_a_drained_node_is_no_failure() -> None:
    job, pod = nightly()["spec"]["jobTemplate"]["spec"], nightly_pod()
    fail, ignore = job["podFailurePolicy"]["rules"]
    assert fail["action"] == "FailJob"
    assert fail["onExitCodes"]["operator"] == "In"
    assert 3 in fail["onExitCodes"]["values"]
    assert 1 not in fail["onExitCodes"]["values"]  # an outage is worth another try
    assert fail["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    drained = {"type": "DisruptionTarget", "status": "True"}
    assert ignore == {"action": "Ignore", "onPodConditions": [drained]}
    assert pod["restartPolicy"] == "Never"  # the policy is refused with any other
    assert job["backoffLimit"] > 0
    service = unit("liveedit-nightly.service")["Service"]
    assert "3" in service["RestartPreventExitStatus"].split()
    assert service["Restart"] == "on-failure"
    for name in ("ray-job", "ray-cronjob"):  # there the exit code cannot be told
        spec = documents(name)[0]["spec"]
        assert spec.get("jobTemplate", spec)["backoffLimit"] == 0


def test_nights_do_not_overlap_and_records_outlive_the_pod() -> None:
    assert nightly()["spec"]["concurrencyPolicy"] == "Forbid"
    pod = nightly_pod()
    root = re.search(r"run_root=(\S+)", next(commands()))
    assert root is not None
    (mount,) = (
        item for item in pod["containers"][0]["volumeMounts"] if item["mountPath"] == root[1]
    )
    (volume,) = (item for item in pod["volumes"] if item["name"] == mount["name"])
    claim = document("nightly-cronjob", "PersistentVolumeClaim")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    budget = re.search(r"states\.max_bytes=(\d+)", next(commands()))
    size = re.fullmatch(r"(\d+)Gi", claim["spec"]["resources"]["requests"]["storage"])
    assert budget is not None
    assert size is not None
    assert int(budget[1]) < int(size[1]) * 2**30 / 2  # room for runs and for what waits


def test_one_driver_follows_the_inbox_and_has_time_to_drain() -> None:
    spec = follower()["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}  # never two pods, not even during an update
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    drain_s = FollowSection().drain_s
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= drain_s + 120
    service = unit("liveedit-follow.service")["Service"]
    assert service["TimeoutStopSec"] == "5min"
    assert service["KillMode"] == "mixed"  # workers must outlive the signal
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"


def test_a_follower_that_hangs_is_seen_by_the_file_that_it_writes(tmp_path: Path) -> None:
    (container,) = follower_pod()["containers"]
    options = lifelong_edit.parse_arguments(container["args"][1:])
    status_file = lifelong_edit.resolve_recipe(options).run_folder / "follow.json"
    for name in ("startupProbe", "livenessProbe"):
        command = container[name]["exec"]["command"]
        assert str(status_file) in command[-1]
        here = [part.replace(str(status_file), str(tmp_path / "follow.json")) for part in command]

        def is_fresh(probe: list[str] = here) -> bool:
            return run(*probe).returncode == 0

        (tmp_path / "follow.json").unlink(missing_ok=True)
        assert not is_fresh()
        (tmp_path / "follow.json").write_text("{}")
        assert is_fresh()
        long_ago = time.time() - 3600
        os.utime(tmp_path / "follow.json", (long_ago, long_ago))
        assert not is_fresh()
    claim = document("follow-deployment", "PersistentVolumeClaim")
    volumes = [item.get("persistentVolumeClaim") for item in follower_pod()["volumes"]]
    assert {"claimName": claim["metadata"]["name"]} in volumes


def test_the_commands_are_ones_that_our_jobs_take() -> None:
    for line in commands():
        script, *settings = line.split()
        done = run(sys.executable, ROOT / script, *settings, "--dry-run")
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_one_cluster_is_described_everywhere_with_the_locked_ray() -> None:
    standing, once, nightly_one = (cluster_of(name) for name in JOB_FILES)
    assert once == nightly_one
    assert {**standing, "workerGroupSpecs": standing["workerGroupSpecs"][:1]} == once
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert standing["rayVersion"] == locked[1]
    assert cluster_of("ray-service")["rayVersion"] == locked[1]


def test_every_pod_is_a_plain_user_without_privileges() -> None:
    templates = [item for name in KUBERAY_FILES for item in pod_templates(documents(name))]
    templates += list(pod_templates(nightly()["spec"]["jobTemplate"]["spec"]))
    templates += list(pod_templates(follower()["spec"]))
    for template in templates:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"].get("privileged")
            assert "memory" in container["resources"]["limits"]
    assert all(cluster_of(name)["authOptions"] == {"mode": "token"} for name in KUBERAY_FILES)


def test_no_secret_is_written_down() -> None:
    secret = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:password|secret_access_key|token)\s*[:=]\s*[\"']?[\w/+]{8,}"
    )
    for path in DEPLOY.iterdir():
        if path.is_file():
            assert not secret.search(path.read_text(encoding="utf-8")), path.name


def test_the_image_is_pinned_locked_and_runs_as_a_user() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=3.11,<3.13"
    assert set(bases) == {bases[0]}
    assert re.fullmatch(r"python:3\.1[12]\.\d+-slim-\w+", bases[0])
    assert "--require-hashes --no-deps -r /tmp/requirements.lock" in text
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1].split(":")[0].isdigit()
    assert users[-1].split(":")[0] != "0"
    assert not any(line.startswith("ADD ") for line in lines)
    copied = [
        line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line
    ]
    for source in (item for group in copied for item in group):
        assert (ROOT / source).exists(), source
    let_in = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert {Path(item).parts[0] for group in copied for item in group} == let_in


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine: the units were only read")
    for path in DEPLOY.glob("liveedit-*"):
        text = path.read_text(encoding="utf-8")
        text = text.replace("/opt/liveedit/.venv/bin/python", "/bin/true")  # installed there only
        (tmp_path / path.name).write_text(text)
    assert len(list(tmp_path.iterdir())) == 4
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    done = run(analyze, "verify", "--man=no", *units)
    assert [line for line in done.stderr.splitlines() if "liveedit-" in line] == []
    calendar = unit("liveedit-nightly.timer")["Timer"]["OnCalendar"]
    parsed = run(analyze, "calendar", calendar)
    assert parsed.returncode == 0, parsed.stderr


def test_the_readme_knows_every_file() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in DEPLOY.iterdir() if path.is_file()} - {"README.md"}
    missing = sorted(name for name in names if f"`{name}`" not in text)
    assert missing == []


def test_ray_sends_the_code_and_no_history() -> None:
    """`ray job submit --working-dir .` would send .git, twice as large as all the rest."""
    lines = set((ROOT / ".rayignore").read_text().splitlines())
    assert {".git", ".venv", "runs"} <= lines
    assert not {"pipelines", "workers", "infra", "liveedit_core"} & lines
