"""Names of metadata keys that travel beside a call."""

from collections.abc import Iterable

FINGERPRINT_KEY = "expertmesh-fingerprint"

API_KEY_KEY = "authorization"

# Milliseconds after which the client may try again; a negative number forbids it (gRFC A6).
RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"
NEVER_AGAIN = "-1"

# The caller's span, in the form of W3C Trace Context.
TRACEPARENT_KEY = "traceparent"


def traceparent(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the caller's span; empty when the metadata name none."""
    return next((str(value) for key, value in metadata or () if key == TRACEPARENT_KEY), "")
