"""The tokens of a tokenizer.json, through the library that such files are made for. Knows its keys, no conversations.

The library takes added tokens out of any text that holds theirs. Here they get names that nobody can guess and that
only ``encode_sections`` writes, so that text stays text; all else is as the file says. Blanks keep theirs: some files
add rows of spaces as tokens, with which their models have learnt code.
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertmesh.architectures.jsonfile import read_json
from expertmesh.errors import CheckpointError
from expertmesh.text.byte_level import bytes_of
from expertmesh.text.pieces import SPACE, NamedToken, Sections, TokenFacts
from expertmesh.text.tokenizer_config import TokenizerConfig, read_named_token

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODELS = ("BPE", "Unigram")
BYTE_LEVEL = "ByteLevel"
# Together they make text of pieces with U+2581 for a space, and of bytes written as <0x0A>, or of bytes alone.
DECODERS = (BYTE_LEVEL, "Sequence", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace")
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Json = Mapping[str, Any]


class JsonPieces:
    """``Pieces`` of tokenizer.json."""

    def __init__(self, data: Json, file: Path, config: TokenizerConfig) -> None:
        added = _read_added(data, file)
        added.update(config.added)
        decoders = _parts(data.get("decoder"), "decoders")
        self.file = file
        self._names = _make_names(added)
        self._tokenizer = _load(data, file, added, self._names)
        self._is_byte_level = any(part["type"] == BYTE_LEVEL for part in decoders)
        self._has_bytes = bool(data["model"].get("byte_fallback"))
        self._drops_space = any(map(_drops_space, decoders))
        self._unknown_id = _unknown_id(data["model"])
        self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.facts = _facts(data, added, config)

    @classmethod
    def open(cls, path: Path, config: TokenizerConfig) -> "JsonPieces":
        """Load a file; CheckpointError when it is damaged or of a kind that is not supported."""
        return cls.make(read_json(path), path, config)

    @classmethod
    def make(cls, data: Json, file: Path, config: TokenizerConfig) -> "JsonPieces":
        """Take what ``file`` says, in the words of tokenizer.json. Errors as ``open``."""
        try:
            _check(data, file)
            return cls(data, file, config)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{file} is damaged: {error!r}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_sections(self, sections: Sections) -> list[int]:
        """Ids of text with tokens between."""
        return self.encode("".join(self._names[one] if isinstance(one, int) else one for one in sections))

    def find(self, name: str) -> int | None:
        """Return the id of a piece by its name."""
        return self._tokenizer.token_to_id(name)

    def controls(self) -> Iterator[NamedToken]:
        """Yield none: all control tokens are added ones."""
        return iter(())

    def is_control(self, token_id: int) -> bool:
        """Whether an id has no piece; which others have no text is said of them as added tokens."""
        return not self._name_of(token_id) or token_id in self.facts.added

    def has_text(self, token_id: int) -> bool:
        """Whether an id stands for text of its own."""
        return token_id != self._unknown_id and self._name_of(token_id) != ""

    def piece(self, token_id: int) -> str:
        """Name of an id."""
        if not self._is_byte_level or token_id in self.facts.added:
            return self._name_of(token_id) or f"<{token_id}>"
        return self.token_bytes(token_id).decode(errors="backslashreplace").replace(" ", SPACE)

    def byte(self, token_id: int) -> int | None:
        """Return the byte that an id of the byte fallback stands for."""
        match = BYTE.fullmatch(self._name_of(token_id)) if self._has_bytes else None
        return int(match[1], 16) if match else None

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of an id in the middle of a text."""
        name, byte = self._name_of(token_id), self.byte(token_id)
        if byte is not None:
            return bytes([byte])
        if self._is_byte_level and token_id not in self.facts.added:
            return bytes_of(name)
        return name.replace(SPACE, " ").encode()

    def drops_space(self, token_id: int) -> bool:
        """Whether an id that begins a text loses the space before it."""
        return self._drops_space and self._name_of(token_id).startswith(SPACE)

    def _name_of(self, token_id: int) -> str:
        added = self.facts.added.get(token_id)
        return added.text if added else self._tokenizer.id_to_token(token_id) or ""


def _check(data: Json, file: Path) -> None:
    model = data.get("model")
    kind = model.get("type") if isinstance(model, Mapping) else None
    if kind not in MODELS:
        raise CheckpointError(f"{file}: model.type is {kind!r}; {' or '.join(MODELS)} would be right")
    for part in _parts(data.get("decoder"), "decoders") or [{}]:
        if not _is_supported(part):
            supported = ", ".join(DECODERS)
            raise CheckpointError(f"{file}: decoder {dict(part)} is not supported; for {SPACE} as a space: {supported}")


