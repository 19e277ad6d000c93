"""The HTTP application: which routes there are and what surrounds them. Knows no endpoint's work."""

from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from expertmesh.gateway.http import system
from expertmesh.gateway.http.auth import KeyCheck
from expertmesh.gateway.http.body import BodyLimit
from expertmesh.gateway.http.document import make_document
from expertmesh.gateway.http.errors import add_error_handlers
from expertmesh.gateway.http.openai import chat, completions, model_list, tokenize
from expertmesh.gateway.http.openai.replies import ChatCompletionChunk, Completion
from expertmesh.gateway.http.openai.responses import routes as responses
from expertmesh.gateway.http.openai.responses.events import ResponseStreamEvent
from expertmesh.gateway.http.other_forms import OtherForms
from expertmesh.gateway.http.request_limit import RequestLimit
from expertmesh.gateway.http.service import HttpConfig, Service
from expertmesh.gateway.http.tgi import routes as tgi
from expertmesh.gateway.http.tgi.models import StreamEvent
from expertmesh.gateway.http.unknown_paths import refuse_unknown
from expertmesh.rpc.metadata import REQUEST_ID_KEY

OPEN_ROUTERS = (system.router,)
KEYED_ROUTERS = (
    chat.router,
    responses.router,
    completions.router,
    model_list.router,
    tokenize.router,
    tgi.router,
)

DESCRIPTION = """
Text generation by one model, in the shape of OpenAI's API and of Text Generation Inference (TGI).

A field that is not listed, or that asks for something that is not supported, is refused by name.
"""


def make_app(service: Service, config: HttpConfig, more_routers: Iterable[APIRouter] = ()) -> FastAPI:
    """Put the application together, with ``more_routers`` that need no key where scopes.py opens their paths.

    There are no documentation pages: theirs would load from elsewhere.
    """
    app = FastAPI(
        title="expertmesh",
        version=version("expertmesh"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    open_routers = (*OPEN_ROUTERS, *more_routers)
    for router in open_routers:
        app.include_router(router)
    bearer = HTTPBearer(auto_error=False, description="An API key, where the gateway was started with keys.")
    for router in KEYED_ROUTERS:
        app.include_router(router, dependencies=[Security(bearer)])
    app.openapi = partial(_document, app)  # type: ignore[method-assign]  # the way FastAPI documents
    app.router.default = refuse_unknown(_paths((*open_routers, *KEYED_ROUTERS)))
    add_error_handlers(app)
    _add_middleware(app, config)
    return app


def _paths(routers: Iterable[APIRouter]) -> Iterator[str]:
    return (route.path for router in routers for route in router.routes if isinstance(route, Route))


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = make_document(app, (ChatCompletionChunk, Completion, ResponseStreamEvent, StreamEvent))
    return app.openapi_schema


def _add_middleware(app: FastAPI, config: HttpConfig) -> None:
    """Surround the routes; what is added last comes first."""
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes)
    app.add_middleware(RequestLimit, max_requests=config.max_requests)
    app.add_middleware(KeyCheck, access=config.access)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=("Retry-After", REQUEST_ID_KEY),
        )
    app.add_middleware(OtherForms)
