"""A typed client of a gateway: ``Client`` for ordinary code, ``AsyncClient`` for asyncio, with the same methods."""

from expertmesh.client.answers import (
    Answer,
    FinishReason,
    Piece,
    TokenLogprob,
    TokenLogprobs,
    ToolCallPiece,
    put_together,
)
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
from expertmesh.client.questions import (
    Chat,
    JsonObject,
    JsonSchema,
    Message,
    Output,
    Prompt,
    Regex,
    ResponseFormat,
    Sampling,
    Tool,
    ToolCall,
    ToolUse,
)
from expertmesh.client.retry import RetryPolicy
from expertmesh.client.sync_client import Client
from expertmesh.settings.tls import ClientTls
from expertmesh.wire.model_info import ModelInfo

__all__ = [
    "Answer",
    "AsyncClient",
    "Chat",
    "Client",
    "ClientTls",
    "ExpertLoad",
    "ExpertRates",
    "FinishReason",
    "GatewayLoad",
    "JsonObject",
    "JsonSchema",
    "Load",
    "LoadRates",
    "LoadUpdate",
    "Message",
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
    "Tool",
    "ToolCall",
    "ToolCallPiece",
    "ToolUse",
    "put_together",
]
