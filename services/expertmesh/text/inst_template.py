"""Mistral's [INST] templates, on ids. Knows turns, not models.

The ids are those of mistral-common. Its tokenizers of version 1, which Mixtral-8x7B-Instruct was trained with, have no
tokens for [INST] and [/INST]: they are text there. Versions 2 and 3 have, and read conversations alike. It refuses a
system message right after an assistant's, which is taken here like any other.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from expertmesh.errors import CheckpointError
from expertmesh.text.conversation import Message, check_conversation
from expertmesh.text.tokenizer import Tokenizer

BEGIN, END = "[INST]", "[/INST]"
# What versions from 7 on put around system messages.
SYSTEM = "[SYSTEM_PROMPT]"


class InstTemplate:
    """[INST] and [/INST] around what the user says: as the ids that the tokenizer has for them, or as text.

    Every turn is encoded by itself. Messages of one role in a row are one turn, joined by an empty line; empty ones
    vanish. An assistant that speaks first, or nobody but the system, follows an empty user turn. System texts stand
    before the first user text where [INST] is text, before the last where it is an id, wherever they came from.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take a tokenizer of version 1, 2 or 3; CheckpointError for a later one, or without the ids for an end."""
        self._tokenizer = tokenizer
        self._begin_id, self._end_id = tokenizer.control_id(BEGIN), tokenizer.control_id(END)
        if tokenizer.control_id(SYSTEM) is not None:
            raise CheckpointError(f"{tokenizer.file} holds {SYSTEM}, of a later template than are known")
        if tokenizer.bos_id is None or tokenizer.eos_id is None:
            raise CheckpointError(
                f"{tokenizer.file} has no begin- or end-of-sequence id; bos_token and eos_token in "
                "tokenizer_config.json, as [INST] templates need, would be right"
            )
        self._bos_id, self._eos_id = tokenizer.bos_id, tokenizer.eos_id

    @property
    def has_ids(self) -> bool:
        """Whether the tokenizer has tokens for [INST] and [/INST]."""
        return self._begin_id is not None and self._end_id is not None

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation that the model is to answer; InvalidRequestError names a message out of place."""
        check_conversation(messages)
        system = _join(message.content for message in messages if message.role == "system")
        turns = _turns(messages)
        opened = (len(turns) - 1 if self.has_ids else 0) if system else None
        ids = [self._bos_id]
        for index, (role, text) in enumerate(turns):
            if role == "user":
                ids += self._encode_user(f"{system}\n\n{text}" if index == opened else text)
            else:
                ids += [*self._encode_assistant(text), self._eos_id]
        return ids

    def _encode_user(self, text: str) -> list[int]:
        if self._begin_id is None or self._end_id is None:
            return self._tokenizer.encode(f"{BEGIN} {text} {END}")
        return [self._begin_id, *self._tokenizer.encode(text), self._end_id]

    def _encode_assistant(self, text: str) -> list[int]:
        return self._tokenizer.encode(text.rstrip(" ") if self.has_ids else text)


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Return who speaks and what, the user first. A system message ends a turn, but is none."""
    groups = groupby(messages, key=lambda message: message.role)
    turns = [(role, _join(message.content for message in group)) for role, group in groups if role != "system"]
    return turns if turns and turns[0][0] == "user" else [("user", ""), *turns]


def _join(texts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, texts))
