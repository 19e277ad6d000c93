"""The [INST] template, on ids. Knows roles, not models.

The ids are those of mistral-common's first tokenizer version, which Mixtral-8x7B-Instruct was trained with. It is more
lenient in two places: it puts an empty user turn before an assistant that speaks first or behind lone system texts, and
moves a system message that follows a user's to the first user text. Both are refused here.
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

    Every turn is encoded by itself, nothing is trimmed. System texts stand before the first user text, and messages of
    one role in a row are one turn, joined by an empty line; empty ones vanish. InvalidRequestError names the message
    that is out of place.
    """
    _check(messages)
    ids = [tokenizer.bos_id]
    system = ""
    for role, group in groupby(messages, key=lambda message: message.role):
        text = _join(message.content for message in group)
        if role == "system":
            system = f"{text}\n\n" if text else ""
        elif role == "user":
            ids += tokenizer.encode(f"[INST] {system}{text} [/INST]")
            system = ""
        else:
            ids += [*tokenizer.encode(text), tokenizer.eos_id]
    return ids


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
        if message.role == "system" and any(earlier.role != "system" for earlier in messages[:position]):
            raise InvalidRequestError(f"message {position} is a system message; these must come first")
    spoken = [message.role for message in messages if message.role != "system"]
    if not spoken or spoken[0] != "user":
        raise InvalidRequestError("the conversation must begin with a user message, after the system messages")
    if spoken[-1] != "user":
        raise InvalidRequestError("the last message is the assistant's; it must be the user's")
