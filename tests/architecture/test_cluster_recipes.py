"""What recipes for a cluster ask for is there: each request on a node, and all of them at once."""

import json
import re
import tomllib
from typing import Any, NamedTuple

import pytest
import yaml

from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.sections import ActorSection
from pipelines.training.recipe import TrainRecipe
from tests.architecture.project import ROOT

RECIPES = ROOT / "pipelines" / "recipes"


class Nodes(NamedTuple):
    """Some alike nodes of a cluster."""

    resources: dict[str, float]
    most: int


class Asked(NamedTuple):
    """What each of some alike actors reserves."""

    resources: dict[str, float]
    num_actors: int


def aws() -> list[Nodes]:
    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text(encoding="utf-8"))
    types = config["available_node_types"]
    return [
        Nodes(node["resources"], node.get("max_workers", 1))
        for name, node in types.items()
        if name != config["head_node_type"]
    ]


def kuberay() -> list[Nodes]:
    text = (ROOT / "infra" / "deploy" / "ray-cluster.yaml").read_text(encoding="utf-8")
    found = []
    for group in yaml.safe_load(text)["spec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        custom = json.loads(group["rayStartParams"]["resources"].strip('"').replace("\\", ""))
        gpus = float(limits.get("nvidia.com/gpu", 0))
        resources = {"CPU": float(limits["cpu"]), "GPU": gpus, **custom}
        found.append(Nodes(resources, group["maxReplicas"]))
    return found


CLUSTERS = {"ray_cluster.yaml": aws, "infra/deploy/ray-cluster.yaml": kuberay}


def asked_by(section: ActorSection, num_actors: int = 0) -> Asked:
    assert section.num_gpus != "auto", "a number starts GPU nodes, auto does not"
    wanted = {"CPU": section.num_cpus, "GPU": section.num_gpus}
    if section.node_resource:
        wanted[section.node_resource] = 0.001
    return Asked(wanted, num_actors or section.num_actors)


def editing() -> list[list[Asked]]:
    recipe = load_recipe(LifelongEditRecipe, RECIPES / "gpu_cluster.toml", [])
    return [[asked_by(recipe.generator), asked_by(recipe.embedding), asked_by(recipe.evaluation)]]


def training() -> list[list[Asked]]:
    """First encoding, then the gang, whose ranks are all there or none."""
    recipe = load_recipe(TrainRecipe, RECIPES / "train_llava_7b.toml", [])
    rank = {"CPU": recipe.sharding.cpus_per_shard, "GPU": float(recipe.sharding.gpus_per_shard)}
    gang = Asked(rank, recipe.sharding.shards)
    return [[asked_by(recipe.states)], [gang, asked_by(recipe.validation)]]


def test_every_recipe_that_asks_for_nodes_of_a_cluster_is_checked() -> None:
    asking = {"num_gpus", "node_resource", "gpus_per_shard"}
    names = {
        path.name
        for path in RECIPES.glob("*.toml")
        for section in tomllib.loads(path.read_text("utf-8")).values()
        if isinstance(section, dict) and asking & section.keys()
    }
    assert names == {"gpu_cluster.toml", "train_llava_7b.toml"}


def num_places(asked: dict[str, float], free: dict[str, float]) -> int:
    """How many such actors a node has room for."""
    return int(min(free.get(name, 0.0) / amount for name, amount in asked.items() if amount))


@pytest.mark.parametrize("recipe", [editing, training])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_nodes_have_what_the_recipe_asks_for(cluster: str, recipe: Any) -> None:
    for together in recipe():
        free = [dict(nodes.resources) for nodes in CLUSTERS[cluster]() for _ in range(nodes.most)]
        for asked in together:
            left = asked.num_actors
            for node in free:
                here = min(left, num_places(asked.resources, node))
                left -= here
                for name, amount in asked.resources.items():
                    node[name] = node.get(name, 0.0) - here * amount
            assert left == 0, f"{cluster} has no room for {left} of {asked}"


def test_a_recipe_that_asks_for_too_much_would_be_found() -> None:
    asked = {"CPU": 4.0, "GPU": 2.0, "generator": 0.001}
    assert all(num_places(asked, nodes.resources) == 0 for nodes in aws())


@pytest.mark.parametrize("name", ["gpu_cluster.toml", "train_llava_7b.toml"])
def test_runs_lie_where_all_nodes_see_them(name: str) -> None:
    kind = TrainRecipe if name.startswith("train") else LifelongEditRecipe
    root = load_recipe(kind, RECIPES / name, []).run_root
    assert re.search(rf"mount -t nfs4 .*{root}", (ROOT / "ray_cluster.yaml").read_text("utf-8"))
    cluster = yaml.safe_load((ROOT / "infra/deploy/ray-cluster.yaml").read_text("utf-8"))["spec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert root in [mount["mountPath"] for mount in mounts]


def test_the_cluster_files_name_the_recipe() -> None:
    for name in CLUSTERS:
        assert "pipelines/recipes/gpu_cluster.toml" in (ROOT / name).read_text(encoding="utf-8")
