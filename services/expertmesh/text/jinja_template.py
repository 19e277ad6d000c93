"""Templates in Jinja, as checkpoints bring them along, on ids. Knows what transformers gives to such a template.

Only what the template writes becomes special tokens; what users write never does.
"""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from expertmesh.errors import CheckpointError, InvalidRequestError
from expertmesh.text.conversation import Message, check_conversation
from expertmesh.text.token_names import TokenNames
from expertmesh.text.tokenizer import Tokenizer, check_unicode

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

# Around what a model says to itself. They are tokens of its own making, in its answers.
REASONING = ("<think>", "</think>")


class JinjaTemplate:
    """A chat template in Jinja, from ``origin``."""

    def __init__(self, tokenizer: Tokenizer, source: str, origin: str) -> None:
        """Compile a template; CheckpointError when it is not valid, or does not take one word of a user."""
        self._tokenizer = tokenizer
        self._names = TokenNames(tokenizer.named_tokens.values())
        own = (token for token in tokenizer.named_tokens.values() if token.is_special or token.text not in REASONING)
        self._names_in_answers = TokenNames(own)
        self._render = _compile(source, origin)
        try:
            self.encode([Message("user", "Hello")])
        except InvalidRequestError as error:
            raise CheckpointError(f"{origin}: {error}; a template that does would be right") from None

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation that the model is to answer; InvalidRequestError also when the template refuses it."""
        check_conversation(messages)
        for message in messages:
            check_unicode(message.content)
        marked = [Message(message.role, self._mark(message)) for message in messages]
        return self._tokenizer.encode_sections(list(self._names.split(self.render(marked))))

    def _mark(self, message: Message) -> str:
        """Mark the names in a message; a template may look for those around the reasoning in an answer."""
        names = self._names_in_answers if message.role == "assistant" else self._names
        return names.mark(message.content)

    def render(self, messages: Sequence[Message]) -> str:
        """Return a conversation as the template writes it; InvalidRequestError when it refuses it."""
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._render(
                **self._tokenizer.roles,
                messages=conversation,
                tools=None,
                documents=None,
                add_generation_prompt=True,
            )
        except Exception as error:  # whatever a template of a stranger may raise, TemplateError first of all
            raise InvalidRequestError(f"the chat template does not take the conversation: {error}") from None


def _compile(source: str, origin: str) -> Callable[..., str]:
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
