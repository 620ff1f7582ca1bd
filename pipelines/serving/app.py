"""The FastAPI app over a `Service`."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.types import Scope

from pipelines.serving.access import Gate, gated
from pipelines.serving.chat import chat_routes
from pipelines.serving.edit_routes import edit_routes, version_routes
from pipelines.serving.errors import install
from pipelines.serving.served import UNEDITED, ServedVersion
from pipelines.serving.service import Service
from pipelines.serving.versions import MODEL, NEWEST, VersionStore

PAGE = Path(__file__).parent / "page"
_NUM_LISTED = 50
"""Versions in the list of models."""


def create_app(service: Service) -> Gate:
    """All paths, behind the gate."""
    app = FastAPI(title="LiveEdit", docs_url=None, redoc_url=None)
    install(app)

    for routes in (
        chat_routes(service),
        edit_routes(service),
        version_routes(service),
        state_routes(service),
        page_routes(),
    ):
        app.include_router(routes)

    def count(scope: Scope, status: int) -> None:
        path = getattr(scope.get("route"), "path", "other")  # no client can add labels
        service.telemetry.requests.labels(path, str(status)).inc()

    return gated(app, service.recipe, count)


def state_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": await asyncio.to_thread(list_models, service.versions)}

    @router.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        version = await asyncio.to_thread(service.versions.named, model)
        return described(model, version, service.versions)

    @router.get("/health")
    async def health() -> Response:
        is_alive = service.engine.is_alive
        return JSONResponse({"status": "ok" if is_alive else "dead"}, 200 if is_alive else 503)

    @router.get("/ready")
    async def ready() -> Response:
        versions = service.versions
        content = {
            "status": "degraded" if service.problem else "ready",
            "version": versions.current.name,
            "has_problem": bool(service.problem),
            "is_taught_here": service.recipe.teach.is_on,
        }
        # The old version answers on: a problem is told, but takes no traffic away.
        return JSONResponse(content, 200 if service.engine.is_alive else 503)

    @router.get("/v1/status")
    async def status() -> dict[str, Any]:
        versions = service.versions
        return {
            **described(MODEL, versions.current, versions),
            "problem": service.problem,
            "is_taught_here": service.recipe.teach.is_on,
            "num_waiting": service.engine.num_waiting,
            "num_running": service.engine.num_running,
        }

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(
            service.telemetry.page(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router


def page_routes() -> APIRouter:
    router = APIRouter()
    for path, name, kind in (
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page.css", "page.css", "text/css; charset=utf-8"),
        ("/page.js", "page.js", "text/javascript; charset=utf-8"),
    ):
        router.add_api_route(
            path, _file(name, kind), methods=["GET", "HEAD"], include_in_schema=False
        )
    return router


def _file(name: str, kind: str) -> Any:
    async def file() -> Response:
        return FileResponse(PAGE / name, media_type=kind)

    return file


def list_models(versions: VersionStore) -> list[dict[str, Any]]:
    """Names that can be asked, with what is behind them."""
    current = versions.current
    rows = [described(MODEL, current, versions)]
    rows.append(described(f"{MODEL}@{UNEDITED}", versions.named(f"{MODEL}@{UNEDITED}"), versions))
    bank = versions.bank
    if bank is None or not bank.history():
        return rows
    rows.append({**_named(f"{MODEL}@{NEWEST}"), "liveedit": {"bank": bank.name}})
    for tag, version in sorted(bank.versions.tags().items()):
        about = {"bank": bank.name, "bank_version": version}
        rows.append({**_named(f"{MODEL}@{tag}"), "liveedit": about})
    for record in bank.history()[: -_NUM_LISTED - 1 : -1]:
        about = {
            "bank": bank.name,
            "bank_version": record.version,
            "num_edits": record.num_edits,
            "kind": record.kind,
            "committed_at": record.committed_at.isoformat(),
        }
        row = _named(f"{MODEL}@v{record.version}", int(record.committed_at.timestamp()))
        rows.append({**row, "liveedit": about})
    return rows


def described(name: str, version: ServedVersion, versions: VersionStore) -> dict[str, Any]:
    """A model with its lineage."""
    committed = version.committed_at or version.loaded_at
    return {
        **_named(name, int(committed.timestamp())),
        "liveedit": {
            "version": version.name,
            "bank": version.bank_name,
            "bank_version": version.bank_version,
            "registered": version.registered,
            "num_edits": version.num_edits,
            "generator_digest": version.generator_digest,
            "backbone_digest": versions.backbone.digest,
        },
    }


def _named(name: str, created: int = 0) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": MODEL}
