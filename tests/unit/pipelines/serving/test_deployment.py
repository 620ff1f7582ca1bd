"""The Serve config of infra/deploy is one that our deployment takes."""

from typing import Any

import pytest
import yaml

from liveedit_core.errors import ConfigError
from pipelines.serving.access import EDIT_KEY, READ_KEY, Keys
from pipelines.serving.deployment import build, deployment_of, recipe_of
from pipelines.serving.recipe import ServeRecipe
from tests.architecture.project import ROOT


def application() -> dict[str, Any]:
    service = yaml.safe_load((ROOT / "infra/deploy/ray-service.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    (found,) = config["applications"]
    found["http_options"] = config["http_options"]
    return dict(found)


def test_the_service_of_kubernetes_is_built_from_its_settings() -> None:
    config = application()
    assert config["import_path"] == f"{build.__module__}:{build.__name__}"
    recipe = recipe_of(config["args"])
    assert recipe.host == config["http_options"]["host"]
    assert recipe.replicas.max_replicas == 4
    with pytest.raises(ConfigError, match=f"{READ_KEY} and {EDIT_KEY}"):
        Keys().check_host(recipe)
    assert build(config["args"])._bound_deployment.name == "liveedit"


def test_replicas_are_fixed_or_as_many_as_the_load_asks_for() -> None:
    fixed = deployment_of(ServeRecipe())._bound_deployment
    assert fixed.num_replicas == 1
    recipe = recipe_of({"replicas.max_replicas": "3", "replicas.num_gpus": "0.5"})
    scaled = deployment_of(recipe)._bound_deployment
    scaling, actor = scaled._deployment_config.autoscaling_config, scaled.ray_actor_options
    assert scaling is not None
    assert scaling.max_replicas == 3
    assert actor is not None
    assert actor["num_gpus"] == 0.5
    with pytest.raises(ConfigError, match="max_replicas"):
        recipe_of({"replicas.min_replicas": "2"})
