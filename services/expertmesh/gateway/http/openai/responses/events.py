"""Events of a streamed response. Knows fields, not when which is sent."""

from typing import Annotated, Literal

from pydantic import Field, RootModel

from expertmesh.gateway.http.long_json import Long, LongReply
from expertmesh.gateway.http.openai.replies import TokenLogprob
from expertmesh.gateway.http.openai.responses.replies import OutputItem, OutputText, Response

PartKind = Literal["response.content_part.added", "response.content_part.done"]


class Event(LongReply):
    """What every event carries."""

    type: str
    sequence_number: int = Field(default=0, description="Counts the events of a stream, from 0.")


class ResponseEvent(Event):
    """The response begins, or ends with this status."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: Response


class _ItemEvent(Event):
    output_index: int = Field(description="Which item of the output it is, from 0.")


class ItemEvent(_ItemEvent):
    """An item begins, or is done."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    item: OutputItem


class _PartEvent(_ItemEvent):
    item_id: str
    content_index: Literal[0] = 0


class PartEvent(_PartEvent):
    """The text of a message begins, or is done."""

    type: PartKind
    part: OutputText


class TextDeltaEvent(_PartEvent):
    """Text to append."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: Long[TokenLogprob]


class TextDoneEvent(_PartEvent):
    """The whole text."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: Long[TokenLogprob]


class ArgumentsDeltaEvent(_ItemEvent):
    """Arguments of a call to append."""

    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    item_id: str
    delta: str


class ArgumentsDoneEvent(_ItemEvent):
    """The whole arguments of a call."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    item_id: str
    name: str
    arguments: str


class ResponseStreamEvent(
    RootModel[
        Annotated[
            ResponseEvent
            | ItemEvent
            | PartEvent
            | TextDeltaEvent
            | TextDoneEvent
            | ArgumentsDeltaEvent
            | ArgumentsDoneEvent,
            Field(discriminator="type"),
        ]
    ]
):
    """An event of a stream."""
