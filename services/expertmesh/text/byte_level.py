"""The alphabet of byte-level tokenizers: one printable character for each byte (GPT-2's, Radford et al. 2019)."""


def _make_alphabet() -> dict[str, int]:
    """Printable characters of Latin-1 stand for their own bytes, those behind U+00FF for the other bytes in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    shown = {chr(0x100 + index): byte for index, byte in enumerate(others)}
    return {**{chr(byte): byte for byte in printable}, **shown}


ALPHABET = _make_alphabet()


def bytes_of(piece: str) -> bytes:
    """Return the bytes that a piece is written for; characters outside the alphabet stand for themselves."""
    return b"".join(bytes([ALPHABET[one]]) if one in ALPHABET else one.encode() for one in piece)
