"""Requests of OpenAI's API and of vLLM's tokenizer endpoints. Knows fields and types, not what is done with them."""

from typing import Annotated, Any, Self, cast

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from expertmesh.gateway.generation_request import MAX_MESSAGES
from expertmesh.gateway.http.openai import unused_fields
from expertmesh.gateway.http.openai.conversation import ChatMessage, TemplateFields, ToolChoiceField, tool_use
from expertmesh.gateway.http.openai.fields import MAX_COUNT, CompletionFields, TokenIds
from expertmesh.gateway.http.parameters import parameter
from expertmesh.gateway.http.schema import Only, RequestModel, absent_for
from expertmesh.text.tools import ToolUse

MAX_PROMPTS = 1024


class ChatCompletionRequest(CompletionFields, TemplateFields):
    """A conversation to answer. Without max_tokens an answer may fill the context."""

    rules = (*unused_fields.COMPLETIONS, *unused_fields.CHAT)

    messages: list[ChatMessage] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        fail_fast=True,
        description="The conversation, oldest first; the last one who speaks is the user, or a tool.",
        examples=[[{"role": "user", "content": "What is 291 - 150?"}]],
    )
    max_tokens: Annotated[int | None, absent_for(-1)] = parameter("max_tokens", le=MAX_COUNT)
    max_completion_tokens: Annotated[int | None, absent_for(-1)] = parameter(
        "max_tokens", "Newer name of max_tokens.", le=MAX_COUNT
    )
    logprobs: bool | None = Field(default=None, description="Return how probable each token was.")
    top_logprobs: int | None = parameter("logprobs", "Alternatives to return for each token; only with logprobs.")
    tool_choice: ToolChoiceField | None = Field(
        default=None,
        description="none: call nothing; auto: answer or call; required (or any): call; or the function to call. "
        "Default: auto.",
    )
    parallel_tool_calls: bool | None = Field(default=None, description="Whether an answer may call more than once.")
    functions: Annotated[Any, Only([], hint="use tools")] = None
    function_call: Annotated[Any, Only("none", "auto", hint="use tool_choice")] = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further variables of the template, where it is one in Jinja."
    )

    def tool_use(self) -> ToolUse:
        """Return what an answer may call."""
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)


def _kind_of_prompt(value: Any) -> str:
    """Tell the four kinds of prompts apart by their first element."""
    if not isinstance(value, list):
        return "<text>"
    first = value[0] if value else ""
    return "<ids>" if isinstance(first, int) else "<list of ids>" if isinstance(first, list) else "<texts>"


Prompt = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("<texts>")]
    | Annotated[TokenIds, Field(min_length=1), Tag("<ids>")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("<list of ids>")],
    Discriminator(_kind_of_prompt),
]


class CompletionRequest(CompletionFields):
    """A text to continue. Without max_tokens 16 tokens are produced."""

    rules = (*unused_fields.COMPLETIONS, *unused_fields.TEXT)

    prompt: Prompt = Field(
        description="A text, a list of texts, token ids or lists of them. A text gets the begin-of-sequence token "
        "before it, ids are used as they are.",
        examples=["The capital of France is"],
    )
    echo: bool | None = Field(default=None, description="Put the prompt before the text, and its tokens into logprobs.")
    max_tokens: int | None = parameter("max_tokens", "Tokens to produce; 0 = only echo the prompt.", ge=0, le=MAX_COUNT)
    logprobs: Annotated[int | None, absent_for(False)] = parameter("logprobs")
    add_special_tokens: bool = Field(default=True, description="Put the begin-of-sequence token before a text.")

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts one by one: texts or ids."""
        match self.prompt:
            case str() | [int(), *_]:
                return [cast(str | list[int], self.prompt)]
        return cast(list[str | list[int]], self.prompt)


class TokenizeRequest(TemplateFields):
    """A text or a conversation, tokenized as a completion would."""

    model: str | None = Field(default=None, description="As for completions.")
    prompt: str | None = Field(default=None, description="A text.", examples=["Hello world"])
    messages: list[ChatMessage] | None = Field(
        default=None, min_length=1, max_length=MAX_MESSAGES, fail_fast=True, description="A conversation."
    )
    add_special_tokens: bool = Field(default=True, description="Put the begin-of-sequence token before a text.")

    @model_validator(mode="after")
    def _has_one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("unsupported", "needs either prompt or messages")
        return self


class DetokenizeRequest(RequestModel):
    """Token ids."""

    model: str | None = Field(default=None, description="As for completions.")
    tokens: TokenIds = Field(description="Token ids.", examples=[[1, 22557, 1526]])
