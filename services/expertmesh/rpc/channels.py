"""How two processes of expertmesh talk: limits, keepalive, channels. Knows no service."""

from typing import Any

import grpc
import grpc.aio

from expertmesh.rpc.tls import TlsClient

# A prefill chunk of 512 rows of Mixtral in float32 is 8 MiB; gRPC itself would stop at 4.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_SECONDS = 30
KEEPALIVE_TIMEOUT_SECONDS = 10

LIMIT_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)
Options = tuple[tuple[str, Any], ...]
CHANNEL_OPTIONS: Options = (
    *LIMIT_OPTIONS,
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A replica that restarts is found again within seconds; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # In spite of its name the time that an attempt to connect has, handshakes included.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # Calls inside a cluster do not go through the proxy that http_proxy names.
    ("grpc.enable_http_proxy", 0),
)


def open_channel(endpoint: str, tls: TlsClient | None = None, options: Options = CHANNEL_OPTIONS) -> grpc.aio.Channel:
    """Open a channel to ``endpoint`` (host:port), to be used in ``async with``; it connects at the first call."""
    if tls is None:
        return grpc.aio.insecure_channel(endpoint, options=options)
    return grpc.aio.secure_channel(endpoint, tls.credentials(), options=(*options, *tls.options))


def open_blocking_channel(
    endpoint: str, tls: TlsClient | None = None, options: Options = CHANNEL_OPTIONS
) -> grpc.Channel:
    """Open a channel for calls that block; it connects at the first."""
    if tls is None:
        return grpc.insecure_channel(endpoint, options=options)
    return grpc.secure_channel(endpoint, tls.credentials(), options=(*options, *tls.options))
