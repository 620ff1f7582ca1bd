"""The same app as a deployment of Ray Serve: each replica has a model and an engine of its own."""

from typing import Any

from ray import serve

from pipelines.job.recipe_loader import load_recipe
from pipelines.serving.access import Keys
from pipelines.serving.recipe import ServeRecipe

NAME = "liveedit"


def start_deployment(recipe: ServeRecipe) -> None:
    """Start Serve on the recipe's address, and replicas; returns when they are ready."""
    Keys.of_environment().check_host(recipe)
    serve.start(http_options={"host": recipe.host, "port": recipe.port})
    serve.run(deployment_of(recipe), name=NAME, route_prefix="/")


def stop_deployment() -> None:
    serve.shutdown()


def build(args: dict[str, str]) -> serve.Application:
    """What the `import_path` of a Serve config names; the arguments are settings by dotted name."""
    return deployment_of(recipe_of(args))


def recipe_of(args: dict[str, str]) -> ServeRecipe:
    return load_recipe(ServeRecipe, None, [f"{name}={value}" for name, value in args.items()])


def deployment_of(recipe: ServeRecipe) -> serve.Application:
    """What `serve.run` and a RayService take."""
    replicas = recipe.replicas
    options: dict[str, Any] = {
        "name": NAME,
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        # The gate of the app refuses earlier, with 429; this only bounds what Serve sends there.
        "max_ongoing_requests": recipe.http.max_connections,
        "graceful_shutdown_timeout_s": 60.0,
    }
    if replicas.max_replicas > replicas.min_replicas:
        options["autoscaling_config"] = {
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas,
            "target_ongoing_requests": replicas.target_requests,
        }
    else:
        options["num_replicas"] = replicas.min_replicas
    app = serve.ingress(_builder(recipe))()
    return serve.deployment(**options)(app).bind()


def _builder(recipe: ServeRecipe) -> Any:
    def build_app() -> Any:
        """In the replica: load the models and make the app."""
        from pipelines.serving.app import create_app
        from pipelines.serving.service import Service, log_to_terminal

        log_to_terminal()
        return create_app(Service.started(recipe))

    return build_app
