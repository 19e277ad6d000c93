"""Questions to messages of the public protos, and messages to answers. Knows both shapes, no transport."""

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from expertmesh.client.answers import FinishReason, Piece, TokenLogprob, TokenLogprobs, ToolCallPiece
from expertmesh.client.mesh import (
    ExpertLoad,
    ExpertRates,
    GatewayLoad,
    Load,
    LoadRates,
    LoadUpdate,
    ReplicaLoad,
    ReplicaState,
)
from expertmesh.client.questions import (
    Chat,
    JsonObject,
    JsonSchema,
    Message,
    Output,
    Prompt,
    Regex,
    ResponseFormat,
    Sampling,
    Tool,
    ToolUse,
)
from expertmesh.errors import InvalidRequestError
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import load_pb2
from expertmesh.wire.model_info import ModelInfo

FINISH_REASONS: dict[int, FinishReason] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_STOP_SEQUENCE: "stop_sequence",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}

TOOL_CHOICES: dict[str, pb.ToolChoice.Mode] = {
    "auto": pb.ToolChoice.MODE_AUTO,
    "none": pb.ToolChoice.MODE_NONE,
    "required": pb.ToolChoice.MODE_REQUIRED,
}

REPLICA_STATES: dict[int, ReplicaState] = {
    load_pb2.REPLICA_STATE_READY: "ready",
    load_pb2.REPLICA_STATE_CONNECTING: "connecting",
    load_pb2.REPLICA_STATE_EJECTED: "ejected",
    load_pb2.REPLICA_STATE_RETIRED: "retired",
}


def encode_generate(prompt: Prompt, sampling: Sampling, output: Output) -> pb.GenerateRequest:
    """Ask to continue a prompt; InvalidRequestError when a value fits no message."""
    request = pb.GenerateRequest(sampling=encode_sampling(sampling), output=encode_output(output))
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.token_ids.CopyFrom(_make(pb.TokenIds, ids=prompt))
    return request


def encode_chat(
    chat: Chat, sampling: Sampling, output: Output, use: ToolUse = ToolUse(), continues: bool = False
) -> pb.ChatRequest:
    """Ask to answer a conversation; InvalidRequestError when a value fits no message."""
    return pb.ChatRequest(
        messages=encode_messages(chat),
        sampling=encode_sampling(sampling),
        output=encode_output(output),
        tools=[_encode_tool(tool) for tool in use.tools],
        tool_choice=_encode_choice(use),
        continue_final_message=continues,
    )


def _encode_tool(tool: Tool) -> pb.Tool:
    parameters = tool.parameters if isinstance(tool.parameters, str | None) else json.dumps(tool.parameters)
    encoded: pb.Tool = _make(
        pb.Tool, name=tool.name, description=tool.description, parameters=parameters, strict=tool.strict
    )
    return encoded


def _encode_choice(use: ToolUse) -> pb.ToolChoice:
    """Encode a choice: what is none of the modes is the name of a function."""
    if use.choice in TOOL_CHOICES:
        return pb.ToolChoice(mode=TOOL_CHOICES[use.choice], single=use.single)
    choice: pb.ToolChoice = _make(pb.ToolChoice, name=use.choice, single=use.single)
    return choice


def encode_messages(chat: Chat) -> list[pb.ChatMessage]:
    """Turn a conversation into messages."""
    turns = [Message("user", chat)] if isinstance(chat, str) else chat
    return [_encode_message(turn if isinstance(turn, Message) else Message(*turn)) for turn in turns]


def _encode_message(message: Message) -> pb.ChatMessage:
    values = _values(message)
    calls = [_make(pb.ToolCall, id=call.id, name=call.name, arguments=call.arguments) for call in message.tool_calls]
    encoded: pb.ChatMessage = _make(pb.ChatMessage, **{**values, "tool_calls": calls})
    return encoded


def encode_sampling(sampling: Sampling) -> pb.SamplingParams:
    """Set the fields that are not None."""
    message: pb.SamplingParams = _make(pb.SamplingParams, **_values(sampling))
    return message


def encode_output(output: Output) -> pb.OutputParams:
    """Set the fields that are not None."""
    values = _values(output)
    stop, response_format = values.pop("stop"), values.pop("response_format", None)
    if output.no_replica is not None:
        values["no_replica"] = f"NO_REPLICA_{output.no_replica.upper()}"
    message: pb.OutputParams = _make(pb.OutputParams, stop=[stop] if isinstance(stop, str) else stop, **values)
    if response_format is not None:
        message.response_format.CopyFrom(_encode_format(response_format))
    return message


def _encode_format(response_format: ResponseFormat) -> pb.ResponseFormat:
    match response_format:
        case JsonObject():
            return pb.ResponseFormat(json_object=pb.JsonObject())
        case JsonSchema(schema):
            return pb.ResponseFormat(json_schema=schema if isinstance(schema, str) else json.dumps(schema))
        case Regex(pattern):
            return pb.ResponseFormat(regex=pattern)


