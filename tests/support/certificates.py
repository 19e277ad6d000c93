"""Certificates of tests, made on the spot: an authority, and what it issues, as PEM files."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from expertmesh.settings.tls import ClientTls, ServerTls

DAY = timedelta(days=1)
EXPERTS, GATEWAY = "experts.test", "gateway.test"
SPIFFE = "spiffe://test/gateway"


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Issues certificates into ``directory``; ``ca`` is its own."""

    def __init__(self, directory: Path, name: str = "authority", **validity: datetime) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca = directory / f"{name}.pem"
        certificate = self._sign(self._name, self._key, (), is_authority=True, **validity)
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, file: str, names: Sequence[str] = (EXPERTS, "127.0.0.1"), password: bytes = b"", **validity: datetime
    ) -> Issued:
        """Issue a certificate for DNS names, URIs and IP addresses, as FILE.pem and FILE.key; others are replaced."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file)])
        certificate = self._sign(subject, key, names, **validity)
        issued = Issued(self._directory / f"{file}.pem", self._directory / f"{file}.key")
        hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        replace_file(issued.cert, certificate.public_bytes(serialization.Encoding.PEM))
        replace_file(issued.key, key.private_bytes(*formats, hidden))
        return issued

    def server(self, file: str = "experts", client_ca: Path | None = None, allow: Sequence[str] = ()) -> ServerTls:
        """Make settings of a server that wants certificates of this authority, or of another one."""
        issued = self.issue(file)
        return ServerTls(issued.cert, issued.key, client_ca or self.ca, tuple(allow))

    def client(self, file: str = "gateway", names: Sequence[str] = (GATEWAY,), **more: str) -> ClientTls:
        """Make settings of a client that has a certificate with such names."""
        issued = self.issue(file, names)
        return ClientTls(self.ca, issued.cert, issued.key, **more)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: Sequence[str],
        is_authority: bool = False,
        begin: datetime | None = None,
        end: datetime | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin or now - DAY)
            .not_valid_after(end or now + DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


def replace_file(path: Path, data: bytes) -> None:
    """Write a new file in the place of an old one, as Kubernetes does: nobody reads half of it."""
    new = path.with_suffix(f"{path.suffix}.new")
    new.write_bytes(data)
    new.replace(path)


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
