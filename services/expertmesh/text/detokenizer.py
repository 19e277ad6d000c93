"""Text from ids as they come. Knows the bytes of tokens, not requests."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

REPLACEMENT = "\ufffd"


class TokenTexts(Protocol):
    """What a tokenizer says of its ids."""

    def is_control(self, token_id: int) -> bool:
        """Whether an id has no text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of an id in the middle of a text."""
        ...

    def drops_space(self, token_id: int) -> bool:
        """Whether an id that begins a text loses the space before it."""
        ...


class NamedTexts(TokenTexts, Protocol):
    """What a tokenizer says of its ids, names included."""

    def piece(self, token_id: int) -> str:
        """Name of an id."""
        ...


class NamedControls:
    """The texts of a tokenizer, with names for the ids that have none."""

    def __init__(self, tokenizer: NamedTexts) -> None:
        self._tokenizer = tokenizer

    def is_control(self, token_id: int) -> bool:
        """See ``TokenTexts``."""
        return False

    def token_bytes(self, token_id: int) -> bytes:
        """See ``TokenTexts``."""
        if self._tokenizer.is_control(token_id):
            return self._tokenizer.piece(token_id).encode()
        return self._tokenizer.token_bytes(token_id)

    def drops_space(self, token_id: int) -> bool:
        """See ``TokenTexts``."""
        return self._tokenizer.drops_space(token_id)


class Detokenizer:
    """Decodes a stream of ids: what ``push`` and ``flush`` return adds up to ``Tokenizer.decode`` of all ids.

    Half a character is never returned: bytes wait until their character is whole. Where the ids continue a text
    (``is_at_start`` False), the space before their first word is part of what they add to it. Control tokens have no
    text, but for those in ``shown``.
    """

    def __init__(
        self, tokenizer: TokenTexts, is_at_start: bool = True, shown: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        self._tokenizer = tokenizer
        self._shown = shown
        self._bytes = bytearray()
        self._is_at_start = is_at_start

    def push(self, ids: Iterable[int]) -> str:
        """Take the next ids and return the text that is certain by now."""
        return "".join(map(self._push, ids))

    def flush(self) -> str:
        """Return what is left at the end: bytes that never became a character."""
        text = REPLACEMENT * len(self._bytes)
        self._bytes.clear()
        return text

    def _push(self, token_id: int) -> str:
        if self._tokenizer.is_control(token_id):
            return self.flush() + self._shown.get(token_id, "")
        utf8 = self._tokenizer.token_bytes(token_id)
        # A tokenizer puts a space before the first word of a text when it encodes; it is taken off again here.
        if self._is_at_start and self._tokenizer.drops_space(token_id):
            utf8 = utf8[1:]
        self._is_at_start = False
        self._bytes += utf8
        return self._take_characters()

    def _take_characters(self) -> str:
        """Cut whole characters, and bytes that cannot begin one, off the front of the waiting bytes."""
        text = ""
        while self._bytes:
            try:
                text += self._bytes.decode()
                self._bytes.clear()
            except UnicodeDecodeError as error:
                text += self._bytes[: error.start].decode()
                del self._bytes[: error.start]
                if error.reason == "unexpected end of data":
                    break
                text += REPLACEMENT
                del self._bytes[0]
        return text
