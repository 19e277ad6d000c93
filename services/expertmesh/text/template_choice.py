"""Which template a checkpoint's conversations are written in, and why. Knows files, not how templates work."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from expertmesh.architectures.jsonfile import read_json
from expertmesh.errors import CheckpointError, ConfigError, InvalidRequestError
from expertmesh.gguf.files import find_gguf, open_gguf
from expertmesh.text.conversation import ChatTemplate, Message
from expertmesh.text.gguf_tokens import TEMPLATE, tokenizer_keys
from expertmesh.text.inst_template import BEGIN, END, SYSTEM, InstTemplate
from expertmesh.text.jinja_template import JinjaTemplate
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.tokenizer_config import CONFIG_FILE

TEMPLATE_FILE = "chat_template.jinja"
KEY = "chat_template"
# Of several templates under names, the one for conversations, and the one for those with tools.
DEFAULT, TOOL_USE = "default", "tool_use"

TURNS = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))


@dataclass(frozen=True)
class Choice:
    """A template, and what it is and why it is the one."""

    template: ChatTemplate
    reason: str


@dataclass(frozen=True)
class Sources:
    """Templates of a checkpoint: the one for every conversation, and that for those with tools where it is another."""

    origin: str
    source: str
    tool_source: str | None = None


def choose_template(directory: Path, tokenizer: Tokenizer, file: Path | None = None) -> Choice:
    """Choose the template of ``file``, otherwise that of the checkpoint, otherwise [INST] as its tokenizer has it.

    CheckpointError or ConfigError when it cannot be used; both say what would be right.
    """
    if file is not None:
        return Choice(JinjaTemplate(tokenizer, _read_flag(file), str(file)), f"{file}, as --chat-template says")
    found = _find_template(directory)
    if found is None:
        return _inst(tokenizer, f"{directory} holds no chat template")
    template = JinjaTemplate(tokenizer, found.source, found.origin, found.tool_source)
    if _is_inst(template, tokenizer) and tokenizer.control_id(SYSTEM) is None:
        return _inst(tokenizer, f"{found.origin} is an [INST] template")
    return Choice(template, found.origin)


def _inst(tokenizer: Tokenizer, why: str) -> Choice:
    try:
        template = InstTemplate(tokenizer)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {why}, and --chat-template FILE would be right") from None
    form = "as control tokens" if template.has_ids else "as text"
    return Choice(template, f"{BEGIN} {form}, as {tokenizer.file.name} has it: {why}")


def _find_template(directory: Path) -> Sources | None:
    """Return the templates of a checkpoint, if it has any."""
    if gguf := find_gguf(directory):
        template = tokenizer_keys(gguf, open_gguf(gguf).metadata).get(TEMPLATE)
        return None if template is None else _find_sources(gguf, template)
    path = directory / TEMPLATE_FILE
    if path.exists():
        return Sources(str(path), _read_text(path))
    config = directory / CONFIG_FILE
    template = read_json(config).get(KEY) if config.exists() else None
    return None if template is None else _find_sources(config, template)


def _find_sources(config: Path, template: object) -> Sources:
    """Return the source, which may be one of several under names."""
    named: dict[object, object] = {DEFAULT: template}
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
    if DEFAULT not in named:
        raise CheckpointError(f"{config}: {KEY} names {', '.join(map(repr, named))}; one {DEFAULT!r} would be right")
    source, tool_source = named[DEFAULT], named.get(TOOL_USE)
    if not isinstance(source, str) or not isinstance(tool_source, str | None):
        raise CheckpointError(f"{config}: {KEY} is {template!r}; a text would be right")
    return Sources(f"{KEY} of {config}", source, tool_source)


def _read_flag(file: Path) -> str:
    try:
        return _read_text(file)
    except CheckpointError as error:
        raise ConfigError(f"--chat-template: {error}") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; a text in UTF-8 would be right") from None


def _is_inst(template: JinjaTemplate, tokenizer: Tokenizer) -> bool:
    """Whether a template is one of Mistral's, whatever blanks it writes: they have changed from copy to copy.

    Some refuse a system message; others put it before the first user text, or before the last.
    """
    written = {*_squeeze(template, TURNS), *_squeeze(template, (Message("system", "system"), *TURNS))}
    begin, end = tokenizer.roles.get("bos_token", ""), tokenizer.roles.get("eos_token", "")
    allowed = {
        f"{begin}{BEGIN}{first}one{END}two{end}{BEGIN}{last}three{END}"
        for first, last in (("", ""), ("system", ""), ("", "system"))
    }
    return bool(written) and written <= allowed


def _squeeze(template: JinjaTemplate, messages: tuple[Message, ...]) -> set[str]:
    """Return the text of a conversation without blanks, or nothing where the template refuses it."""
    try:
        return {re.sub(r"\s", "", template.render(messages))}
    except InvalidRequestError:
        return set()