def _values(question: Sampling | Output | Message) -> dict[str, Any]:
    values = {field.name: getattr(question, field.name) for field in fields(question)}
    return {name: value for name, value in values.items() if value is not None}


def _make(message: Any, **values: Any) -> Any:
    try:
        return message(**values)
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(f"{message.DESCRIPTOR.name}: {error}") from None


def encode_tokenize(text: str | Iterable[tuple[str, str] | Message]) -> pb.TokenizeRequest:
    """Ask for the ids of a raw text, or of a conversation in the template."""
    if isinstance(text, str):
        return pb.TokenizeRequest(text=text)
    return pb.TokenizeRequest(conversation=pb.Conversation(messages=encode_messages(text)))


def encode_detokenize(token_ids: Iterable[int]) -> pb.DetokenizeRequest:
    """Ask for the text of ids; InvalidRequestError for a number that cannot be an id."""
    request: pb.DetokenizeRequest = _make(pb.DetokenizeRequest, token_ids=token_ids)
    return request


def decode_delta(delta: pb.Delta) -> Piece:
    """Read a piece of an answer."""
    return Piece(
        text=delta.text,
        token_ids=tuple(delta.token_ids),
        finish_reason=FINISH_REASONS.get(delta.finish_reason),
        num_prompt_tokens=delta.usage.prompt_tokens,
        num_output_tokens=delta.usage.completion_tokens,
        index=delta.index,
        num_cached_tokens=delta.usage.cached_prompt_tokens,
        stop=delta.stop or None,
        logprobs=_decode_logprobs(delta.logprobs),
        prompt_logprobs=_decode_logprobs(delta.prompt_logprobs),
        routed_experts=tuple(
            tuple(tuple(layer.expert_ids) for layer in token.layers) for token in delta.routed_experts
        ),
        tool_call_pieces=tuple(
            ToolCallPiece(piece.index, piece.id or None, piece.name or None, piece.arguments)
            for piece in delta.tool_calls
        ),
        dropped_experts={dropped.expert_id: dropped.num_choices for dropped in delta.dropped_experts},
    )


def _decode_logprobs(messages: Iterable[pb.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    return tuple(
        TokenLogprobs(_decode_logprob(message.token), tuple(map(_decode_logprob, message.top))) for message in messages
    )


def _decode_logprob(message: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(message.token_id, message.logprob, message.token_bytes)


def decode_info(message: pb.GetModelInfoResponse) -> ModelInfo:
    """Read what is said about the model."""
    return ModelInfo(**_same(ModelInfo, message))


def decode_load(message: load_pb2.GetLoadResponse) -> Load:
    """Read the counts of experts and replicas."""
    return Load(
        experts=tuple(map(_decode_expert, message.experts)),
        replicas=tuple(map(_decode_replica, message.replicas)),
        balancedness=message.balancedness,
        gateway=GatewayLoad(**_same(GatewayLoad, message.gateway)),
    )


def encode_watch(interval_seconds: float) -> load_pb2.WatchLoadRequest:
    """Ask for loads every so often; InvalidRequestError when that fits no message."""
    request: load_pb2.WatchLoadRequest = _make(load_pb2.WatchLoadRequest, interval_ms=round(interval_seconds * 1000))
    return request


def decode_update(message: load_pb2.WatchLoadResponse) -> LoadUpdate:
    """Read one of a stream of loads."""
    rates = _decode_rates(message.rates) if message.HasField("rates") else None
    return LoadUpdate(decode_load(message.load), rates)


def _decode_rates(message: load_pb2.LoadRates) -> LoadRates:
    return LoadRates(**_same(LoadRates, message, experts=tuple(map(_decode_expert_rates, message.experts))))


def _decode_expert_rates(message: load_pb2.ExpertRates) -> ExpertRates:
    by_layer = tuple(message.tokens_per_second_by_layer)
    return ExpertRates(**_same(ExpertRates, message, tokens_per_second_by_layer=by_layer))


def _decode_expert(message: load_pb2.ExpertLoad) -> ExpertLoad:
    replicas = {_decode_state(count.state): count.replicas for count in message.replicas}
    tokens_by_layer = tuple(message.tokens_by_layer)
    return ExpertLoad(**_same(ExpertLoad, message, tokens_by_layer=tokens_by_layer, replicas=replicas))


def _decode_replica(message: load_pb2.ReplicaLoad) -> ReplicaLoad:
    experts, state = tuple(message.experts), _decode_state(message.state)
    return ReplicaLoad(**_same(ReplicaLoad, message, experts=experts, state=state))


def _same(kind: Any, message: Any, **read: Any) -> dict[str, Any]:
    """Take the fields that a dataclass and a message have by the same name, but for those ``read`` already."""
    return {field.name: getattr(message, field.name) for field in fields(kind)} | read


def _decode_state(state: int) -> ReplicaState:
    return REPLICA_STATES.get(state, "unknown")
