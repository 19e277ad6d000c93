"""Names of metadata keys that travel beside a call."""

from collections.abc import Iterable
from uuid import uuid4

FINGERPRINT_KEY = "expertmesh-fingerprint"

API_KEY_KEY = "authorization"

# Milliseconds after which the client may try again; a negative number forbids it (gRFC A6).
RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"
NEVER_AGAIN = "-1"

# The caller's span, in the form of W3C Trace Context.
TRACEPARENT_KEY = "traceparent"


# What a request is called where something is told of it, as a header of HTTP too.
REQUEST_ID_KEY = "x-request-id"
MAX_REQUEST_ID = 128

Metadata = Iterable[tuple[str, str | bytes]] | None


def traceparent(metadata: Metadata) -> str:
    """Return the caller's span; empty when the metadata name none."""
    return _find(metadata, TRACEPARENT_KEY)


def request_id(metadata: Metadata) -> str:
    """Return what the request is called; empty when the metadata do not say."""
    return _find(metadata, REQUEST_ID_KEY)


def authorization(metadata: Metadata) -> str:
    """Return what shows who calls, ``Bearer KEY``; empty when the metadata do not say."""
    return _find(metadata, API_KEY_KEY)


def choose_request_id(given: str) -> str:
    """Return the name that a caller gave a request if it is 1 to 128 printable ASCII characters, else a new one."""
    is_sane = 0 < len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable()
    return given if is_sane else uuid4().hex


def values(metadata: Metadata, wanted: str) -> tuple[str, ...]:
    """Return every value of a key."""
    return tuple(str(value) for key, value in metadata or () if key == wanted)


def _find(metadata: Metadata, wanted: str) -> str:
    return next(iter(values(metadata, wanted)), "")
