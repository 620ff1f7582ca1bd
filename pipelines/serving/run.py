"""Runs the server: in one process, or as a deployment of Ray Serve."""

import logging
import signal
import time
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from pipelines.job.ray_session import StopRequest, open_session
from pipelines.serving.access import Keys
from pipelines.serving.app import create_app
from pipelines.serving.recipe import ServeRecipe
from pipelines.serving.service import Service, log_to_terminal
from pipelines.serving.teacher import teacher_of
from pipelines.serving.versions import VersionStore

_logger = logging.getLogger(__name__)
_CHECK_S = 0.2


def serve(recipe: ServeRecipe, say: Callable[[str], None]) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    Keys.of_environment().check_host(recipe)
    log_to_terminal()
    return serve_local(recipe, say) if recipe.is_local else serve_on_ray(recipe, say)


def serve_local(recipe: ServeRecipe, say: Callable[[str], None]) -> int:
    """One process with one model; the editing loop shares it."""
    service = Service.started(recipe)
    versions = service.versions
    say(f"answering with {versions.current.name}: {versions.current.num_edits:,} edits")
    teacher = teacher_of(versions, recipe, _logger.info) if recipe.teach.is_on else None
    service.teacher = teacher
    config = server_config(create_app(service), recipe)
    server = _Server(config, lambda address: say(f"serving {address}"))

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal again when it has ended: the default would skip what follows.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if teacher:
        teacher.start()
    try:
        server.run()
    finally:
        if teacher:
            teacher.close()
        service.close()
    return 0 if server.started else 1


def server_config(app: ASGIApp, recipe: ServeRecipe) -> uvicorn.Config:
    """How connections are served."""
    return uvicorn.Config(
        app,
        host=recipe.host,
        port=recipe.port,
        # httptools, the default, takes headers of any size and copies them at every packet.
        http="h11",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=30,
    )


class _Server(uvicorn.Server):
    """Tells the address once it listens."""

    def __init__(self, config: uvicorn.Config, told: Callable[[str], None]) -> None:
        super().__init__(config)
        self._told = told

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._told(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def serve_on_ray(recipe: ServeRecipe, say: Callable[[str], None]) -> int:
    """Replicas on Ray; the editing loop, if any, is in this process, as there must be only one."""
    from pipelines.serving.deployment import start_deployment, stop_deployment

    needed = recipe.replicas.num_cpus * recipe.replicas.max_replicas + 1
    stop = StopRequest(say)
    with open_session(recipe.ray, needed_cpus=needed), stop.installed():
        start_deployment(recipe)
        try:
            teacher = None
            if recipe.teach.is_on:
                teacher = teacher_of(VersionStore.opened(recipe), recipe, _logger.info)
                teacher.start()
            say(f"serving http://{recipe.host}:{recipe.port}")
            while not stop():
                time.sleep(_CHECK_S)
            if teacher:
                teacher.close()
        finally:
            stop_deployment()
    return 0
