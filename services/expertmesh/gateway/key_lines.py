"""The text of API keys: a line of a key file, a word of a flag. Knows no file, and repeats no secret in an error.

A line is the key, or ``sha256:`` and the hexadecimal SHA-256 of it, and what is known of it:

    sha256:78faaa376d1400cb6a3573e29c1c7d849830f05975af236fd66362914775c6df name=anna scopes=generate expires=2030-01-31
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from expertmesh.errors import ConfigError
from expertmesh.gateway.keys import Key, Scope, digest_of

HASHED = "sha256:"
NAME, SCOPES, EXPIRES = "name", "scopes", "expires"


def parse_words(secrets: Iterable[str]) -> tuple[Key, ...]:
    """Read the keys of ``--api-key``, which are plain; ConfigError for one that is no word."""
    checked = tuple(secrets)
    if any(not secret or secret != "".join(secret.split()) for secret in checked):
        raise ConfigError("a key of --api-key is empty or has spaces; a key is one word")
    return tuple(Key(digest_of(secret)) for secret in checked)


def parse_lines(text: str, source: str) -> tuple[Key, ...]:
    """Read the keys of a file, one a line, ``#`` begins a comment; ConfigError that names the line of ``source``."""
    keys: dict[bytes, tuple[int, Key]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := _words(line)):
            continue
        try:
            key = _parse_line(words)
        except ValueError as error:
            raise ConfigError(f"{source}, line {number}: {error}") from None
        first, _ = keys.setdefault(key.digest, (number, key))
        if first != number:
            raise ConfigError(f"{source}, line {number}: this is the key of line {first} again; one of them is right")
    if not keys:
        raise ConfigError(f"{source} holds no API key; one a line would be right")
    return tuple(key for _, key in keys.values())


def count_plain(text: str) -> int:
    """Count the lines that hold a key itself instead of its hash."""
    return sum(bool(words) and not words[0].startswith(HASHED) for words in map(_words, text.splitlines()))


def format_line(key: Key) -> str:
    """Write a key as the line that is read back as it."""
    fields = {NAME: key.name, SCOPES: ",".join(sorted(key.scopes)), EXPIRES: _format_time(key.expires)}
    return " ".join([HASHED + key.digest.hex(), *(f"{name}={value}" for name, value in fields.items() if value)])


def parse_name(text: str) -> str:
    """Check the name of a key, which metrics and logs show; ValueError for one that does not suit them."""
    if not re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", text):
        raise ValueError(f"name={text} is not 1 to 64 letters, digits or any of . _ @ -")
    return text


def parse_scopes(text: str) -> frozenset[Scope]:
    """Read scopes with commas between them; ValueError for one that there is not."""
    try:
        return frozenset(Scope(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"scopes={text}; {', '.join(Scope)} are those that there are, with commas between") from None


def parse_time(text: str) -> datetime:
    """Read a date, which is its first moment, or a time, of ISO 8601; without an offset it is in UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expires={text}; such as 2030-01-31 or 2030-01-31T12:00:00Z would be right") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


_PARSERS: dict[str, Any] = {NAME: parse_name, SCOPES: parse_scopes, EXPIRES: parse_time}


def _words(line: str) -> list[str]:
    return line.partition("#")[0].split()


def _parse_line(words: list[str]) -> Key:
    secret, *fields = words
    known: dict[str, Any] = {}
    for one in fields:
        name, equals, value = one.partition("=")
        if not equals or name not in _PARSERS or name in known:
            # It may be a part of a key that was written with spaces.
            raise ValueError(f"what follows the key is not {NAME}=, {SCOPES}= or {EXPIRES}=, each once at most")
        known[name] = _PARSERS[name](value)
    return Key(_parse_secret(secret), **known)


def _parse_secret(word: str) -> bytes:
    if not word.startswith(HASHED):
        return digest_of(word)
    digits = word.removeprefix(HASHED)
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
        raise ValueError(f"{HASHED} is not followed by the 64 hexadecimal digits of a hash")
    if (digest := bytes.fromhex(digits)) == digest_of(""):
        raise ValueError(f"this is the hash of nothing; {HASHED} and the hash of a key would be right")
    return digest


def _format_time(time: datetime | None) -> str:
    return "" if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")
