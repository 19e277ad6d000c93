"""Headers of frames as they lie on a socket, also such as no end of a link would send."""

import struct

from expertmesh.wire.checksum import checksum


def header_bytes(body: bytes = b"", **fields: object) -> bytes:
    """Pack the header of a float32 CALL, all sizes 0, with ``fields`` instead, and the checksums of it and ``body``."""
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
    values = dict.fromkeys(names, 0) | {"magic": b"XMLK", "version": 2, "kind": 3, "dtype": 1} | fields
    header = struct.pack("<4sBBBBQIIIIIIQQI", *values.values(), 0, 0, checksum([body]))
    return header + struct.pack("<I", checksum([header]))
