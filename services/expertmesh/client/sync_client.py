"""The client for ordinary code. Knows how to wait for a call, not what it says."""

from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from expertmesh.client import calls
from expertmesh.client.answers import Answer, Piece, put_together
from expertmesh.client.calls import Call, Stubs, documented
from expertmesh.client.connection import Connection
from expertmesh.client.retry import RetryPolicy
from expertmesh.errors import GatewayError
from expertmesh.rpc.channels import open_blocking_channel
from expertmesh.settings.tls import ClientTls

P = ParamSpec("P")
T = TypeVar("T")


def _streamed(make: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], Generator[T]]:
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        return client._stream(make(*args, **kwargs))

    return documented(method, make, " Yields pieces as they come; leaving the iterator early ends the request.")


def _collected(make: Callable[P, Call[Piece]]) -> Callable[Concatenate["Client", P], list[Answer]]:
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> list[Answer]:
        return client._collect(make(*args, **kwargs))

    return documented(method, make, " Returns the ``output.n`` whole answers.")


def _asked(make: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client._ask(make(*args, **kwargs))

    return documented(method, make)


class Client:
    """Talks to the gateway at ``endpoint`` (host:port) from any thread; use it in ``with``.

    Methods, arguments and errors are those of ``AsyncClient``; nothing is awaited.
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
        self._channel = open_blocking_channel(endpoint, self._connection.tls, self._connection.options)
        self._stubs = Stubs(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; calls in flight are cancelled."""
        self._channel.close()

    generate = _streamed(calls.generate)
    generate_answers = _collected(calls.generate)
    chat = _streamed(calls.chat)
    chat_answers = _collected(calls.chat)
    tokenize = _asked(calls.tokenize)
    detokenize = _asked(calls.detokenize)
    model_info = _asked(calls.model_info)
    load = _asked(calls.load)
    watch_load = _streamed(calls.watch_load)

    def is_serving(self) -> bool:
        """Tell whether the gateway can be reached and all its experts are there."""
        try:
            return self._ask(calls.health())
        except GatewayError:
            return False

    def _ask(self, call: Call[T]) -> T:
        with self._connection.errors():
            return call.read(call.rpc(self._stubs)(call.request, **self._connection.arguments(call)))

    def _stream(self, call: Call[T]) -> Generator[T]:
        running = call.rpc(self._stubs)(call.request, **self._connection.arguments(call))
        try:
            with self._connection.errors():
                for response in running:
                    yield call.read(response)
        finally:
            running.cancel()

    def _collect(self, call: Call[Piece]) -> list[Answer]:
        with closing(self._stream(call)) as pieces:
            return put_together(pieces)
