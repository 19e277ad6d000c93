"""Templates in Jinja, as checkpoints bring them along, on ids. Knows what transformers gives to such a template.

Only what the template writes becomes special tokens; what users write never does.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from expertmesh.errors import CheckpointError, InvalidRequestError
from expertmesh.text.call_format import FORMATS, CallFormat
from expertmesh.text.conversation import Message, check_conversation
from expertmesh.text.normal_form import normal_forms
from expertmesh.text.token_names import TokenNames
from expertmesh.text.tokenizer import Tokenizer, check_unicode
from expertmesh.text.tool_prompt import CALL_FORMAT, describe_call, tell_in_words
from expertmesh.text.tools import Tool, ToolCall

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Render = Callable[..., str]

# What the gateway says to every template.
OWN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
# Around what a model says to itself. They are tokens of its own making, in its answers.
REASONING = ("<think>", "</think>")
# Stands behind the text that a model is to go on with; no message can hold it. A blank behind it shows whether the
# template trims messages.
_CUT = "\udffe"
_PROBE = Tool("probed", "Probed.", {"type": "object", "properties": {"value": {"type": "integer"}}})
_PROBED_CALL = ToolCall("abcdefghi", _PROBE.name, '{"value": 1}')
_PROBED_TURNS = (
    Message("user", "Hello"),
    Message("assistant", "", tool_calls=(_PROBED_CALL,)),
    Message("tool", "returned", _PROBE.name, tool_call_id=_PROBED_CALL.id),
)


class JinjaTemplate:
    """A chat template in Jinja, from ``origin``, and the one for conversations with tools where there is another.

    Tools are told in words where the template has no place for them, or writes calls in a form that is not known.
    What it refuses is put to it once more in each of the ``normal_forms``.
    """

    def __init__(self, tokenizer: Tokenizer, source: str, origin: str, tool_source: str | None = None) -> None:
        """Compile a template; CheckpointError when it is not valid, or does not take one word of a user."""
        self._tokenizer = tokenizer
        self._names = TokenNames(tokenizer.named_tokens.values())
        own = (token for token in tokenizer.named_tokens.values() if token.is_special or token.text not in REASONING)
        self._names_in_answers = TokenNames(own)
        self._render = _compile(source, origin)
        self._render_with_tools = self._render if tool_source is None else _compile(tool_source, origin)
        self._variables: Mapping[str, Any] = {}
        own_format = self._find_format()
        self._knows_tools = own_format is not None
        self.call_format = (own_format or CALL_FORMAT).bind(tokenizer)
        try:
            self.encode([Message("user", "Hello")])
        except InvalidRequestError as error:
            raise CheckpointError(f"{origin}: {error}; a template that does would be right") from None

    def with_variables(self, variables: Mapping[str, Any]) -> "JinjaTemplate":
        """Return the template with further variables; InvalidRequestError names one that is not the client's."""
        for name in variables:
            if name in OWN_VARIABLES or name in self._tokenizer.roles:
                message = f"chat_template_kwargs: {name} is set already, by the gateway"
                raise InvalidRequestError(message, "chat_template_kwargs")
        other = copy(self)
        other._variables = {name: _mark(value, self._names) for name, value in variables.items()}
        return other

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = (), continues: bool = False) -> list[int]:
        """Ids of a conversation; InvalidRequestError also when the template refuses it. See ``ChatTemplate``."""
        check_conversation(messages, continues)
        if not self._knows_tools:
            messages, tools = tell_in_words(messages, tools), ()
        text = self._render_some_form(messages, tools, continues)
        return self._tokenizer.encode_sections(list(self._names.split(text)))

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), continues: bool = False) -> str:
        """Return a conversation as the template writes it, with marks; InvalidRequestError when it refuses it."""
        called = {call.id: call.name for message in messages for call in message.tool_calls}
        conversation = [self._describe(message, called) for message in messages]
        if continues:
            conversation[-1]["content"] += f"{_CUT} "
        try:
            text = (self._render_with_tools if tools or called else self._render)(
                **self._variables,
                **self._tokenizer.roles,
                messages=conversation,
                tools=[{"type": "function", "function": _mark(tool.describe(), self._names)} for tool in tools] or None,
                documents=None,
                add_generation_prompt=not continues,
            )
        except Exception as error:  # whatever a template of a stranger may raise, TemplateError first of all
            raise InvalidRequestError(f"the chat template does not take the conversation: {error}") from None
        return _cut(text) if continues else text

    def _render_some_form(self, messages: Sequence[Message], tools: Sequence[Tool], continues: bool) -> str:
        """Render a conversation as it is, or else in the first form that the template takes."""
        try:
            return self.render(messages, tools, continues)
        except InvalidRequestError as refusal:
            for form in normal_forms(messages):
                if continues and form[-1].role != "assistant":
                    continues = False
                try:
                    return self.render(form, tools, continues)
                except InvalidRequestError:
                    continue
            raise refusal

    def _describe(self, message: Message, called: Mapping[str, str]) -> dict[str, Any]:
        """Return a message as templates expect it, in which users cannot write tokens."""
        fields: dict[str, Any] = {"content": message.content}
        if message.tool_calls:
            functions = [(call.id, describe_call(call)) for call in message.tool_calls]
            fields["tool_calls"] = [
                {"type": "function", "id": one, "function": function} for one, function in functions
            ]
        if message.tool_call_id is not None:
            fields["tool_call_id"] = message.tool_call_id
        name = message.name or called.get(message.tool_call_id or "")
        if name is not None:
            fields["name"] = name
        # A template may look for the tokens around the reasoning in an answer.
        names = self._names_in_answers if message.role == "assistant" else self._names
        return {"role": message.role, **_mark(fields, names)}

    def _find_format(self) -> CallFormat | None:
        """Return the form in which the template writes calls, if it shows tools, calls and what came of them."""
        try:
            offered = self.render(_PROBED_TURNS[:1], [_PROBE])
            used = self.render(_PROBED_TURNS, [_PROBE])
        except InvalidRequestError:
            return None
        if _PROBE.name not in offered or _PROBED_TURNS[-1].content not in used:
            return None
        return next((one for one in FORMATS if one.appears_in(used, _PROBE.name)), None)


def _mark(value: Any, names: TokenNames) -> Any:
    """Mark ``names`` in every text of a JSON value; InvalidRequestError for one that is not Unicode."""
    match value:
        case str():
            check_unicode(value)
            return names.mark(value)
        case Mapping():
            return {_mark(key, names): _mark(item, names) for key, item in value.items()}
        case list():
            return [_mark(item, names) for item in value]
    return value


def _cut(text: str) -> str:
    """Cut what stands behind the text that is to be continued; a template that trims it gets no blanks at its end."""
    if _CUT not in text:
        raise InvalidRequestError("the chat template does not show the last message, which is to be continued")
    kept, behind = text[: text.rindex(_CUT)], text[text.rindex(_CUT) + 1 :]
    return kept if behind.startswith(" ") else kept.rstrip()


def _compile(source: str, origin: str) -> Render:
    from jinja2 import TemplateSyntaxError

    try:
        return _make_environment().from_string(source).render
    except TemplateSyntaxError as error:
        raise CheckpointError(f"{origin}: line {error.lineno} of the chat template is not valid: {error}") from None


def _make_environment() -> "ImmutableSandboxedEnvironment":
    """Make what transformers renders chat templates in."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from expertmesh.text.generation_tag import GenerationTag

    extensions = [GenerationTag, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without the escapes for HTML of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
