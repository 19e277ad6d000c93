"""Conversations as strict templates want them: users and assistants take turns, as mistral-common has it.

Knows messages, no template.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from expertmesh.text.conversation import Message
from expertmesh.text.tools import CALL_ID


def normal_forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield ways to say the same: with the system texts in one message at the front, and before the first user text."""
    turns = merge_turns(messages)
    system = join_system(messages)
    yield [Message("system", system), *turns] if system else turns
    if system:
        first, *others = turns
        yield [replace(first, content=join((system, first.content))), *others]


def merge_turns(messages: Sequence[Message]) -> list[Message]:
    """Return one message a turn, the user's first, without system messages: these part turns of users, but are none.

    Messages of one role in a row are joined by an empty line; empty ones vanish. Results of tools stay apart. Call ids
    are such as every template takes.
    """
    spoken = [_with_plain_ids(message) for message in messages if not message.is_empty_answer]
    turns: list[Message] = []
    for role, group in groupby(spoken, key=lambda message: message.role):
        if role == "tool":
            turns += group
        elif role != "system":
            turns.append(_merge(role, list(group)))
    return turns if turns and turns[0].role == "user" else [Message("user", ""), *turns]


def join_system(messages: Iterable[Message]) -> str:
    """Return what the system says, wherever it stands."""
    return join(message.content for message in messages if message.role == "system")


def join(texts: Iterable[str]) -> str:
    """Join texts by an empty line, but for empty ones."""
    return "\n\n".join(filter(None, texts))


def _merge(role: str, messages: Sequence[Message]) -> Message:
    calls = tuple(call for message in messages for call in message.tool_calls)
    return Message(role, join(message.content for message in messages), tool_calls=calls)


def _with_plain_ids(message: Message) -> Message:
    calls = tuple(replace(call, id=_plain_id(call.id)) for call in message.tool_calls)
    answered = message.tool_call_id and _plain_id(message.tool_call_id)
    return replace(message, tool_calls=calls, tool_call_id=answered)


def _plain_id(call_id: str) -> str:
    """Return an id that Mistral's templates take; the same for the same."""
    if CALL_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode(errors="surrogatepass")).hexdigest()[:9]
