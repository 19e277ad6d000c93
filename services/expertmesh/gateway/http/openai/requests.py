"""Requests of OpenAI's API and of vLLM's tokenizer endpoints. Knows fields and types, not what is done with them."""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from expertmesh.gateway.http.openai.fields import MAX_COUNT, CompletionFields, TokenIds
from expertmesh.gateway.http.parameters import parameter
from expertmesh.gateway.http.schema import Only, RequestModel
from expertmesh.text.conversation import Message

MAX_PROMPTS = 1024


class TextPart(RequestModel):
    """A part of a message; parts are joined by an empty line."""

    type: Literal["text"]
    text: str


def _text_or_parts(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<parts>"


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Tag("<parts>")], Discriminator(_text_or_parts)
]


class ChatMessage(RequestModel):
    """A message of a conversation. The model's template says where system messages go."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description='"developer" is "system".')
    content: Content = Field(description="Text, or parts of it.")
    name: Annotated[Any, Only()] = None
    refusal: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None
    tool_calls: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only()] = None

    def to_message(self) -> Message:
        """Return what the template takes."""
        text = self.content if isinstance(self.content, str) else "\n\n".join(p.text for p in self.content if p.text)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatCompletionRequest(CompletionFields):
    """A conversation to answer. Without max_tokens an answer may fill the context."""

    messages: list[ChatMessage] = Field(
        min_length=1,
        description="The conversation, oldest first; the last one who speaks is the user.",
        examples=[[{"role": "user", "content": "What is 291 - 150?"}]],
    )
    max_completion_tokens: int | None = parameter("max_tokens", "Newer name of max_tokens.", le=MAX_COUNT)
    logprobs: bool | None = Field(default=None, description="Return how probable each token was.")
    top_logprobs: int | None = parameter("logprobs", "Alternatives to return for each token; only with logprobs.")
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    parallel_tool_calls: bool | None = Field(default=None, description="Changes nothing: there are no tools.")
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    modalities: Annotated[Any, Only(["text"])] = None
    reasoning_effort: Annotated[Any, Only("none")] = None
    verbosity: Annotated[Any, Only("medium")] = None
    audio: Annotated[Any, Only()] = None
    prediction: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None
    moderation: Annotated[Any, Only()] = None


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

    prompt: Prompt = Field(
        description="A text, a list of texts, token ids or lists of them. A text gets the begin-of-sequence token "
        "before it, ids are used as they are.",
        examples=["The capital of France is"],
    )
    echo: bool | None = Field(default=None, description="Put the prompt before the text, and its tokens into logprobs.")
    logprobs: int | None = parameter("logprobs")
    suffix: Annotated[Any, Only("")] = None

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts one by one: texts or ids."""
        match self.prompt:
            case str() | [int(), *_]:
                return [cast(str | list[int], self.prompt)]
        return cast(list[str | list[int]], self.prompt)


class TokenizeRequest(RequestModel):
    """A text or a conversation, tokenized as a completion would."""

    model: str | None = Field(default=None, description="As for completions.")
    prompt: str | None = Field(default=None, description="A text.", examples=["Hello world"])
    messages: list[ChatMessage] | None = Field(default=None, min_length=1, description="A conversation.")
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
