"""What a file of tokens has to offer. Knows no file format."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SPACE = "\u2581"

# Text, and ids of the tokens that a template writes between.
Sections = Sequence[str | int]


@dataclass(frozen=True)
class NamedToken:
    """A token that a template makes by writing its text, ``file`` names it.

    A special one has no text in an answer. Some take blanks before or behind them along.
    """

    token_id: int
    text: str
    is_special: bool
    file: Path
    takes_left: bool = False
    takes_right: bool = False

    @property
    def has_name(self) -> bool:
        """Whether its text is more than blanks, which nobody writes to name a token."""
        return bool(self.text.strip())


@dataclass(frozen=True)
class TokenFacts:
    """What is known of tokens beside their pieces.

    ``roles`` are the texts of special tokens, by names such as "bos_token"; ``added`` are tokens by id, which may lie
    behind those of the file; ``adds_bos`` says whether a text begins with the begin-of-sequence id.
    """

    roles: Mapping[str, str]
    added: Mapping[int, NamedToken]
    adds_bos: bool


class Pieces(Protocol):
    """The tokens of a file, ids 0 to ``size`` - 1. Text stays text: whatever it looks like, no special token."""

    file: Path
    size: int
    facts: TokenFacts

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ...

    def encode_sections(self, sections: Sections) -> list[int]:
        """Ids of text with tokens between."""
        ...

    def find(self, name: str) -> int | None:
        """Return the id of a piece by its name."""
        ...

    def controls(self) -> Iterable[NamedToken]:
        """Yield the tokens that the file itself holds as control tokens."""
        ...

    def is_control(self, token_id: int) -> bool:
        """Whether an id has no text."""
        ...

    def has_text(self, token_id: int) -> bool:
        """Whether an id stands for text of its own: control tokens, the unknown one and unused ones do not."""
        ...

    def piece(self, token_id: int) -> str:
        """Name of an id, with U+2581 for a space."""
        ...

    def byte(self, token_id: int) -> int | None:
        """Return the byte that an id of the byte fallback stands for, or None for any other id."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of an id in the middle of a text."""
        ...

    def drops_space(self, token_id: int) -> bool:
        """Whether an id that begins a text loses the space before it."""
        ...