def _is_supported(decoder: Json) -> bool:
    kind = decoder.get("type")
    if kind == "Replace":
        return decoder.get("pattern") == {"String": SPACE} and decoder.get("content") == " "
    return kind in DECODERS and decoder.get("replacement", SPACE) == SPACE


def _read_added(data: Json, file: Path) -> dict[int, NamedToken]:
    tokens = [
        read_named_token(file, f"added_tokens.{index}", entry.get("id"), entry)
        for index, entry in enumerate(data.get("added_tokens") or [])
    ]
    return {token.token_id: token for token in tokens}


def _make_names(added: Mapping[int, NamedToken]) -> dict[int, str]:
    """Make names from characters that stand for nothing, and a number that is another one in each process."""
    key = secrets.token_hex(16)
    return {
        token_id: f"\ue000{key}.{token_id}\ue001" if token.has_name else token.text for token_id, token in added.items()
    }


def _load(data: Json, file: Path, added: Mapping[int, NamedToken], names: Mapping[int, str]) -> "Tokenizer":
    from tokenizers import Tokenizer

    entries = [_entry(token_id, names[token_id], added[token_id]) for token_id in sorted(added)]
    ours = {**data, "model": _rename(data["model"], names), "added_tokens": entries}
    ours.update(dict.fromkeys(("post_processor", "padding", "truncation")))
    try:
        tokenizer = Tokenizer.from_str(json.dumps(ours))
    except Exception as error:  # the library raises no class of its own
        raise CheckpointError(f"{file} is damaged: {error}") from None
    for token_id, name in names.items():
        if (found := tokenizer.token_to_id(name)) != token_id:
            raise CheckpointError(
                f"{added[token_id].file}: the id of {added[token_id].text!r} is {token_id}; {found}, the next one "
                f"behind the others of {file.name}, would be right"
            )
    return tokenizer


def _entry(token_id: int, name: str, token: NamedToken) -> dict[str, Any]:
    """Write an added token; what the file says of blanks beside it was done before."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": name, "special": token.is_special, **flags}


def _rename(model: Json, names: Mapping[int, str]) -> dict[str, Any]:
    """Give pieces that are added tokens their names, and take out the merges that would make them of text."""
    if model["type"] == "Unigram":
        return {**model, "vocab": [[names.get(index, one[0]), *one[1:]] for index, one in enumerate(model["vocab"])]}
    new = {piece: names[token_id] for piece, token_id in model["vocab"].items() if token_id in names}
    vocab = {new.get(piece, piece): token_id for piece, token_id in model["vocab"].items()}
    merges = [merge for merge in model["merges"] if not new.keys() & _pieces_of(merge)]
    return {
        **model,
        "vocab": vocab,
        "merges": merges,
        "unk_token": new.get(model.get("unk_token"), model.get("unk_token")),
    }


def _pieces_of(merge: str | list[str]) -> set[str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return {left, right, left + right}


def _unknown_id(model: Json) -> int | None:
    unknown: int | None = model.get("unk_id")
    return unknown if model["type"] == "Unigram" else model["vocab"].get(model.get("unk_token"))


def _facts(data: Json, added: Mapping[int, NamedToken], config: TokenizerConfig) -> TokenFacts:
    """Take the begin-of-sequence token from what the file puts before a text, where nothing else names it."""
    steps = _parts(data.get("post_processor"), "processors")
    first: Json = next((step["single"][0] for step in steps if step.get("type") == "TemplateProcessing"), {})
    begin = first.get("SpecialToken", {}).get("id")
    roles = {**({"bos_token": begin} if begin else {}), **config.roles}
    adds_bos = config.adds_bos if config.adds_bos is not None else begin is not None and begin == roles["bos_token"]
    return TokenFacts(roles, added, adds_bos)


def _parts(step: Json | None, key: str) -> list[Json]:
    """List the parts of a step that may be a sequence."""
    if step is None:
        return []
    return [part for one in step[key] for part in _parts(one, key)] if step.get("type") == "Sequence" else [step]


def _drops_space(decoder: Json) -> bool:
    if decoder["type"] == "Metaspace":
        return decoder.get("prepend_scheme", "always") != "never" and decoder.get("add_prefix_space", True) is not False
    return decoder["type"] == "Strip" and decoder.get("content") == " " and decoder.get("start", 0) > 0
