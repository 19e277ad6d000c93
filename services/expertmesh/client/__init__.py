"""A typed client of a gateway: ``Client`` for ordinary code, ``AsyncClient`` for asyncio, with the same methods."""

from expertmesh.client.answers import Answer, FinishReason, Piece, TokenLogprob, TokenLogprobs, put_together
from expertmesh.client.async_client import AsyncClient
from expertmesh.client.mesh import (
    ExpertLoad,
    ExpertRates,
    GatewayLoad,
    Load,
    LoadRates,
    LoadUpdate,
    ReplicaLoad,
    ReplicaState,
)
from expertmesh.client.questions import Chat, JsonObject, JsonSchema, Output, Prompt, Regex, ResponseFormat, Sampling
from expertmesh.client.retry import RetryPolicy
from expertmesh.client.sync_client import Client
from expertmesh.wire.model_info import ModelInfo

__all__ = [
    "Answer",
    "AsyncClient",
    "Chat",
    "Client",
    "ExpertLoad",
    "ExpertRates",
    "FinishReason",
    "GatewayLoad",
    "JsonObject",
    "JsonSchema",
    "Load",
    "LoadRates",
    "LoadUpdate",
    "ModelInfo",
    "Output",
    "Piece",
    "Prompt",
    "Regex",
    "ReplicaLoad",
    "ReplicaState",
    "ResponseFormat",
    "RetryPolicy",
    "Sampling",
    "TokenLogprob",
    "TokenLogprobs",
    "put_together",
]
