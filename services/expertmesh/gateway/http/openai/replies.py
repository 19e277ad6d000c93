"""Replies of OpenAI's API, and of vLLM's tokenizer endpoints. Knows fields, not how they are filled."""

from typing import Literal

from pydantic import Field

from expertmesh.gateway.http.long_json import Long, LongReply
from expertmesh.gateway.http.schema import ReplyModel, absent_when_none

FinishReason = Literal["stop", "length", "tool_calls"]
Route = list[list[int]]


class ErrorDetails(ReplyModel):
    """What went wrong."""

    message: str = Field(description="What was found, and what would be right.")
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The field that is wrong.", examples=["messages[0].role"])
    code: str | None = Field(examples=["model_not_found"])


class ErrorReply(ReplyModel):
    """An error."""

    error: ErrorDetails


class PromptTokensDetails(ReplyModel):
    """More about the tokens of the prompt."""

    cached_tokens: int = Field(description="Those that earlier requests had computed already.")


class Usage(ReplyModel):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int = Field(description="Over all answers, end-of-sequence tokens included.")
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Reply(LongReply):
    """What every completion and every chunk of one carries."""

    id: str
    created: int = Field(description="Unix time, seconds.")
    model: str
    system_fingerprint: str = Field(description="Fingerprint of the served model.")


class TopLogprob(ReplyModel):
    """A token and how probable the model found it."""

    token: str = Field(description="Its text, with \\\\xNN for a byte of an incomplete character.")
    logprob: float = Field(description="Natural logarithm of its probability, before any sampling parameter.")
    bytes: list[int] = Field(description="UTF-8 of its text.")


class TokenLogprob(TopLogprob):
    """A token of an answer, and the most probable ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(LongReply):
    """How probable the tokens of an answer were."""

    content: Long[TokenLogprob]
    refusal: None = None


class Choice(LongReply):
    """What every answer carries."""

    index: int
    finish_reason: FinishReason | None = Field(
        default=None,
        description='"stop" also for stop strings and ids, "tool_calls" where an answer ends with calls; null in all '
        "chunks but the last.",
    )
    prompt_logprobs: Long[TokenLogprob | None] | None = absent_when_none(
        "For each token of the prompt but the first; only where asked for."
    )
    routed_experts: Long[Route] | None = absent_when_none(
        "Expert ids by token and layer, of the row that produced the token, which is that of the token before; only "
        "where return_routed_experts asked for them."
    )
    dropped_experts: dict[int, int] | None = absent_when_none(
        "Experts done without, as no_replica allows, and how often the gate had chosen each. In a chunk: since "
        "the last one."
    )
    token_ids: Long[int] | None = absent_when_none("Ids of the tokens; only where return_token_ids asked for them.")


class FunctionCall(ReplyModel):
    """A function and what to call it with."""

    name: str
    arguments: str = Field(description="JSON; only the beginning of it where the answer was cut short.")


class ToolCall(ReplyModel):
    """A call that the caller is to make."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(ReplyModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None = Field(description="What stands before the calls; null where there are only calls.")
    refusal: None = None
    tool_calls: list[ToolCall] | None = absent_when_none("Only where functions are called.")


class ChatChoice(Choice):
    """One of the answers to a conversation."""

    message: AssistantMessage
    logprobs: ChatLogprobs | None = None


class ChatCompletion(Reply):
    """The answers to a conversation."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: Long[ChatChoice]
    usage: Usage
    prompt_token_ids: Long[int] | None = absent_when_none("Only where return_token_ids asked for them.")


class FunctionCallDelta(ReplyModel):
    """What is new in a call: its first piece has the name."""

    name: str | None = absent_when_none("In the first piece of a call.")
    arguments: str = Field(description="JSON to append.")


class ToolCallDelta(ReplyModel):
    """What is new in one of the calls: its first piece has id and type."""

    index: int = Field(description="Which of the answer's calls it is, from 0.")
    id: str | None = absent_when_none("In the first piece of a call.")
    type: Literal["function"] | None = absent_when_none("In the first piece of a call.")
    function: FunctionCallDelta


class Delta(ReplyModel):
    """What is new in an answer: the first one has the role, later ones text, then calls."""

    role: Literal["assistant"] | None = absent_when_none("In the first chunk of an answer.")
    content: str | None = absent_when_none("Text to append.")
    tool_calls: list[ToolCallDelta] | None = absent_when_none("What is new in calls.")


class ChatChunkChoice(Choice):
    """What is new in one of the answers."""

    delta: Delta
    logprobs: ChatLogprobs | None = None


class ChatCompletionChunk(Reply):
    """An event of a stream; the last one may have the counts and no choices."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None = absent_when_none(
        "Only in the last chunk, where stream_options.include_usage asked for it; continuous_usage_stats: in all."
    )
    prompt_token_ids: Long[int] | None = absent_when_none("In the first chunk, where return_token_ids asked for them.")


class CompletionLogprobs(LongReply):
    """How probable tokens were: four lists of one length. The first token of a text was given, not predicted: null."""

    tokens: Long[str]
    token_logprobs: Long[float | None]
    top_logprobs: Long[dict[str, float] | None]
    text_offset: Long[int] = Field(description="Characters of the choice's text before each token.")


class CompletionChoice(Choice):
    """One of the continuations, or what is new in it; its index counts the n answers of prompt after prompt."""

    text: str
    logprobs: CompletionLogprobs | None = None
    prompt_token_ids: Long[int] | None = absent_when_none("With the first text, where return_token_ids asked for them.")


class Completion(Reply):
    """Continuations of texts, or an event of a stream of them."""

    object: Literal["text_completion"] = "text_completion"
    choices: Long[CompletionChoice]
    usage: Usage | None = absent_when_none(
        "In a stream only in the last event, where include_usage asked for it; continuous_usage_stats: in all."
    )


class Model(ReplyModel):
    """The served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the gateway started, Unix time in seconds.")
    owned_by: str = "expertmesh"
    max_model_len: int = Field(description="Longest sequence, prompt and output together, tokens.")


class ModelList(ReplyModel):
    """All models: one, by each of its names."""

    object: Literal["list"] = "list"
    data: list[Model]


class TokenizeReply(LongReply):
    """Token ids of a text or conversation."""

    count: int
    max_model_len: int
    tokens: Long[int]


class DetokenizeReply(ReplyModel):
    """Text of token ids."""

    prompt: str
