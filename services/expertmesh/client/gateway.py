"""A typed client of a gateway. Knows the public messages, needs no torch."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from expertmesh.errors import GatewayError, InvalidRequestError
from expertmesh.rpc.channels import open_channel
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc, load_pb2, load_pb2_grpc


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; None leaves a field to the gateway. Meanings are those of generation.proto."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None


@dataclass(frozen=True)
class Answer:
    """A piece of an answer. ``finish_reason`` ("stop" or "length") and the counts come with the last piece."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    num_prompt_tokens: int
    num_output_tokens: int


FINISH_REASONS = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_STOP_SEQUENCE: "stop_sequence",
    pb.FINISH_REASON_LENGTH: "length",
}


class GatewayClient:
    """Talks to the gateway at ``endpoint`` (host:port); use it in ``async with``.

    Every method raises InvalidRequestError when the gateway refuses a value, and GatewayError when the gateway cannot
    be reached or fails.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._channel = open_channel(endpoint)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._load = load_pb2_grpc.LoadServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connection."""
        await self._channel.close(None)

    async def generate(self, prompt: str | Sequence[int], sampling: Sampling = Sampling()) -> AsyncGenerator[Answer]:  # noqa: B008
        """Continue raw text, or token ids."""
        request = pb.GenerateRequest(sampling=_encode_sampling(sampling))
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.token_ids.ids.extend(prompt)
        with self._errors():
            async for response in self._generation.Generate(request):
                yield _decode_delta(response.delta)

    async def chat(
        self,
        messages: Iterable[tuple[str, str]],
        sampling: Sampling = Sampling(),  # noqa: B008
    ) -> AsyncGenerator[Answer]:
        """Answer a conversation of (role, content), oldest first."""
        request = pb.ChatRequest(messages=_encode_messages(messages), sampling=_encode_sampling(sampling))
        with self._errors():
            async for response in self._generation.Chat(request):
                yield _decode_delta(response.delta)

    async def model_info(self) -> pb.GetModelInfoResponse:
        """Describe the served model."""
        with self._errors():
            info: pb.GetModelInfoResponse = await self._generation.GetModelInfo(pb.GetModelInfoRequest())
        return info

    async def load(self) -> load_pb2.GetLoadResponse:
        """Count what each expert and replica has done."""
        with self._errors():
            load: load_pb2.GetLoadResponse = await self._load.GetLoad(load_pb2.GetLoadRequest())
        return load

    async def is_serving(self) -> bool:
        """Tell whether the gateway can be reached and all its experts are there."""
        try:
            response = await self._health.Check(health_pb2.HealthCheckRequest())
        except grpc.aio.AioRpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise InvalidRequestError(error.details() or "invalid request") from None
            raise GatewayError(f"gateway {self.endpoint}: {error.code().name}: {error.details()}") from None


def _encode_sampling(sampling: Sampling) -> pb.SamplingParams:
    values = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    try:
        return pb.SamplingParams(**{name: value for name, value in values.items() if value is not None})
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(f"sampling: {error}") from None


def _encode_messages(messages: Iterable[tuple[str, str]]) -> list[pb.ChatMessage]:
    return [pb.ChatMessage(role=role, content=content) for role, content in messages]


def _decode_delta(delta: pb.Delta) -> Answer:
    return Answer(
        text=delta.text,
        token_ids=tuple(delta.token_ids),
        finish_reason=FINISH_REASONS.get(delta.finish_reason),
        num_prompt_tokens=delta.usage.prompt_tokens,
        num_output_tokens=delta.usage.completion_tokens,
    )
