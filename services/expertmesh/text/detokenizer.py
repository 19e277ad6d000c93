"""Text from ids as they come. Knows pieces and bytes, not requests."""

from collections.abc import Iterable

from expertmesh.text.tokenizer import SPACE, Tokenizer

REPLACEMENT = "\ufffd"


class Detokenizer:
    """Decodes a stream of ids: what ``push`` and ``flush`` return adds up to ``Tokenizer.decode`` of all ids.

    Half a character is never returned: bytes wait until their character is whole. Where the ids continue a text
    (``is_at_start`` False), the space before their first word is part of what they add to it.
    """

    def __init__(self, tokenizer: Tokenizer, is_at_start: bool = True) -> None:
        self._tokenizer = tokenizer
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
        byte = self._tokenizer.byte(token_id)
        if byte is not None:
            self._is_at_start = False
            self._bytes.append(byte)
            return self._take_characters()
        text = self.flush()
        if not self._tokenizer.is_control(token_id):
            text += self._take_piece(token_id)
        return text

    def _take_piece(self, token_id: int) -> str:
        piece = self._tokenizer.piece(token_id)
        # SentencePiece puts a space before the first word of a text when it encodes, and takes it off again here.
        if self._is_at_start:
            piece = piece.removeprefix(SPACE)
        self._is_at_start = False
        return piece.replace(SPACE, " ")

    def _take_characters(self) -> str:
        """Cut whole characters, and bytes that cannot begin one, off the front of the waiting bytes."""
        text = ""
        while self._bytes:
            try:
                text += self._bytes.decode()
                self._bytes.clear()
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data":
                    break
                # Only the start of one character ever waits here, so what is wrong is wrong from the first byte on.
                text += REPLACEMENT
                del self._bytes[0]
        return text
