"""Names of metadata keys that travel beside a call."""

FINGERPRINT_KEY = "expertmesh-fingerprint"

API_KEY_KEY = "authorization"

# Milliseconds after which the client may try again; a negative number forbids it (gRFC A6).
RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"
NEVER_AGAIN = "-1"
