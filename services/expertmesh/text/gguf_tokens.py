"""The tokens that the metadata of a GGUF file lists. Knows its keys, not how text becomes ids."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, nothing, refused
from expertmesh.architectures.keys import Keys, is_int
from expertmesh.errors import CheckpointError
from expertmesh.text.pieces import NamedToken

SECTION = "tokenizer"
# What llama.cpp calls the tokenizers of SentencePiece and of byte-level pieces.
SENTENCE_PIECE, BYTE_LEVEL = "llama", "gpt2"
ROLES = {
    "bos_token": "ggml.bos_token_id",
    "eos_token": "ggml.eos_token_id",
    "unk_token": "ggml.unknown_token_id",
    "pad_token": "ggml.padding_token_id",
}
TEMPLATE = "chat_template"
# The score of tokens that were added to a SentencePiece model.
ADDED_SCORE = -1000.0
KEYS: KeyRules = (
    refused("", "ggml.model", unless=(SENTENCE_PIECE, BYTE_LEVEL)),
    honoured("ggml.tokens", "ggml.scores", "ggml.token_type", "ggml.merges", "ggml.pre"),
    honoured(*ROLES.values(), "ggml.eot_token_id"),
    honoured("ggml.add_bos_token", but="; absent, it is true for SentencePiece's tokens alone"),
    honoured("ggml.add_space_prefix", "ggml.remove_extra_whitespaces", but=" for SentencePiece's tokens"),
    honoured(TEMPLATE),
    refused("text is not normalized", "ggml.precompiled_charsmap"),
    nothing("prompts do not end", "ggml.add_eos_token", "ggml.add_sep_token"),
    nothing(
        "nothing asks for them",
        "chat_templates",
        "ggml.eom_token_id",
        "ggml.seperator_token_id",
        "ggml.cls_token_id",
        "ggml.mask_token_id",
        "ggml.token_type_count",
    ),
)


class TokenType(IntEnum):
    """What a token is, in the numbers of SentencePiece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class GgufTokens:
    """The tokens of ``file`` by id: text, type and score (0 where there are none); ``keys`` say more of them.

    ``roles`` are the texts of special tokens, by names such as "bos_token".
    """

    file: Path
    keys: Keys
    texts: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]
    roles: Mapping[str, str]

    def of_type(self, *types: TokenType) -> Iterator[int]:
        """Yield the ids of all tokens of these types."""
        return (token_id for token_id, kind in enumerate(self.types) if kind in types)

    def named(self, token_id: int) -> NamedToken:
        """Describe a token that a template makes by writing its text."""
        is_special = self.types[token_id] == TokenType.CONTROL
        return NamedToken(token_id, self.texts[token_id], is_special, self.file)


def tokenizer_keys(file: Path, metadata: Mapping[str, Any]) -> Keys:
    """Return what ``metadata`` says of the tokenizer."""
    start = f"{SECTION}."
    own = {key.removeprefix(start): value for key, value in metadata.items() if key.startswith(start)}
    return Keys(own, file, section=SECTION)


def read_tokens(file: Path, metadata: Mapping[str, Any]) -> GgufTokens:
    """Read and check the tokens; CheckpointError names the key and what would be right."""
    keys = tokenizer_keys(file, metadata)
    if "ggml.tokens" not in keys:
        raise CheckpointError(f"{file} holds no tokenizer; {SECTION}.ggml.tokens would be right")
    check_keys(keys, KEYS)
    texts = _read_list(keys, "ggml.tokens", str)
    types = _read_list(keys, "ggml.token_type", int, [TokenType.NORMAL] * len(texts))
    scores = _read_list(keys, "ggml.scores", float, [0.0] * len(texts))
    for name, values in (("token_type", types), ("scores", scores)):
        if len(values) != len(texts):
            raise keys.error(
                f"{SECTION}.ggml.{name} has {len(values)} entries; {len(texts)}, one a token, would be right"
            )
    if unknown := set(types) - set(TokenType):
        raise keys.error(f"{SECTION}.ggml.token_type holds {min(unknown)}; 1 to {max(TokenType)} would be right")
    return GgufTokens(file, keys, texts, types, scores, _read_roles(keys, texts))


def _read_list(keys: Keys, key: str, kind: type, default: list[Any] | None = None) -> list[Any]:
    value = keys.get(key) if key in keys or default is None else default
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        raise keys.wrong(key, f"a list of {kind.__name__}")
    return value


def _read_roles(keys: Keys, texts: Sequence[str]) -> dict[str, str]:
    ids = {role: keys.get(key) for role, key in ROLES.items() if key in keys}
    for role, token_id in ids.items():
        if not is_int(token_id) or not 0 <= token_id < len(texts):
            raise keys.wrong(ROLES[role], f"the id of one of {len(texts)} tokens")
    return {role: texts[token_id] for role, token_id in ids.items()}
