"""Every rpc of the public API, described once: which one, with what, and how its answer is read.

These are the methods of both clients: each makes a call through stubs on a channel of its own. Nothing here waits.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from grpc_health.v1 import health_pb2, health_pb2_grpc

from expertmesh.client import codec
from expertmesh.client.answers import Piece
from expertmesh.client.mesh import Load, LoadUpdate
from expertmesh.client.questions import Chat, Message, Output, Prompt, Sampling, ToolUse
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc, load_pb2, load_pb2_grpc
from expertmesh.wire.model_info import ModelInfo

T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")
Method = TypeVar("Method", bound=Callable[..., Any])


class Stubs:
    """The services of a gateway on a channel, be it of grpc or of grpc.aio."""

    def __init__(self, channel: Any) -> None:
        self.generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self.load = load_pb2_grpc.LoadServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)


@dataclass(frozen=True)
class Call(Generic[T_co]):
    """An rpc to be made; ``read`` turns its response, or each one of a stream, into what a caller gets."""

    rpc: Callable[[Stubs], Any]
    request: Any
    read: Callable[[Any], T_co]
    timeout_seconds: float | None


def generate(
    prompt: Prompt,
    sampling: Sampling = Sampling(),
    output: Output = Output(),
    *,
    timeout_seconds: float | None = None,
) -> Call[Piece]:
    """Continue raw text, or token ids."""
    request = codec.encode_generate(prompt, sampling, output)
    return Call(lambda stubs: stubs.generation.Generate, request, _read_piece, timeout_seconds)


def chat(
    messages: Chat,
    sampling: Sampling = Sampling(),
    output: Output = Output(),
    tools: ToolUse = ToolUse(),
    *,
    continue_final_message: bool = False,
    timeout_seconds: float | None = None,
) -> Call[Piece]:
    """Answer what a user says, or a conversation, oldest first; or go on with its last message, the assistant's."""
    request = codec.encode_chat(messages, sampling, output, tools, continue_final_message)
    return Call(lambda stubs: stubs.generation.Chat, request, _read_piece, timeout_seconds)


def _read_piece(response: pb.GenerateResponse | pb.ChatResponse) -> Piece:
    return codec.decode_delta(response.delta)


def tokenize(
    text: str | Iterable[tuple[str, str] | Message], *, timeout_seconds: float | None = None
) -> Call[list[int]]:
    """Return the ids of a raw text, or of a conversation in the template."""
    request = codec.encode_tokenize(text)
    return Call(
        lambda stubs: stubs.generation.Tokenize, request, lambda tokens: list(tokens.token_ids), timeout_seconds
    )


def detokenize(token_ids: Iterable[int], *, timeout_seconds: float | None = None) -> Call[str]:
    """Return the text of ids."""
    request = codec.encode_detokenize(token_ids)
    return Call(
        lambda stubs: stubs.generation.Detokenize, request, lambda response: str(response.text), timeout_seconds
    )


def model_info(*, timeout_seconds: float | None = None) -> Call[ModelInfo]:
    """Describe the served model."""
    request = pb.GetModelInfoRequest()
    return Call(lambda stubs: stubs.generation.GetModelInfo, request, codec.decode_info, timeout_seconds)


def load(*, timeout_seconds: float | None = None) -> Call[Load]:
    """Count what each expert and replica has done."""
    return Call(lambda stubs: stubs.load.GetLoad, load_pb2.GetLoadRequest(), codec.decode_load, timeout_seconds)


def watch_load(interval_seconds: float = 1.0, *, timeout_seconds: float | None = None) -> Call[LoadUpdate]:
    """Count what each expert and replica has done, at once and then every ``interval_seconds`` (0.1 to 60)."""
    request = codec.encode_watch(interval_seconds)
    return Call(lambda stubs: stubs.load.WatchLoad, request, codec.decode_update, timeout_seconds)


def health(*, timeout_seconds: float | None = None) -> Call[bool]:
    """Ask whether a gateway has all its experts."""
    request = health_pb2.HealthCheckRequest()
    return Call(lambda stubs: stubs.health.Check, request, _read_health, timeout_seconds)


def _read_health(response: health_pb2.HealthCheckResponse) -> bool:
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def documented(method: Method, call: Callable[..., Any], more: str = "") -> Method:
    """Give a method the words and parameters of the call that it makes, for ``help`` and editors."""
    signature = inspect.signature(call)
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    described: Any = method
    described.__signature__ = signature.replace(
        parameters=[first, *signature.parameters.values()], return_annotation=inspect.Signature.empty
    )
    described.__doc__ = f"{call.__doc__}{more}"
    return method
