"""Reading the JSON of a request, in a thread where it is long. Knows FastAPI's routes, not what they do."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

# What is read faster than a thread could take it over.
SHORT_BYTES = 16 * 2**10
# Nothing else runs while JSON is read, and what takes long of that are lists and objects: a million in half a second.
MAX_BRACKETS = 250_000


class BodyRoute(APIRoute):
    """A route whose body, where it has one, is read before FastAPI looks at it, which would read it in the loop."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Make what answers a request."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        kind: Any = self.body_field.field_info.annotation
        adapter: TypeAdapter[Any] = TypeAdapter(kind)

        async def read_and_handle(request: Request) -> Response:
            return await handle(await _read(request, adapter) if _is_json(request) else request)

        return read_and_handle


class _ReadRequest(Request):
    """A request whose body is a ``value`` already."""

    def __init__(self, request: Request, raw: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._raw = raw
        self._value = value

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        return self._value


def _is_json(request: Request) -> bool:
    """Tell whether a body would be read as JSON; that of others is refused by FastAPI, without a look at it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def _read(request: Request, adapter: TypeAdapter[Any]) -> Request:
    raw = await request.body()
    if not raw:
        return request
    is_short = len(raw) <= SHORT_BYTES
    value = _parse(raw, adapter) if is_short else await asyncio.to_thread(_parse, raw, adapter)
    return _ReadRequest(request, raw, value)


def _parse(raw: bytes, adapter: TypeAdapter[Any]) -> Any:
    """Read a body as its model; RequestValidationError says where it is none."""
    if (num_brackets := raw.count(b"[") + raw.count(b"{")) > MAX_BRACKETS:
        raise HTTPException(400, f"the body opens {num_brackets} brackets and braces; at most {MAX_BRACKETS} are read")
    try:
        found = json.loads(raw)
    except json.JSONDecodeError as error:
        raise RequestValidationError([_no_json(error)], body=error.doc) from None
    except RecursionError:
        raise HTTPException(400, "the JSON of the body is nested too deeply") from None
    except ValueError as error:
        raise HTTPException(400, f"the body cannot be read as JSON: {error}") from None
    try:
        return adapter.validate_python(found)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(errors, body=found) from None


def _no_json(error: json.JSONDecodeError) -> dict[str, Any]:
    return {
        "type": "json_invalid",
        "loc": ("body", error.pos),
        "msg": "JSON decode error",
        "input": {},
        "ctx": {"error": error.msg},
    }
