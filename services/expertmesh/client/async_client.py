"""The client for asyncio. Knows how to await a call, not what it says."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from expertmesh.client import calls
from expertmesh.client.answers import Answer, Piece, put_together
from expertmesh.client.calls import Call, Stubs, documented
from expertmesh.client.connection import Connection
from expertmesh.client.retry import RetryPolicy
from expertmesh.errors import GatewayError
from expertmesh.rpc.channels import open_channel
from expertmesh.settings.tls import ClientTls

P = ParamSpec("P")
T = TypeVar("T")


def _streamed(make: Callable[P, Call[T]]) -> Callable[Concatenate["AsyncClient", P], AsyncGenerator[T]]:
    def method(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T]:
        return client._stream(make(*args, **kwargs))

    return documented(method, make, " Yields pieces as they come; closing the iterator early ends the request.")


def _collected(
    make: Callable[P, Call[Piece]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, list[Answer]]]:
    def method(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, list[Answer]]:
        return client._collect(make(*args, **kwargs))

    return documented(method, make, " Returns the ``output.n`` whole answers.")


def _asked(make: Callable[P, Call[T]]) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    def method(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return client._ask(make(*args, **kwargs))

    return documented(method, make)


class AsyncClient:
    """Talks to the gateway at ``endpoint`` (host:port) from one event loop; use it in ``async with``.

    A call that takes longer than ``timeout_seconds`` (its own, else the client's, else it may take forever) ends with
    GatewayTimeoutError. With ``tls`` it talks over TLS, with the files as they are when this is made; ConfigError when
    one cannot be used. Every method raises InvalidRequestError when a value is refused, ApiKeyError when the key is,
    GatewayBusyError when the gateway's queue stays full, and GatewayError when it cannot be reached or fails.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float | None = None,
        retries: RetryPolicy = RetryPolicy(),
        tls: ClientTls = ClientTls(),
    ) -> None:
        self.endpoint = endpoint
        self._connection = Connection(endpoint, api_key, timeout_seconds, retries, tls)
        self._channel = open_channel(endpoint, self._connection.tls, self._connection.options)
        self._stubs = Stubs(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connection; calls in flight are cancelled."""
        await self._channel.close(None)

    generate = _streamed(calls.generate)
    generate_answers = _collected(calls.generate)
    chat = _streamed(calls.chat)
    chat_answers = _collected(calls.chat)
    tokenize = _asked(calls.tokenize)
    detokenize = _asked(calls.detokenize)
    model_info = _asked(calls.model_info)
    load = _asked(calls.load)
    watch_load = _streamed(calls.watch_load)

    async def is_serving(self) -> bool:
        """Tell whether the gateway can be reached and all its experts are there."""
        try:
            return await self._ask(calls.health())
        except GatewayError:
            return False

    async def _ask(self, call: Call[T]) -> T:
        with self._connection.errors():
            return call.read(await call.rpc(self._stubs)(call.request, **self._connection.arguments(call)))

    async def _stream(self, call: Call[T]) -> AsyncGenerator[T]:
        running = call.rpc(self._stubs)(call.request, **self._connection.arguments(call))
        try:
            with self._connection.errors():
                async for response in running:
                    yield call.read(response)
        finally:
            running.cancel()

    async def _collect(self, call: Call[Piece]) -> list[Answer]:
        async with aclosing(self._stream(call)) as pieces:
            return put_together([piece async for piece in pieces])
