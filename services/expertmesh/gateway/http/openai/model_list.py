"""GET /v1/models: the one that is served, by all its names."""

from fastapi import APIRouter, Response

from expertmesh.gateway.http.openai import replies
from expertmesh.gateway.http.openai.common import ERRORS
from expertmesh.gateway.http.openai.sampling import check_model
from expertmesh.gateway.http.schema import json_response
from expertmesh.gateway.http.service import Service, ServiceDep

router = APIRouter(tags=["OpenAI"])
_ERRORS = {status: ERRORS[status] for status in (401, 403, "default")}


@router.get("/v1/models", summary="List the models", response_model=replies.ModelList, responses=_ERRORS)
async def list_models(service: ServiceDep) -> Response:
    """List the served model, once for each of its names."""
    return json_response(replies.ModelList(data=[_describe(service, name) for name in service.names]))


@router.get(
    "/v1/models/{model:path}",
    summary="Describe a model",
    response_model=replies.Model,
    responses={**_ERRORS, 404: ERRORS[404]},
)
async def get_model(model: str, service: ServiceDep) -> Response:
    """Describe the served model by its name."""
    check_model(model, service.names)
    return json_response(_describe(service, model if model in service.names else service.names[0]))


def _describe(service: Service, name: str) -> replies.Model:
    return replies.Model(id=name, created=service.started, max_model_len=service.model.max_model_len)
