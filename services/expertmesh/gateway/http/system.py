"""Routes about the process: is it alive, is it ready, what is it. Knows no shape of anybody's API."""

from importlib.metadata import version

from fastapi import APIRouter, Response
from pydantic import Field

from expertmesh.errors import StillLoadingError
from expertmesh.gateway.http.schema import ReplyModel, json_response
from expertmesh.gateway.http.service import ServiceDep

router = APIRouter(tags=["system"])


class Status(ReplyModel):
    """State of the process."""

    status: str = Field(description="In one word.", examples=["ok"])


class Readiness(Status):
    """Whether requests can be answered, and what is in the way."""

    missing_experts: tuple[int, ...] = Field((), description="Experts that have no replica.", examples=[[3]])


class Version(ReplyModel):
    """Version of the software."""

    version: str = Field(examples=["0.1.0"])


@router.get(
    "/health",
    summary="Is the process alive, and its model loaded?",
    response_model=Status,
    responses={503: {"model": Status, "description": "The model is still loading."}},
)
async def get_health(service: ServiceDep) -> Response:
    """Answer 200 from the moment the model is loaded, whatever the state of the experts."""
    try:
        service.get_model()
    except StillLoadingError:
        return json_response(Status(status="loading"), status=503)
    return json_response(Status(status="ok"))


@router.get(
    "/ready",
    summary="Can requests be answered?",
    response_model=Status,
    responses={
        503: {
            "model": Readiness,
            "description": "An expert has no replica, the engine is not there, or the gateway is draining.",
        }
    },
)
async def get_ready(service: ServiceDep) -> Response:
    """Answer 200 while every expert has a replica, until draining begins; the same state as gRPC's health service."""
    if service.is_ready():
        return json_response(Status(status="ready"))
    return json_response(Readiness(status="not ready", missing_experts=tuple(service.get_missing())), status=503)


@router.get("/version", summary="Which version is this?", response_model=Version)
async def get_version() -> Response:
    """Return the version of the gateway's software."""
    return json_response(Version(version=version("expertmesh")))
