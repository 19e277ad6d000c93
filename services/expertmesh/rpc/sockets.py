"""Addresses to listen on. Knows host:port, not what is served there."""

import resource
import socket

from expertmesh.errors import ConfigError

# Beside sockets of clients: logs, libraries, sockets of other processes.
NUM_OTHER_FILES = 256


def allow_sockets(num_sockets: int) -> None:
    """Let this process have so many sockets open, as far as it may raise its own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_sockets + NUM_OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(address: str, shares_port: bool = False) -> socket.socket:
    """Listen on ``address`` (host:port, port 0 for a free one); ConfigError when it is no address or taken.

    Sockets that all ``shares_port`` may listen on the same one, and get a part of the connections each.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, reuse_port=shares_port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error}") from error


def split_address(address: str) -> tuple[str, int]:
    """Return host, without the brackets of IPv6, and port of an address to listen on; ConfigError when it is none."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise ConfigError(f"cannot listen on {address!r}; host:port, such as 0.0.0.0:50051, would be right")
    return host.removeprefix("[").removesuffix("]"), int(port)


def with_port(address: str, port: int) -> str:
    """Return ``address`` with the port that was bound, as host:port."""
    return f"{address.rpartition(':')[0]}:{port}"


def free_port() -> int:
    """Find a TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
