"""Calibration text as rows of token ids. Knows files and lengths, not what is done with the tokens."""

from pathlib import Path

from expertmesh.errors import ConfigError
from expertmesh.text.tokenizer import Tokenizer

MIN_TOKENS = 32
MAX_LENGTH = 512
# Twice the longest piece of Mixtral's vocabulary: no more of a long file is read than its tokens need.
CHARACTERS_PER_TOKEN = 32

Sequences = tuple[tuple[int, ...], ...]


def read_samples(path: Path, max_tokens: int, tokenizer: Tokenizer, max_length: int) -> Sequences:
    """Read the first ``max_tokens`` tokens of a text as sequences of at most ``max_length``, each begun by BOS.

    ConfigError when the file cannot be read, is no UTF-8 or holds fewer than 32 tokens.
    """
    ids = tokenizer.encode(_read_text(path, max_tokens * CHARACTERS_PER_TOKEN))[:max_tokens]
    if len(ids) < MIN_TOKENS:
        raise ConfigError(f"calibration text {path} has {len(ids)} tokens; at least {MIN_TOKENS} would be right")
    begin = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    width = min(max_length, MAX_LENGTH) - len(begin)
    return tuple((*begin, *ids[start : start + width]) for start in range(0, len(ids), width))


def _read_text(path: Path, max_characters: int) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(max_characters)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read calibration text {path}: {error}; give a text file in UTF-8") from error
