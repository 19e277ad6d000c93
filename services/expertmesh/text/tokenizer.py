"""Ids of text and text of ids, whatever file they come from. Knows tokens, not conversations."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from expertmesh.errors import CheckpointError, InvalidRequestError
from expertmesh.gguf.files import find_gguf, open_gguf
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.gguf_pieces import open_pieces
from expertmesh.text.gguf_tokens import read_tokens
from expertmesh.text.pieces import NamedToken, Pieces, Sections
from expertmesh.text.sentence_pieces import SentencePieces
from expertmesh.text.tokenizer_config import CONFIG_FILE, read_tokenizer_config

SENTENCE_PIECE_FILES = ("tokenizer.model", "tokenizer.model.v*", "sentencepiece.bpe.model")
JSON_FILE = "tokenizer.json"
TEKKEN_FILE = "tekken.json"


class Tokenizer:
    """Text to ids and back. Text that looks like a control token, such as ``</s>``, stays text.

    ``vocab_size`` ids are known, those of the model; one without a token has no text. ``bos_id`` and ``eos_id`` are
    None where the tokenizer has none. ``roles`` are the texts of special tokens, by names such as "bos_token".
    """

    def __init__(self, pieces: Pieces, vocab_size: int | None = None) -> None:
        self._pieces = pieces
        self._added = pieces.facts.added
        self.size = max([pieces.size, *(token_id + 1 for token_id in self._added)])
        self.vocab_size = self.size if vocab_size is None else vocab_size
        self.roles = pieces.facts.roles
        self.bos_id = self._find_role("bos_token")
        self.eos_id = self._find_role("eos_token")

    @classmethod
    def open(cls, directory: Path, vocab_size: int | None = None) -> "Tokenizer":
        """Load the tokenizer of a checkpoint, a directory or a GGUF file, for a model of ``vocab_size`` ids.

        CheckpointError when its file is missing or damaged, or when it has tokens that the model does not know.
        """
        tokenizer = cls(_open_pieces(directory), vocab_size)
        tokenizer._check_size()
        return tokenizer

    @property
    def file(self) -> Path:
        """Where the tokens come from."""
        return self._pieces.file

    @cached_property
    def named_tokens(self) -> dict[str, NamedToken]:
        """Return the tokens that a template makes by writing their text."""
        tokens = [*self._pieces.controls(), *self._added.values()]
        return {token.text: token for token in tokens if token.has_name}

    def control_id(self, name: str) -> int | None:
        """Return the id of a special token by its name."""
        token = self.named_tokens.get(name)
        return token.token_id if token and token.is_special else None

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without begin- or end-of-sequence; InvalidRequestError when it is not valid Unicode."""
        check_unicode(text)
        return self._pieces.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of raw text, behind the begin-of-sequence id unless the checkpoint goes without."""
        begin = [self.bos_id] if self.bos_id is not None and self._pieces.facts.adds_bos else []
        return [*begin, *self.encode(text)]

    def encode_sections(self, sections: Sections) -> list[int]:
        """Ids of text with tokens between, as a template writes them."""
        return self._pieces.encode_sections(sections)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``. Control tokens have no text, bytes that form no character become U+FFFD.

        InvalidRequestError names an id outside the vocabulary.
        """
        detokenizer = Detokenizer(self)
        return detokenizer.push(ids) + detokenizer.flush()

    def is_control(self, token_id: int) -> bool:
        """Whether an id has no text, like begin- and end-of-sequence."""
        is_own, added = self._is_own(token_id), self._added.get(token_id)
        if is_own and not self._pieces.has_text(token_id):
            return self._pieces.is_control(token_id)
        return added.is_special if added else not is_own

    def has_text(self, token_id: int) -> bool:
        """Whether an id stands for text of its own: control tokens, the unknown one and unused ones do not."""
        return not self.is_control(token_id) and (not self._is_own(token_id) or self._pieces.has_text(token_id))

    def byte(self, token_id: int) -> int | None:
        """The byte that an id of the byte fallback stands for, or None for any other id."""
        return self._pieces.byte(token_id) if self._is_own(token_id) else None

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of one id in the middle of a text: nothing for control tokens, one byte for those of the fallback."""
        if self.is_control(token_id):
            return b""
        return self._pieces.token_bytes(token_id) if self._is_own(token_id) else self._added[token_id].text.encode()

    def drops_space(self, token_id: int) -> bool:
        """Whether an id that begins a text loses the space before it."""
        return self._is_own(token_id) and self._pieces.drops_space(token_id)

    def piece(self, token_id: int) -> str:
        """The piece of an id, with U+2581 for a space; the unknown id has the text that decoding gives it."""
        if self._is_own(token_id):
            return self._pieces.piece(token_id)
        return self._added[token_id].text if token_id in self._added else f"<{token_id}>"

    def _is_own(self, token_id: int) -> bool:
        """Whether the file of tokens says what an id is, and not what was added to it."""
        if not 0 <= token_id < self.vocab_size:
            raise InvalidRequestError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return token_id < self._pieces.size

    def _find_role(self, role: str) -> int | None:
        text = self.roles.get(role)
        if text is None:
            return None
        added = (token.token_id for token in self._added.values() if token.text == text)
        token_id = next(added, self._pieces.find(text))
        if token_id is None:
            file = self.file.parent / CONFIG_FILE
            raise CheckpointError(
                f"{file}: {role} is {text!r}, which {self.file} does not hold; one of its tokens would be right"
            )
        return token_id

    def _check_size(self) -> None:
        if self.size > self.vocab_size:
            last = self.size - 1
            file = self._added[last].file if last in self._added else self.file
            raise CheckpointError(
                f"{file}: with {last}, the tokenizer has {self.size} tokens, but vocab_size of the model is "
                f"{self.vocab_size}; a tokenizer of at most {self.vocab_size} tokens would be right, or the model that "
                "was enlarged for this one"
            )


def check_unicode(text: str) -> None:
    """Raise InvalidRequestError for a text with half a character of UTF-16."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"the text is not valid Unicode at character {error.start}: {error}") from None


def _open_pieces(directory: Path) -> Pieces:
    """Open SentencePiece's own file where there is one: no other library is needed for it."""
    if gguf := find_gguf(directory):
        model = open_gguf(gguf)
        return open_pieces(read_tokens(model.file, model.metadata))
    config = read_tokenizer_config(directory)
    for name in SENTENCE_PIECE_FILES:
        if found := sorted(directory.glob(name)):
            return SentencePieces.open(found[-1], config)
    if (directory / JSON_FILE).exists():
        from expertmesh.text.json_pieces import JsonPieces

        return JsonPieces.open(directory / JSON_FILE, config)
    if (directory / TEKKEN_FILE).exists():
        from expertmesh.text.tekken_pieces import TekkenPieces

        return TekkenPieces.open(directory / TEKKEN_FILE, config)
    names = ", ".join((*SENTENCE_PIECE_FILES, JSON_FILE, TEKKEN_FILE))
    raise CheckpointError(f"{directory} holds no tokenizer; one of {names} would be right")
