"""Settings of TLS and their flags: which files each end shows and trusts. Knows paths and names, not what they hold."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from expertmesh.errors import ConfigError
from expertmesh.settings.flags import TLS, Flag, setting

_CERT = Flag(
    TLS,
    "TLS_CERT",
    "Serve over TLS with the certificate in this PEM file, those between it and the authority after it. Changed files "
    "are read again, here and below. Default: no TLS.",
)
_KEY = Flag(TLS, "TLS_KEY", "PEM file of its key, without a password.")
_CLIENT_CA = Flag(
    TLS, "TLS_CLIENT_CA", "Take only callers with a certificate of an authority in this PEM file. Default: everybody."
)
_IDENTITY = Flag(
    TLS,
    "ALLOW_IDENTITY",
    "Of these, take only callers whose certificate has this name, of DNS or a URI such as spiffe://DOMAIN/PATH; may be "
    "repeated (in the environment: separated by spaces). Default: every one.",
)


@dataclass(frozen=True)
class ServerTls:
    """What a server shows, and of whom it wants the same; without ``cert`` it serves in the clear.

    With ``client_ca`` a caller needs a certificate of an authority there; with ``allow_identity``, one of these names
    among its subject alternative names (RFC 5280 section 4.2.1.6). ConfigError for settings that make no sense.
    """

    cert: Path | None = setting(None, _CERT)
    key: Path | None = setting(None, _KEY)
    client_ca: Path | None = setting(None, _CLIENT_CA)
    allow_identity: tuple[str, ...] = setting((), _IDENTITY)

    def __post_init__(self) -> None:
        _check_pair("--tls-cert", self.cert, "--tls-key", self.key)
        if self.client_ca and not self.cert:
            raise ConfigError(f"--tls-client-ca is {self.client_ca}, but there is no --tls-cert to serve TLS with")
        if self.allow_identity and not self.client_ca:
            raise ConfigError(f"--allow-identity is {self.allow_identity[0]}; without --tls-client-ca nobody shows one")
        for name in self.allow_identity:
            _check_identity(name)


@dataclass(frozen=True)
class ClientTls:
    """Whom a client trusts, and what it shows; without ``ca`` it calls in the clear.

    ``ca``, ``cert`` and ``key`` are PEM files: the authorities, and the client's own certificate with its key for
    servers that want one. The server's certificate must have ``server_name``; None expects the host that is called.
    ConfigError for settings that make no sense.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        prefix = self.flag_prefix()
        _check_pair(f"--{prefix}cert", self.cert, f"--{prefix}key", self.key)
        for flag, value in (("cert", self.cert), ("server-name", self.server_name)):
            if value and not self.ca:
                raise ConfigError(f"--{prefix}{flag} is {value}, but there is no --{prefix}ca: this end speaks no TLS")

    @staticmethod
    def flag_prefix() -> str:
        """Return what the names of these settings begin with on a command line."""
        return ""


@dataclass(frozen=True)
class ExpertsTls(ClientTls):
    """How a gateway calls expert servers."""

    ca: Path | None = setting(
        None,
        Flag(
            TLS,
            "EXPERTS_CA",
            "Call expert servers over TLS, and trust the authorities in this PEM file. Default: no TLS.",
        ),
    )
    cert: Path | None = setting(
        None, Flag(TLS, "EXPERTS_CERT", "PEM file of the certificate to show to expert servers.")
    )
    key: Path | None = setting(None, Flag(TLS, "EXPERTS_KEY", "PEM file of its key, without a password."))
    server_name: str | None = setting(
        None,
        Flag(
            TLS,
            "EXPERTS_SERVER_NAME",
            "Name that the certificates of expert servers have, whatever their address. Default: the host that is "
            "called, which with kubernetes:// and dns:// is an IP address.",
        ),
    )

    @staticmethod
    def flag_prefix() -> str:
        """See ``ClientTls``."""
        return "experts-"


def _check_pair(cert_flag: str, cert: Path | None, key_flag: str, key: Path | None) -> None:
    if bool(cert) != bool(key):
        given, missing = (f"{cert_flag} is {cert}", key_flag) if cert else (f"{key_flag} is {key}", cert_flag)
        raise ConfigError(f"{given}, but there is no {missing}; a certificate and its key belong together")


def _check_identity(name: str) -> None:
    """Refuse what no subject alternative name of these kinds equals."""
    if "*" in name or name != "".join(name.split()) or not name or _is_ip(name):
        raise ConfigError(
            f"--allow-identity is {name!r}; a whole DNS name or a URI, such as spiffe://example.org/gateway, would be"
            " right"
        )


def _is_ip(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
