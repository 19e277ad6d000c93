"""From when until when certificates are valid (RFC 5280, section 4.1.2.5). Knows DER as far as that needs, no trust."""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from expertmesh.errors import ConfigError

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
_VERSION = 0xA0  # explicit tag [0] of a certificate's first field, which the oldest lack
_UTC_TIME = 0x17  # two digits of the year, of which 50 and above are in the last century
_NUM_BEFORE_VALIDITY = 3  # serial number, signature algorithm, issuer


class Validity(NamedTuple):
    """The first and the last moment."""

    begin: datetime
    end: datetime


def validities(pem: bytes) -> list[Validity]:
    """Read the validity of each certificate in a PEM file; ConfigError for what only looks like one."""
    try:
        return [_validity(ssl.PEM_cert_to_DER_cert(text)) for text in _PEM.findall(pem.decode("latin-1"))]
    except (ValueError, IndexError) as error:
        raise ConfigError(f"a certificate cannot be read: {error}") from error


def _validity(der: bytes) -> Validity:
    [(_, certificate), *_] = _elements(der)
    [(_, signed), *_] = _elements(certificate)
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    begin, end = (_time(tag, content.decode("ascii")) for tag, content in _elements(fields[_NUM_BEFORE_VALIDITY]))
    return Validity(begin, end)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split DER into tags and contents."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:  # so many bytes of length follow
            num_bytes = length & 0x7F
            length, at = int.from_bytes(data[at : at + num_bytes]), at + num_bytes
        yield tag, data[at : at + length]
        at += length


def _time(tag: int, text: str) -> datetime:
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
