"""What is behind an rpc that failed while both ends agreed on a connection. Knows gRPC's words for it, no rpc."""

_REMEDIES = (
    ("WRONG_VERSION_NUMBER", "it speaks no TLS, this end does; both or none would be right"),
    ("Hostname Verification Check failed", "its certificate has another name than the one expected of it"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not of an authority that this end trusts, or not valid now"),
)
_CLOSED = "Socket closed"
_CONNECTING = "failed to connect"
# A server tells a client in the clear nothing, and one with TLS 1.3 only after that has begun to talk.
_MAYBE_TLS = "it hung up, as a server does that speaks TLS: this end does not"
_MAYBE_REFUSED = "it hung up, as a server does that wants a certificate, or another one than this end shows"


def explain_failure(details: str | None, has_tls: bool) -> str:
    """Say what is wrong with TLS where an rpc failed with ``details``; empty when it is something else."""
    text = details or ""
    for words, remedy in _REMEDIES:
        if words in text:
            return remedy
    if _CONNECTING in text and _CLOSED in text:
        return _MAYBE_REFUSED if has_tls else _MAYBE_TLS
    return ""
