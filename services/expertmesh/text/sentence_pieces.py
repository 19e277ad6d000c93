"""The tokens of a SentencePiece model. Knows pieces, not conversations."""

import re
from collections.abc import Iterator
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from expertmesh.errors import CheckpointError
from expertmesh.text.pieces import SPACE, NamedToken, Sections, TokenFacts
from expertmesh.text.tokenizer_config import TokenizerConfig

# No piece holds this character, so what stands behind it is encoded as in the middle of a text.
GUARD = "\U0010fffd"


class SentencePieces:
    """``Pieces`` of tokenizer.model."""

    def __init__(self, processor: SentencePieceProcessor, file: Path, config: TokenizerConfig) -> None:
        self._processor = processor
        self._spaces_every_section = config.is_legacy
        self._adds_space = bool(processor.normalize("a").startswith(SPACE))
        self._guard_ids = processor.encode(GUARD)
        self._greedy = self._find_greedy(config)
        self.file = file
        self.size: int = processor.get_piece_size()
        self.facts = TokenFacts({**_own_roles(processor), **config.roles}, config.added, config.adds_bos is not False)

    @classmethod
    def open(cls, path: Path, config: TokenizerConfig) -> "SentencePieces":
        """Load a model; CheckpointError when it is damaged."""
        processor = SentencePieceProcessor()
        try:
            processor.load(str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or no SentencePiece model: {error}") from error
        return cls(processor, path, config)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, whose first word gets a space."""
        first, *others = self._cut(text)
        ids: list[int] = self._processor.encode(first)
        return ids + [token_id for part in others for token_id in self._encode_on(part)]

    def encode_sections(self, sections: Sections) -> list[int]:
        """Ids of text with tokens between, as transformers' LlamaTokenizer gives them for such a model.

        The text gets a space before its first word, or each section does, unless there is one already.
        """
        ids: list[int] = []
        for index, section in enumerate(sections):
            if isinstance(section, int):
                ids.append(section)
            else:
                wants_space = self._adds_space and (index == 0 or self._spaces_every_section)
                text = section if not wants_space or section.startswith((" ", SPACE)) else f" {section}"
                ids += [token_id for part in self._cut(text) for token_id in self._encode_on(part)]
        return ids

    def find(self, name: str) -> int | None:
        """Return the id of a piece by its name."""
        token_id = int(self._processor.piece_to_id(name))
        return token_id if self._processor.id_to_piece(token_id) == name else None

    def controls(self) -> Iterator[NamedToken]:
        """Yield the control tokens, which the model keeps out of every text."""
        for token_id in filter(self.is_control, range(self.size)):
            yield NamedToken(token_id, self.piece(token_id), True, self.file)

    def is_control(self, token_id: int) -> bool:
        """Whether an id has no text."""
        return bool(self._processor.is_control(token_id))

    def has_text(self, token_id: int) -> bool:
        """Whether an id stands for text of its own."""
        kinds = (self._processor.is_control, self._processor.is_unknown, self._processor.is_unused)
        return not any(is_kind(token_id) for is_kind in kinds)

    def piece(self, token_id: int) -> str:
        """Name of an id; the unknown one has the text that decoding gives it."""
        if self._processor.is_unknown(token_id):
            return str(self._processor.decode([token_id]))
        return str(self._processor.id_to_piece(token_id))

    def byte(self, token_id: int) -> int | None:
        """Return the byte that an id of the byte fallback stands for."""
        if not self._processor.is_byte(token_id):
            return None
        return int(self._processor.id_to_piece(token_id)[3:5], 16)  # <0x0A>

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of an id in the middle of a text."""
        byte = self.byte(token_id)
        return self.piece(token_id).replace(SPACE, " ").encode() if byte is None else bytes([byte])

    def drops_space(self, token_id: int) -> bool:
        """Whether an id that begins a text loses the space before it; a byte never does."""
        return self._adds_space and self.byte(token_id) is None and self.piece(token_id).startswith(SPACE)

    def _find_greedy(self, config: TokenizerConfig) -> re.Pattern[str] | None:
        """Find where user-defined pieces begin that are added tokens, too: the model takes them out of any text."""
        texts = [token.text for token in config.added.values() if len(token.text) > 1]
        taken = [re.escape(text) for text in texts if self._takes_from_text(text)]
        return re.compile(f"(?={'|'.join(taken)})") if taken else None

    def _takes_from_text(self, text: str) -> bool:
        token_id = self.find(text)
        return token_id is not None and token_id in self._processor.encode(text)

    def _cut(self, text: str) -> list[str]:
        """Cut a text behind the first character of each piece that must not come of it."""
        if self._greedy is None:
            return [text]
        cuts = [0, *(match.start() + 1 for match in self._greedy.finditer(text)), len(text)]
        return [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]

    def _encode_on(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(GUARD + text)
        return ids[len(self._guard_ids) :]


def _own_roles(processor: SentencePieceProcessor) -> dict[str, str]:
    ids = {"bos_token": processor.bos_id(), "eos_token": processor.eos_id(), "unk_token": processor.unk_id()}
    return {role: str(processor.id_to_piece(token_id)) for role, token_id in ids.items() if token_id >= 0}
