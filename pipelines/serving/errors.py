"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from liveedit_core.errors import InputError, LiveEditError
from pipelines.operations.promoter import PromotionConflictError
from pipelines.serving.engine import BusyError, EngineClosedError
from pipelines.serving.knowledge import UnknownEditError
from pipelines.serving.timeline import NotPossibleError
from pipelines.serving.versions import UnknownModelError

RETRY_AFTER_S = 1
ONE_EDIT, SEVERAL_EDITS = "one edit", "several edits"
_NO_NAMES = ("body", "query", "path", ONE_EDIT, SEVERAL_EDITS)
"""Parts of a place that are no names of the client's."""
_logger = logging.getLogger(__name__)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_STATUS: dict[type[LiveEditError], tuple[int, str]] = {
    BusyError: (429, "busy"),
    EngineClosedError: (503, "shutting_down"),
    UnknownModelError: (404, "model_not_found"),
    UnknownEditError: (404, "edit_not_found"),
    NotPossibleError: (409, "not_possible"),
    PromotionConflictError: (409, "conflict"),
    InputError: (400, "invalid_input"),
}


class ApiError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, *, code: str = "", param: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


def error_body(
    status: int, message: str, *, code: str = "", param: str = "", **more: Any
) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param or None, "code": code or None}
    return {"error": {**error, **more}}


def error_response(
    status: int, message: str, *, code: str = "", param: str = "", **more: Any
) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = error_body(status, message, code=code, param=param, **more)
    return JSONResponse(body, status, headers)


def status_of(error: Exception) -> tuple[int, str, str]:
    """Status, code and message for a client; of what is not ours, no detail gets out."""
    if isinstance(error, ApiError):
        return error.status, error.code, error.message
    if not isinstance(error, LiveEditError):
        return 500, "internal_error", "the server failed to answer; its log says why"
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return *_STATUS[kind], error.message
    return 503, "unavailable", error.message


def install(app: FastAPI) -> None:
    """Let an app answer every error in this shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.message, code=error.code, param=error.param)

    @app.exception_handler(LiveEditError)
    async def known_error(request: Request, error: LiveEditError) -> JSONResponse:
        status, code, message = status_of(error)
        if status >= 500:
            _logger.error("%s %s: %s", request.method, request.url.path, error.message)
        return error_response(status, message, code=code)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in _NO_NAMES]
        name, kind = ".".join(place), first["type"]
        if kind == "json_invalid":
            return error_response(400, "the body is not valid JSON", code="invalid_json")
        if kind == "extra_forbidden":
            message, code = f"{name}: this server knows no such parameter", "unknown_parameter"
        else:
            message, code = f"{name or 'body'}: {first['msg']}", "invalid_value"
        return error_response(400, message[:1000], code=code, param=name[:200])

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        status, code, message = status_of(error)
        return error_response(status, message, code=code)
