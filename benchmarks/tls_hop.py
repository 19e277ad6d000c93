"""Links with TLS beside links in the clear, and a certificate for them. Knows no time."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from servers import FINGERPRINT

from expertmesh.mesh.link import Link
from expertmesh.mesh.open_link import open_link
from expertmesh.rpc.tls import open_client
from expertmesh.settings.tls import ClientTls, ServerTls

HOST = "127.0.0.1"
CERT, KEY = "certificate.pem", "key.pem"
TRANSPORTS = {"grpc": "grpc", "TCP": "direct"}


@contextmanager
def certificate() -> Iterator[Path]:
    """Make a directory with a certificate that vouches for itself, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([])
    host = x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    signed = builder.add_extension(host, critical=True).sign(key, hashes.SHA256())
    encoding, clear = serialization.Encoding.PEM, serialization.NoEncryption()
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        (directory / CERT).write_bytes(signed.public_bytes(encoding))
        (directory / KEY).write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, clear))
        yield directory


def server_tls(directory: Path) -> ServerTls:
    """Have a server show the certificate and want it."""
    return ServerTls(directory / CERT, directory / KEY, directory / CERT)


def have_no_unix_sockets() -> None:
    """Have this process's direct links go over TCP, for want of a place for others."""
    tempfile.tempdir = "/nowhere"


@asynccontextmanager
async def paired_links(clear: str, secured: str, directory: Path) -> AsyncIterator[dict[str, tuple[Link, Link]]]:
    """Open links of each kind to two servers: one with TLS, then one in the clear."""
    tls = open_client(ClientTls(directory / CERT, directory / CERT, directory / KEY))
    with ExitStack() as stack:
        pairs = {}
        for name, transport in TRANSPORTS.items():
            pair = []
            for address, client in ((secured, tls), (clear, None)):
                link = await asyncio.to_thread(open_link, address, FINGERPRINT, transport, tls=client)
                stack.callback(link.link.close)
                pair.append(link.link)
            pairs[name] = (pair[0], pair[1])
        yield pairs
