"""/v1/edits and /v1/versions: what is known, how it came to be, and how it is changed."""

import asyncio
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import JSONResponse, Response
from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from liveedit_core.errors import InputError
from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.inputs.request_parser import (
    MAX_ALSO_ASKED,
    MAX_SUBMITTER_CHARS,
    check_also_asked,
    check_submitter,
)
from liveedit_core.inputs.same_question import digest_of_pixels
from liveedit_core.inputs.text import check_text
from liveedit_core.schema import EditRequest
from pipelines.operations.promoter import Decision
from pipelines.serving.chat_request import Body
from pipelines.serving.errors import ONE_EDIT, SEVERAL_EDITS, error_response
from pipelines.serving.knowledge import EditQuery
from pipelines.serving.service import Service
from pipelines.serving.timeline import decided

MAX_EDITS = 64
_MAX_REASON_CHARS = 2000
State = Literal["pending", "held", "superseded", "removed", "refused"]
EditId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Path(ge=1, lt=10**9)]


class EditBody(Body):
    """One fact, as a line of a requests file; the image is a data URI, or None for a fact that is
    about no image."""

    image: str | None = None
    prompt: str
    target: str
    also_asked: Annotated[tuple[str, ...], Field(max_length=MAX_ALSO_ASKED, strict=False)] = ()
    submitter: Annotated[str, Field(max_length=MAX_SUBMITTER_CHARS)] = ""


class EditsBody(Body):
    """Several facts, in order."""

    edits: Annotated[list[EditBody], Field(min_length=1, max_length=MAX_EDITS)]


def _kind_of(body: object) -> str:
    return SEVERAL_EDITS if isinstance(body, dict) and "edits" in body else ONE_EDIT


AnyEdits = Annotated[
    Annotated[EditBody, Tag(ONE_EDIT)] | Annotated[EditsBody, Tag(SEVERAL_EDITS)],
    Discriminator(_kind_of),
]
"""Told apart, so that what is wrong is said of the form that was meant."""


class ChangeBody(Body):
    """Who changes something, and why."""

    reason: Annotated[str, Field(min_length=1, max_length=_MAX_REASON_CHARS)]
    author: Annotated[str, Field(min_length=1, max_length=MAX_SUBMITTER_CHARS)] = "api"

    @field_validator("reason", "author")
    @classmethod
    def _is_text(cls, text: str, info: ValidationInfo) -> str:
        return check_text(text, info.field_name or "", _MAX_REASON_CHARS)


class SearchBody(Body):
    """An image that edits are to resemble."""

    image: str
    limit: Annotated[int, Field(ge=1, le=100)] = 20


async def read_edit(service: Service, body: EditBody) -> EditRequest | Rejected:
    """The edit, or why it is refused."""
    limits = service.recipe.limits
    try:
        check_text(body.prompt, "prompt", limits.max_prompt_chars)
        check_text(body.target, "target", limits.max_target_chars)
        check_also_asked(body.also_asked, "also_asked", limits.max_prompt_chars)
        check_submitter(body.submitter)
        request = EditRequest(
            image_bytes=None,
            prompt=body.prompt,
            target=body.target,
            also_asked=body.also_asked,
            submitter=body.submitter,
        )
        if body.image is not None:
            image = await service.images.read(body.image)
            pixels = digest_of_pixels(await asyncio.to_thread(decode_image, image))
            request = replace(request, image_bytes=image, pixel_digest=pixels)
        await asyncio.to_thread(service.knowledge.check, request)
        return request
    except InputError as error:
        return Rejected.from_error(error)


def edit_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/edits")
    knowledge = service.knowledge

    @router.post("")
    async def post(
        body: AnyEdits,
        idempotency_key: Annotated[str, Header(max_length=200)] = "",
    ) -> Response:
        bodies = body.edits if isinstance(body, EditsBody) else [body]
        read = [await read_edit(service, item) for item in bodies]
        requests = [item for item in read if isinstance(item, EditRequest)]
        accepted = iter(
            await asyncio.to_thread(knowledge.submit, requests, idempotency_key) if requests else []
        )
        rows: list[dict[str, Any]] = [
            next(accepted)
            if isinstance(item, EditRequest)
            else {
                "object": "edit",
                "status": "refused",
                "error_type": item.error_type,
                "reason": item.message,
            }
            for item in read
        ]
        if not requests and isinstance(body, EditBody):
            refused = rows[0]
            return error_response(400, refused["reason"], code=refused["error_type"])
        return JSONResponse(
            {"object": "list", "data": rows, "is_taught_here": service.recipe.teach.is_on},
            201 if requests else 400,
        )

    @router.get("")
    async def listed(
        q: Annotated[str, Query(max_length=200)] = "",
        submitter: Annotated[str, Query(max_length=MAX_SUBMITTER_CHARS)] = "",
        state: State | None = None,
        offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        query = EditQuery(
            text=q, submitter=submitter, state=state or "", offset=offset, limit=limit
        )
        return await asyncio.to_thread(knowledge.find, query)

    @router.post("/search")
    async def search(body: SearchBody) -> dict[str, Any]:
        image = await service.images.read(body.image)
        return await asyncio.to_thread(knowledge.similar, image, body.limit)

    @router.get("/{edit_id}")
    async def one(edit_id: EditId) -> dict[str, Any]:
        return await asyncio.to_thread(knowledge.edit, edit_id)

    @router.get("/{edit_id}/thumbnail")
    async def thumbnail(edit_id: EditId) -> Response:
        return Response(
            await asyncio.to_thread(knowledge.thumbnail, edit_id), 200, None, "image/png"
        )

    @router.delete("/{edit_id}")
    async def delete(edit_id: EditId, body: ChangeBody) -> dict[str, Any]:
        return await asyncio.to_thread(
            knowledge.change, edit_id, is_removal=True, **body.model_dump()
        )

    @router.post("/{edit_id}/restore")
    async def restore(edit_id: EditId, body: ChangeBody) -> dict[str, Any]:
        return await asyncio.to_thread(
            knowledge.change, edit_id, is_removal=False, **body.model_dump()
        )

    return router


def version_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/versions")
    timeline = service.timeline

    @router.get("")
    async def listed(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        return {"object": "list", "data": await asyncio.to_thread(timeline.listed, limit)}

    @router.get("/{version}/diff")
    async def diff(version: Number, base: Annotated[int, Query(ge=1, lt=10**9)]) -> dict[str, Any]:
        return await asyncio.to_thread(timeline.diff, base, version)

    @router.get("/{version}/evaluation")
    async def evaluation(version: Number) -> dict[str, Any]:
        return await asyncio.to_thread(timeline.evaluation, version)

    @router.post("/{version}/promote")
    async def promote(version: Number, body: ChangeBody) -> Response:
        return _decision(
            await asyncio.to_thread(timeline.promote, version, who=body.author, why=body.reason)
        )

    @router.post("/rollback")
    async def rollback(body: ChangeBody) -> Response:
        return _decision(
            await asyncio.to_thread(timeline.roll_back, who=body.author, why=body.reason)
        )

    return router


def _decision(decision: Decision) -> Response:
    if decision.refusals:
        reasons = "; ".join(decision.refusals)
        message = f"version {decision.version} of the registry is refused: {reasons}"
        return error_response(409, message, code="gates_failed", refusals=list(decision.refusals))
    return JSONResponse(decided(decision))
