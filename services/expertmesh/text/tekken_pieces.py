"""The tokens of Mistral's tekken.json, through mistral-common. Knows bytes and special tokens, no conversations."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from expertmesh.errors import CheckpointError
from expertmesh.text.pieces import SPACE, NamedToken, Sections, TokenFacts
from expertmesh.text.tokenizer_config import TokenizerConfig

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

# Files of this version list what later models were trained with.
VERSION, LATER = "v3", ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")


class TekkenPieces:
    """``Pieces`` of tekken.json."""

    def __init__(self, tekken: "Tekkenizer", file: Path, config: TokenizerConfig) -> None:
        self._tekken = tekken
        self._specials = _name_specials(tekken)
        self.file = file
        self.size: int = tekken.n_words
        own = {"bos_token": tekken.id_to_piece(tekken.bos_id), "eos_token": tekken.id_to_piece(tekken.eos_id)}
        self.facts = TokenFacts({**own, **config.roles}, config.added, config.adds_bos is not False)

    @classmethod
    def open(cls, path: Path, config: TokenizerConfig) -> "TekkenPieces":
        """Load a file; CheckpointError when it is damaged, or when mistral-common is not installed."""
        try:
            from mistral_common.tokens.tokenizers.tekken import Tekkenizer
        except ImportError:
            raise CheckpointError(
                f"{path} needs mistral-common, which is not installed: pip install 'expertmesh[tekken]' would be right"
            ) from None
        try:
            return cls(Tekkenizer.from_file(path), path, config)
        except Exception as error:  # whatever a damaged file leads to there
            raise CheckpointError(f"{path} is damaged: {error!r}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self._tekken.encode(text, bos=False, eos=False)

    def encode_sections(self, sections: Sections) -> list[int]:
        """Ids of text with tokens between."""
        return [one for part in sections for one in ([part] if isinstance(part, int) else self.encode(part))]

    def find(self, name: str) -> int | None:
        """Return the id of a special token by its name."""
        return self._specials.get(name)

    def controls(self) -> Iterator[NamedToken]:
        """Yield the special tokens."""
        return (NamedToken(token_id, name, True, self.file) for name, token_id in self._specials.items())

    def is_control(self, token_id: int) -> bool:
        """Whether an id has no text."""
        return self._tekken.is_special(token_id)

    def has_text(self, token_id: int) -> bool:
        """Whether an id stands for text of its own."""
        return not self.is_control(token_id)

    def piece(self, token_id: int) -> str:
        """Name of an id."""
        if self.is_control(token_id):
            return self._tekken.id_to_piece(token_id)
        return self.token_bytes(token_id).decode(errors="backslashreplace").replace(" ", SPACE)

    def byte(self, token_id: int) -> int | None:
        """Return None: bytes are tokens like others."""
        return None

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of an id."""
        from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy

        return self._tekken.id_to_byte_piece(token_id, SpecialTokenPolicy.IGNORE)

    def drops_space(self, token_id: int) -> bool:
        """Return False: no text gets a space."""
        return False


def _name_specials(tekken: "Tekkenizer") -> dict[str, int]:
    names = {tekken.id_to_piece(token_id): token_id for token_id in sorted(tekken.special_ids)}
    unknown = LATER if tekken.version.value == VERSION else ()
    return {name: token_id for name, token_id in names.items() if name not in unknown}
