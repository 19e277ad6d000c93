"""SentencePiece ids. Knows pieces, not conversations."""

from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from expertmesh.errors import CheckpointError, InvalidRequestError

SPACE = "\u2581"
FILE_NAMES = ("tokenizer.model", "sentencepiece.bpe.model")


class Tokenizer:
    """Text to ids and back. Text that looks like a control token, such as ``</s>``, stays text."""

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self._processor = processor
        self.vocab_size: int = processor.get_piece_size()
        self.bos_id: int = processor.bos_id()
        self.eos_id: int = processor.eos_id()

    @classmethod
    def open(cls, directory: Path) -> "Tokenizer":
        """Load the tokenizer of a checkpoint; CheckpointError when its file is missing or damaged."""
        path = next((directory / name for name in FILE_NAMES if (directory / name).exists()), None)
        if path is None:
            raise CheckpointError(f"{directory} holds no tokenizer; {' or '.join(FILE_NAMES)} would be right")
        processor = SentencePieceProcessor()
        try:
            processor.load(str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or no SentencePiece model: {error}") from error
        if min(processor.bos_id(), processor.eos_id()) < 0:
            raise CheckpointError(f"{path} has no begin- or end-of-sequence id; the [INST] template needs both")
        return cls(processor)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without begin- or end-of-sequence; InvalidRequestError when it is not valid Unicode."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"the text is not valid Unicode at character {error.start}: {error}") from None
        ids: list[int] = self._processor.encode(text)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``. Control tokens have no text, bytes that form no character become U+FFFD.

        InvalidRequestError names an id outside the vocabulary.
        """
        for token_id in ids:
            self._check(token_id)
        text: str = self._processor.decode(list(ids))
        return text

    def is_control(self, token_id: int) -> bool:
        """Whether an id has no text, like begin- and end-of-sequence."""
        self._check(token_id)
        return bool(self._processor.is_control(token_id))

    def has_text(self, token_id: int) -> bool:
        """Whether an id stands for text of its own: control tokens, the unknown one and unused ones do not."""
        self._check(token_id)
        kinds = (self._processor.is_control, self._processor.is_unknown, self._processor.is_unused)
        return not any(is_kind(token_id) for is_kind in kinds)

    def byte(self, token_id: int) -> int | None:
        """The byte that an id of the byte fallback stands for, or None for any other id."""
        self._check(token_id)
        if not self._processor.is_byte(token_id):
            return None
        return int(self._processor.id_to_piece(token_id)[3:5], 16)  # <0x0A>

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of one id in the middle of a text: nothing for control tokens, one byte for those of the fallback."""
        byte = self.byte(token_id)
        if byte is not None:
            return bytes([byte])
        return b"" if self.is_control(token_id) else self.piece(token_id).replace(SPACE, " ").encode()

    def piece(self, token_id: int) -> str:
        """The piece of an id, with U+2581 for a space; the unknown id has the text that decoding gives it."""
        self._check(token_id)
        if self._processor.is_unknown(token_id):
            return str(self._processor.decode([token_id]))
        return str(self._processor.id_to_piece(token_id))

    def _check(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise InvalidRequestError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
