"""The [INST] template, on ids. Knows roles, not models.

The ids are those of mistral-common's first tokenizer version, which Mixtral-8x7B-Instruct was trained with. It refuses
a system message right after an assistant's, which is taken here like any other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from expertmesh.errors import InvalidRequestError
from expertmesh.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One message of a conversation; ``role`` is "system", "user" or "assistant"."""

    role: str
    content: str


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of raw text behind the begin-of-sequence id."""
    return [tokenizer.bos_id, *tokenizer.encode(text)]


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation that the model is to answer.

    Every turn is encoded by itself, nothing is trimmed. Messages of one role in a row are one turn, joined by an empty
    line; empty ones vanish. System texts stand before the first user text, wherever they came from; an assistant that
    speaks first, or nobody but the system, follows an empty user turn. InvalidRequestError names the message that is
    out of place.
    """
    _check(messages)
    system = _join(message.content for message in messages if message.role == "system")
    opening = f"{system}\n\n" if system else ""
    ids = [tokenizer.bos_id]
    for role, text in _turns(messages):
        if role == "user":
            ids += tokenizer.encode(f"[INST] {opening}{text} [/INST]")
            opening = ""
        else:
            ids += [*tokenizer.encode(text), tokenizer.eos_id]
    return ids


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Return who speaks and what, the user first. A system message ends a turn, but is none."""
    groups = groupby(messages, key=lambda message: message.role)
    turns = [(role, _join(message.content for message in group)) for role, group in groups if role != "system"]
    return turns if turns and turns[0][0] == "user" else [("user", ""), *turns]


def _join(texts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, texts))


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise InvalidRequestError("the conversation is empty; it needs a user message")
    for position, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidRequestError(
                f"message {position} has role {message.role!r}; it must be one of {', '.join(ROLES)}"
            )
        if message.role == "assistant" and not message.content:
            raise InvalidRequestError(f"message {position}, the assistant's, is empty")
    spoken = [message.role for message in messages if message.role != "system"]
    if spoken and spoken[-1] != "user":
        raise InvalidRequestError("the last message is the assistant's; it must be the user's")
