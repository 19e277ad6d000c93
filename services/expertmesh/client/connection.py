"""What both clients share: where a gateway is, what goes with a call, and what a failed one raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from expertmesh.client.calls import Call
from expertmesh.client.retry import RetryPolicy
from expertmesh.errors import (
    ApiKeyError,
    ConfigError,
    GatewayBusyError,
    GatewayError,
    GatewayTimeoutError,
    InvalidRequestError,
)
from expertmesh.rpc.channels import CHANNEL_OPTIONS, Options
from expertmesh.rpc.metadata import API_KEY_KEY, RETRY_PUSHBACK_KEY
from expertmesh.rpc.tls import TlsClient, open_client
from expertmesh.rpc.tls_failures import explain_failure
from expertmesh.settings.tls import ClientTls

_ERRORS: dict[grpc.StatusCode, type[GatewayError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: GatewayTimeoutError,
    grpc.StatusCode.UNAUTHENTICATED: ApiKeyError,
    grpc.StatusCode.PERMISSION_DENIED: ApiKeyError,
}


@dataclass(frozen=True)
class Connection:
    """Where a gateway is and how to talk to it."""

    endpoint: str
    api_key: str | None
    timeout_seconds: float | None
    retries: RetryPolicy
    settings: ClientTls
    tls: TlsClient | None = field(init=False, repr=False)
    options: Options = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ConfigError("api_key is empty or has characters that a header cannot carry; printable ASCII would do")
        options = (*CHANNEL_OPTIONS, ("grpc.service_config", self.retries.service_config()))
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "tls", open_client(self.settings))

    def arguments(self, call: Call[Any]) -> dict[str, Any]:
        """Keyword arguments with which the rpc of a call is made; its own timeout goes before that of the client."""
        return {
            "timeout": self.timeout_seconds if call.timeout_seconds is None else call.timeout_seconds,
            "metadata": ((API_KEY_KEY, f"Bearer {self.api_key}"),) if self.api_key else (),
        }

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what fails in the body as an error of ours."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._translate(error) from None

    def _translate(self, error: Any) -> InvalidRequestError | GatewayError:
        code, details = error.code(), error.details() or "no details"
        if code == grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidRequestError(details)
        # Messages that are too large are RESOURCE_EXHAUSTED too; only a full queue says when to come back.
        is_busy = code == grpc.StatusCode.RESOURCE_EXHAUSTED and RETRY_PUSHBACK_KEY in dict(error.trailing_metadata())
        kind = GatewayBusyError if is_busy else _ERRORS.get(code, GatewayError)
        remedy = explain_failure(details, self.tls is not None)
        return kind(f"gateway {self.endpoint}: {code.name}: {details}{remedy and f': {remedy}'}")
