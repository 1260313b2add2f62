"""Errors on the wire: RFC 9457 problem details, never a stack trace."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

_MEDIA_TYPE = "application/problem+json"
_RETRY = {"Retry-After": "1"}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
"""JSON schema of a problem. Some have further members."""


class Problem(Exception):
    """An answer that is no success.

    Args:
        status: HTTP status.
        detail: What is wrong and what to do.
        headers: Of the answer.
        members: Further members of the problem object.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.members = members


def unavailable(detail: str, **members: Any) -> Problem:
    """503: the caller may try again."""
    return Problem(503, detail, _RETRY, **members)


def bad_field(field: str, detail: str) -> Problem:
    """422 that names one field of the request, such as ``candidates[3].genre``."""
    return Problem(422, f"`{field}` {detail}", errors=[{"field": field, "detail": detail}])


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of an endpoint, for its OpenAPI description."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {_MEDIA_TYPE: {"schema": SCHEMA}}}
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _failure)


def _response(status: int, detail: str, headers: Mapping[str, str] | None, members: Mapping[str, Any]) -> Response:
    title = HTTPStatus(status).phrase
    body = orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail, **members})
    return Response(body, status, headers, _MEDIA_TYPE)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - registered for it
    return _response(error.status, error.detail, error.headers, error.members)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    path = request.url.path
    detail = {
        404: f"there is nothing at {path}; see /docs",
        405: f"{path} does not take {request.method}; see /docs",
    }.get(error.status_code, str(error.detail))
    return _response(error.status_code, detail, error.headers, {})


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)


async def _failure(_: Request, __: Exception) -> Response:
    return _response(500, "the ranker failed; its log says why", None, {})
