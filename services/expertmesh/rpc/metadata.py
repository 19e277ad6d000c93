"""Names of metadata keys that travel beside a call."""

FINGERPRINT_KEY = "expertmesh-fingerprint"
