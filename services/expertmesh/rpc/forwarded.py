"""Who is behind a proxy: whose X-Forwarded-For is believed. Knows addresses, not the transport they came with."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote

from expertmesh.errors import ConfigError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED_FOR_KEY, FORWARDED_PROTO_KEY = "x-forwarded-for", "x-forwarded-proto"
EVERYBODY = "*"


@dataclass(frozen=True)
class Proxies:
    """Those whose word on where a request came from is taken: of these networks, or all."""

    networks: tuple[Network, ...] = ()
    are_all: bool = False

    def __contains__(self, host: str) -> bool:
        address = _parse_address(host)
        return self.are_all or (address is not None and any(address in network for network in self.networks))

    def origin(self, peer: str, forwarded_for: Iterable[str]) -> str:
        """Return the address of who sent a request that came from ``peer``: the nearest that is no proxy.

        Each proxy adds who it got the request from at the end of ``forwarded_for``, the values of X-Forwarded-For.
        What is no address there is not believed, nor what stands before it.
        """
        origin = str(_parse_address(peer) or peer)
        for hop in reversed([hop.strip() for value in forwarded_for for hop in value.split(",")]):
            if origin not in self or _parse_address(_host_of(hop)) is None:
                break
            origin = str(_parse_address(_host_of(hop)))
        return origin


def parse_proxies(text: str) -> Proxies:
    """Read addresses and networks with commas between them, or * for everybody; ConfigError for anything else."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == [EVERYBODY]:
        return Proxies(are_all=True)
    try:
        return Proxies(tuple(map(ipaddress.ip_network, words)))
    except ValueError as error:
        raise ConfigError(
            f"--forwarded-allow-ips is {text!r}: {error}; addresses or networks such as 10.0.0.0/8, with commas "
            "between them, or * alone would be right"
        ) from None


def host_of_peer(peer: str) -> str:
    """Return the address in what gRPC calls a peer, such as ipv4:10.0.0.7:4711 or ipv6:%5B::1%5D:4711."""
    kind, _, address = unquote(peer).partition(":")
    host = _parse_address(_host_of(address)) if kind in ("ipv4", "ipv6") else None
    return kind if host is None else str(host)


def _host_of(text: str) -> str:
    """Leave out the port that may follow an address."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, _, port = text.rpartition(":")
    return host if port and host and ":" not in host else text


def _parse_address(text: str) -> Address | None:
    """Read an address; one of IPv4 that came over IPv6, by a socket that has both, is of IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
