"""Mistral's [INST] templates, on ids. Knows turns, not models.

The ids are those of mistral-common. Its tokenizers of version 1, which Mixtral-8x7B-Instruct was trained with, have no
tokens for [INST] and [/INST]: they are text there. Versions 2 and 3 have, and read conversations alike, but for tools:
what is written of these is version 3's, which no file tells from 2. mistral-common refuses what is taken here: a system
message right after an assistant's, an assistant's without text, and text before calls.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from expertmesh.errors import CheckpointError, InvalidRequestError
from expertmesh.text.call_format import MISTRAL
from expertmesh.text.conversation import Message, check_conversation
from expertmesh.text.normal_form import join_system, merge_turns
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.tool_prompt import CALL_FORMAT, describe_call, tell_in_words
from expertmesh.text.tools import Tool, ToolCall, parse_json

BEGIN, END = "[INST]", "[/INST]"
TOOL_NAMES = ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
# What versions from 7 on put around system messages.
SYSTEM = "[SYSTEM_PROMPT]"


class InstTemplate:
    """[INST] and [/INST] around what the user says: as the ids that the tokenizer has for them, or as text.

    Every turn is encoded by itself; ``merge_turns`` says what a turn is. An assistant that speaks first, or nobody but
    the system, follows an empty user turn. System texts stand before the first user text where [INST] is text, before
    the last where it is an id, wherever they came from. Tools are told in words where there are no ids for them.
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
        ids = [token_id for name in TOOL_NAMES if (token_id := tokenizer.control_id(name)) is not None]
        self._tool_ids = ids if self.has_ids and len(ids) == len(TOOL_NAMES) else None
        self.call_format = (MISTRAL if self._tool_ids else CALL_FORMAT).bind(tokenizer)

    @property
    def has_ids(self) -> bool:
        """Whether the tokenizer has tokens for [INST] and [/INST]."""
        return self._begin_id is not None and self._end_id is not None

    def with_variables(self, variables: Mapping[str, Any]) -> "InstTemplate":
        """Return the template as it is; InvalidRequestError where there are variables."""
        if variables:
            message = f"chat_template_kwargs: {next(iter(variables))} is not known to [INST] templates"
            raise InvalidRequestError(message, "chat_template_kwargs")
        return self

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = (), continues: bool = False) -> list[int]:
        """Ids of a conversation; InvalidRequestError names a message out of place. See ``ChatTemplate``."""
        check_conversation(messages, continues)
        if self._tool_ids is None:
            messages, tools = tell_in_words(messages, tools), ()
        system, turns = join_system(messages), merge_turns(messages)
        last = max(index for index, turn in enumerate(turns) if turn.role == "user")
        opened = (last if self.has_ids else 0) if system else None
        ids = [self._bos_id]
        for index, turn in enumerate(turns):
            if index == last:
                ids += self._encode_tools(tools)
            ids += self._encode_turn(turn, system if index == opened else "")
        return ids[:-1] if turns[-1].role == "assistant" else ids

    def _encode_turn(self, turn: Message, system: str) -> list[int]:
        if turn.role == "user":
            return self._encode_user(f"{system}\n\n{turn.content}" if system else turn.content)
        if turn.role == "tool":
            return self._encode_result(turn)
        return [*self._encode_assistant(turn.content), *self._encode_calls(turn.tool_calls), self._eos_id]

    def _encode_user(self, text: str) -> list[int]:
        if self._begin_id is None or self._end_id is None:
            return self._tokenizer.encode(f"{BEGIN} {text} {END}")
        return [self._begin_id, *self._tokenizer.encode(text), self._end_id]

    def _encode_assistant(self, text: str) -> list[int]:
        return self._tokenizer.encode(text.rstrip(" ") if self.has_ids else text)

    def _encode_tools(self, tools: Sequence[Tool]) -> list[int]:
        if not tools:
            return []
        assert self._tool_ids is not None
        begin, end, *_ = self._tool_ids
        functions = [{"description": "", "parameters": {}, **tool.describe()} for tool in tools]
        ordered = [{key: function[key] for key in ("name", "description", "parameters")} for function in functions]
        return [begin, *self._encode_json([{"type": "function", "function": one} for one in ordered]), end]

    def _encode_calls(self, calls: Sequence[ToolCall]) -> list[int]:
        if not calls:
            return []
        assert self._tool_ids is not None
        return [self._tool_ids[2], *self._encode_json([{**describe_call(call), "id": call.id} for call in calls])]

    def _encode_result(self, result: Message) -> list[int]:
        assert self._tool_ids is not None
        *_, begin, end = self._tool_ids
        content = parse_json(result.content or "{}")
        return [begin, *self._encode_json({"content": content, "call_id": result.tool_call_id}), end]

    def _encode_json(self, value: Any) -> list[int]:
        return self._tokenizer.encode(json.dumps(value, ensure_ascii=False))
