"""What the JSON files beside a tokenizer say of its tokens. Knows keys and their types, not how text becomes ids.

Tools keep the same facts in several places: tokenizer_config.json has most of them, added_tokens.json and
special_tokens_map.json are older. Every error is a CheckpointError that names file, key, value and what would be right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertmesh.architectures.jsonfile import read_json
from expertmesh.errors import CheckpointError
from expertmesh.text.pieces import NamedToken

CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
ROLES_FILE = "special_tokens_map.json"

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class TokenizerConfig:
    """``roles`` and ``added`` as in ``TokenFacts``; ``adds_bos`` None where nothing is said.

    ``is_legacy``: words behind a special token get a space as the first word of a text does.
    """

    roles: Mapping[str, str]
    added: Mapping[int, NamedToken]
    adds_bos: bool | None = None
    is_legacy: bool = False


def read_tokenizer_config(directory: Path) -> TokenizerConfig:
    """Read what the files of a checkpoint say, which need not be there."""
    path, older_path = directory / CONFIG_FILE, directory / ROLES_FILE
    config, older = _read(path), _read(older_path)
    roles = {**_read_roles(older_path, older), **_read_roles(path, config)}
    special = {*roles.values(), *_more_special(older_path, older), *_more_special(path, config)}
    added = _read_added_map(directory / ADDED_FILE, special)
    added.update(_read_added_decoder(path, config))
    return TokenizerConfig(roles, added, _flag(path, config, "add_bos_token"), bool(_flag(path, config, "legacy")))


def read_named_token(file: Path, key: str, token_id: object, entry: object) -> NamedToken:
    """Read a token that is written as an object with its flags."""
    text = entry.get("content") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(text, str) or not text:
        raise CheckpointError(f"{file}: {key} is {entry!r}; an object with a text under content would be right")
    is_special, takes_left, takes_right = (entry.get(flag) is True for flag in ("special", "lstrip", "rstrip"))
    return NamedToken(_token_id(file, key, token_id), text, is_special, file, takes_left, takes_right)


def _read_added_map(file: Path, special: set[str]) -> dict[int, NamedToken]:
    """Read a file that maps texts to ids and does not say which are special."""
    ids = {text: _token_id(file, text, token_id) for text, token_id in _read(file).items()}
    return {token_id: NamedToken(token_id, text, text in special, file) for text, token_id in ids.items()}


def _read_added_decoder(file: Path, config: Mapping[str, Any]) -> dict[int, NamedToken]:
    key = "added_tokens_decoder"
    entries = config.get(key) or {}
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{file}: {key} is {entries!r}; an object would be right")
    tokens = [read_named_token(file, f"{key}.{token_id}", token_id, entry) for token_id, entry in entries.items()]
    return {token.token_id: token for token in tokens}


def _read_roles(file: Path, values: Mapping[str, Any]) -> dict[str, str]:
    roles = {}
    for role in ROLES:
        if values.get(role) is not None:
            text = _text(values[role])
            if text is None:
                raise CheckpointError(f"{file}: {role} is {values[role]!r}; a text would be right")
            roles[role] = text
    return roles


def _more_special(file: Path, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of special tokens without a role, from lists or from objects that name them."""
    for key in MORE_SPECIAL:
        tokens = values.get(key) or []
        if not isinstance(tokens, list | Mapping):
            raise CheckpointError(f"{file}: {key} is {tokens!r}; a list would be right")
        texts = map(_text, tokens.values() if isinstance(tokens, Mapping) else tokens)
        yield from (text for text in texts if text is not None)


def _text(token: object) -> str | None:
    """Return the text of a token that is written as such, or as an object with its flags."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _token_id(file: Path, key: str, value: object) -> int:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise CheckpointError(f"{file}: the id of {key} is {value!r}; an integer from 0 on would be right")


def _flag(file: Path, config: Mapping[str, Any], key: str) -> bool | None:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{file}: {key} is {value!r}; true or false would be right")
    return value


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
