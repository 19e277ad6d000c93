"""EndpointSlices of Kubernetes as endpoints. Knows the fields of a slice, not how slices arrive.

Source: the API reference of discovery.k8s.io/v1. Slices are plain JSON objects.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from expertmesh.discovery.endpoints import Endpoints

Slice = dict[str, Any]


def merge_slices(slices: Iterable[Slice], port_name: str) -> Endpoints:
    """Join slices, of one Service or several; an address that is eligible in one of them is eligible.

    An endpoint that is neither ready nor terminating, or that has no port of this name, is left out.
    """
    states = [state for one in slices for state in _states(one, port_name)]
    eligible = frozenset(address for address, is_eligible in states if is_eligible)
    return Endpoints(eligible, frozenset(address for address, _ in states) - eligible)


def _states(one: Slice, port_name: str) -> Iterator[tuple[str, bool]]:
    """Yield the address of each endpoint that is eligible (True) or finishes its calls (False)."""
    # The API writes null for an empty list, here and below.
    ports = [port["port"] for port in one.get("ports") or () if port.get("name") == port_name and port.get("port")]
    for endpoint in one.get("endpoints") or () if ports else ():
        conditions = endpoint.get("conditions") or {}
        # Unknown (absent or null) means ready, and serving follows ready.
        is_ready = conditions.get("ready") is not False
        if conditions.get("terminating"):
            # A Service that publishes addresses that are not ready calls terminating ones ready, too.
            if is_ready if conditions.get("serving") is None else conditions["serving"]:
                yield _address(endpoint, ports[0]), False
        elif is_ready:
            yield _address(endpoint, ports[0]), True


def _address(endpoint: dict[str, Any], port: int) -> str:
    # All addresses of an endpoint are the same pod; the first is the one to use.
    host = endpoint["addresses"][0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
