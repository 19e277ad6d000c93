"""What is asked: random prompts of a length, or those of a file. Knows no server."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from expertmesh.errors import ConfigError
from expertmesh.loadgen.lengths import Lengths

Prompt = list[int] | str


class Pieces(Protocol):
    """What random prompts are made of: things that are one token each."""

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        ...

    def draw(self, rng: random.Random, count: int) -> Sequence[int | str]:
        """Draw ``count`` pieces."""
        ...

    def join(self, pieces: Sequence[int | str]) -> Prompt:
        """Make a prompt of pieces."""
        ...


@dataclass(frozen=True)
class TokenIds:
    """Token ids: a prompt has exactly as many tokens as pieces."""

    ids: Sequence[int]
    unit: str = "tokens"

    def draw(self, rng: random.Random, count: int) -> Sequence[int | str]:
        """See ``Pieces``."""
        return rng.choices(self.ids, k=count)

    def join(self, pieces: Sequence[int | str]) -> Prompt:
        """See ``Pieces``."""
        return [int(piece) for piece in pieces]


@dataclass(frozen=True)
class Words:
    """Words with spaces between. Where each is one token, a server adds at most its beginning-of-sequence token."""

    words: tuple[str, ...]
    unit: str = "words"

    def draw(self, rng: random.Random, count: int) -> Sequence[int | str]:
        """See ``Pieces``."""
        return rng.choices(self.words, k=count)

    def join(self, pieces: Sequence[int | str]) -> Prompt:
        """See ``Pieces``."""
        return " ".join(map(str, pieces))


class Prompts(Protocol):
    """Where the prompts of a run come from."""

    def make(self, rng: random.Random, index: int) -> Prompt:
        """Make the prompt of the question number ``index``; those of a warm-up are below 0."""
        ...


@dataclass(frozen=True)
class RandomPrompts:
    """Prompts of random pieces; all begin with the same ones, up to ``shared_share`` of their own length."""

    pieces: Pieces
    lengths: Lengths
    shared_share: float = 0.0

    def make(self, rng: random.Random, index: int) -> Prompt:
        """See ``Prompts``."""
        length = self.lengths.draw(rng)
        shared = self._prefix[: self._num_shared(length)]
        return self.pieces.join([*shared, *self.pieces.draw(rng, length - len(shared))])

    @cached_property
    def _prefix(self) -> Sequence[int | str]:
        return self.pieces.draw(random.Random("prefix"), self._num_shared(self.lengths.longest))

    def _num_shared(self, length: int) -> int:
        return round(self.shared_share * length)

    def __str__(self) -> str:
        shared = f", {self.shared_share:.0%} of them shared" if self.shared_share else ""
        return f"{self.lengths} random {self.pieces.unit}{shared}"


@dataclass(frozen=True)
class GivenPrompts:
    """Texts in turn, again from the first after the last. A warm-up takes them from the end."""

    texts: tuple[str, ...]

    def make(self, rng: random.Random, index: int) -> Prompt:
        """See ``Prompts``."""
        return self.texts[index % len(self.texts)]

    def __str__(self) -> str:
        return f"{len(self.texts)} given texts"


def read_prompts(file: Path) -> GivenPrompts:
    """Read a prompt per line, or per line of a ``.jsonl`` file an object with ``prompt``; blank lines do not count."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; a text with a prompt per line would be right") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigError(f"{file} has no prompts; one per line would be right")
    if file.suffix != ".jsonl":
        return GivenPrompts(tuple(line for _, line in numbered))
    return GivenPrompts(tuple(_prompt_of(line, f"{file}:{number}") for number, line in numbered))


def _prompt_of(line: str, place: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, LookupError, TypeError):
        prompt = None
    if not isinstance(prompt, str):
        raise ConfigError(f'{place}: {line[:80]!r} has no prompt; {{"prompt": "a text"}} would be right')
    return prompt
