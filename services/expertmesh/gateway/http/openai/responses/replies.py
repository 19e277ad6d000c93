"""Responses as replies. Knows fields, not how they are filled."""

from typing import Any, Literal

from pydantic import Field

from expertmesh.gateway.http.long_json import Long, LongReply
from expertmesh.gateway.http.openai.replies import TokenLogprob
from expertmesh.gateway.http.openai.responses.requests import ResponseTool, TextSettings, ToolChoiceField
from expertmesh.gateway.http.schema import ReplyModel

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(LongReply):
    """What the model says."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default=[], max_length=0, description="Nothing is quoted here.")
    logprobs: Long[TokenLogprob] = Field(
        default=[], description="How probable its tokens were; empty where include does not ask for it."
    )


class OutputMessage(LongReply):
    """An answer in words."""

    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[OutputText]


class OutputCall(ReplyModel):
    """A call that the caller is to make, unless it is incomplete."""

    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str = Field(description="What the item with its result names.")
    name: str
    arguments: str = Field(description="JSON; only the beginning of it where the answer was cut short.")
    status: ItemStatus


OutputItem = OutputMessage | OutputCall


class InputTokensDetails(ReplyModel):
    """More about the tokens of the input."""

    cached_tokens: int = Field(description="Those that earlier requests had computed already.")
    cache_write_tokens: int = Field(default=0, description="Nothing is written on demand.")


class OutputTokensDetails(ReplyModel):
    """More about the tokens of the output."""

    reasoning_tokens: int = 0


class ResponseUsage(ReplyModel):
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int = Field(description="End-of-sequence tokens included.")
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class IncompleteDetails(ReplyModel):
    """Why a response stops before its end."""

    reason: Literal["max_output_tokens"] = Field(description="Also where the context is full.")


class ResponseError(ReplyModel):
    """What went wrong in the middle of a response."""

    code: Literal["server_error", "invalid_prompt"]
    message: str


class ResponseSettings(LongReply):
    """What was asked for, as it comes back."""

    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    temperature: float
    text: TextSettings
    tool_choice: ToolChoiceField
    tools: list[ResponseTool]
    top_logprobs: int
    top_p: float


class Response(ResponseSettings):
    """The answer to a conversation."""

    id: str
    object: Literal["response"] = "response"
    created_at: int = Field(description="Unix time, seconds.")
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    output: list[OutputItem] = Field(default=[], description="What the model says, then what it calls.")
    usage: ResponseUsage | None = Field(default=None, description="Null while the response is in progress.")
    background: Literal[False] = False
    previous_response_id: None = None
    store: Literal[False] = Field(default=False, description="Nothing is kept.")
    truncation: Literal["disabled"] = "disabled"
