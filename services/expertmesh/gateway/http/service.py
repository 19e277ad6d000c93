"""What the routes of every shape work with. Knows the generator and its model, not their replies."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Request

from expertmesh.gateway.access import Access
from expertmesh.gateway.callers import Callers
from expertmesh.gateway.generator import Origin, TextGenerator
from expertmesh.gateway.http.forwarded import client_of
from expertmesh.gateway.http.request_ids import request_id_of
from expertmesh.model.sampling import SamplingParams
from expertmesh.rpc.metadata import API_KEY_KEY, TRACEPARENT_KEY
from expertmesh.wire.model_info import ModelInfo


@dataclass(frozen=True)
class HttpConfig:
    """Who may call, and how much at once. Without ``cors_origins`` browsers of other origins may not."""

    access: Access
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 * 2**20
    max_requests: int = 1000


@dataclass(frozen=True)
class Service:
    """A model that generates under ``names``; ``defaults`` stand for what a request does not set.

    ``started`` is in Unix seconds.
    ``get_model`` raises StillLoadingError before the model is known; ``get_missing`` names experts without a replica.
    """

    generator: TextGenerator
    get_model: Callable[[], ModelInfo]
    defaults: SamplingParams
    is_ready: Callable[[], bool]
    names: tuple[str, ...]
    callers: Callers
    get_missing: Callable[[], Sequence[int]] = lambda: ()
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def model(self) -> ModelInfo:
        """What is served; StillLoadingError before that is known."""
        return self.get_model()


async def get_service(request: Request) -> Service:
    """Find the service that the application was made for, to work for the caller, under its span where it sent one."""
    service: Service = request.app.state.service
    origin = Origin(
        service.callers.caller_of(request.headers.get(API_KEY_KEY), client_of(request.scope)),
        request.headers.get(TRACEPARENT_KEY, ""),
        request_id_of(request.scope),
    )
    return replace(service, generator=service.generator.under(origin))


ServiceDep = Annotated[Service, Depends(get_service)]
