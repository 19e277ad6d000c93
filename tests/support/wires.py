"""Wires of ``faults.wires`` between a gateway and servers in this process, and bits that turn over on them."""

from collections.abc import Callable, Sequence

import pytest
from faults.wires import ANSWERS, CALLS, Harm, Wires

from expertmesh.mesh import open_link as opening

__all__ = ["ANSWERS", "CALLS", "Wires", "lay_direct", "turn_bits_over"]


def lay_direct(wires: Wires, monkeypatch: pytest.MonkeyPatch, is_harmed: Callable[[str], bool]) -> None:
    """Have the sockets of direct links to endpoints that are to be harmed go through ``wires``."""
    dial = opening._dial

    def dial_through(offer, endpoint):
        connection = dial(offer, endpoint)
        return wires.through(connection) if is_harmed(endpoint) else connection

    monkeypatch.setattr(opening, "_dial", dial_through)


def turn_bits_over(which: Sequence[str], every: int, min_bytes: int) -> Harm:
    """Make what turns one bit over in the middle of every so-manieth long piece of ``which``."""
    counts = dict.fromkeys((CALLS, ANSWERS), 0)

    def harm(direction: str, data: bytes) -> bytes:
        if direction not in which or len(data) < min_bytes:
            return data
        counts[direction] += 1
        if counts[direction] % every:
            return data
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]

    return harm
