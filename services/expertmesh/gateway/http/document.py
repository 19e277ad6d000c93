"""The OpenAPI document. Knows how to describe what FastAPI cannot: the events of a stream."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from expertmesh.gateway.http.sse import MEDIA_TYPE

_REFERENCE = "#/components/schemas/{model}"


def describe_stream(event: type[BaseModel], example: str, end: str | None = None) -> dict[str, Any]:
    """Describe the content of a reply that is a stream of ``event``; the application's document must name them too.

    ``end`` is the last event where that is no JSON.
    """
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": _REFERENCE.format(model=event.__name__)},
    }
    if end is not None:
        data = {"anyOf": [data, {"const": end}]}
    schema = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {MEDIA_TYPE: {"schema": schema, "example": example}}


def make_document(app: FastAPI, events: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    """Describe the routes of ``app`` and the ``events`` that they stream."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, schemas = models_json_schema([(event, "serialization") for event in events], ref_template=_REFERENCE)
    document["components"]["schemas"].update(schemas["$defs"])
    return document
