"""Headers of frames as they lie on a socket, also such as no end of a link would send."""

import struct


def header_bytes(**fields: object) -> bytes:
    """Pack the header of a float32 CALL, all sizes 0, with ``fields`` instead."""
    names = (
        "magic",
        "version",
        "kind",
        "dtype",
        "code",
        "call_id",
        "layer",
        "rows",
        "width",
        "chosen",
        "text",
        "place",
    )
    values = dict.fromkeys(names, 0) | {"magic": b"XMLK", "version": 1, "kind": 3, "dtype": 1} | fields
    return struct.pack("<4sBBBBQIIIIIIQQ", *values.values(), 0, 0)
