"""Bodies of requests within their limits, and refusals as JSON; what a body means is not known here."""

from __future__ import annotations

import json
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ..plain import as_json_text

__all__ = ["Refused", "failed", "http_error", "json_body", "json_response", "refuse", "whole_body"]

_BODY_SECONDS = 20.0


class Refused(Exception):
    """An answer other than 200, with its reason."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        self.status, self.body = status, {"error": message, **more}
        super().__init__(message)


def json_response(value: Any, status: int = 200, indent: int | None = 2) -> Response:
    return Response(as_json_text(value, indent=indent) + "\n", status, media_type="application/json")


async def whole_body(request: Request, most: int, *kinds: str) -> bytes:
    """The whole body, within its limit on bytes and time, of a type that no form of another site can send unasked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise Refused(415, f"the body must be {' or '.join(kinds)}; got {kind or 'no content-type'!r:.60}")
    parts: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Refused(413, f"the body may have at most {most:,} bytes")
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {_BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise Refused(400, "the body did not arrive whole") from None
    return b"".join(parts)


async def json_body(request: Request, most: int) -> object:
    body = await whole_body(request, most, "application/json")

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not a JSON number")

    try:
        return json.loads(body, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refused(400, f"the body is not JSON: {reason:.200}") from None


async def refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    response = JSONResponse(error.body, error.status)
    if error.status == 503:
        response.headers["retry-after"] = "1"
    return response


async def http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))


async def failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this question broke the planner, which is a defect: please report it"}, 500)
