"""Messages of generation.proto to requests, and answers to messages. Knows both shapes, no transport."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from expertmesh.engine.request import FinishReason
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generation_request import (
    MAX_BIASES,
    MAX_CALLS,
    MAX_MESSAGES,
    MAX_STOP_IDS,
    MAX_STOPS,
    GenerationRequest,
    check_count,
)
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.choice import Choice
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.conversation import Message
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.tools import MAX_TOOLS, Tool, ToolCall, ToolChoice, ToolUse, parse_json
from expertmesh.v1 import generation_pb2 as pb

NO_REPLICA: dict[int, str] = {
    pb.NO_REPLICA_WAIT: "wait",
    pb.NO_REPLICA_FAIL: "fail",
    pb.NO_REPLICA_DROP: "drop",
}
FINISH_REASONS = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
TOOL_CHOICES = {
    pb.ToolChoice.MODE_AUTO: ToolChoice.AUTO,
    pb.ToolChoice.MODE_NONE: ToolChoice.NONE,
    pb.ToolChoice.MODE_REQUIRED: ToolChoice.REQUIRED,
}

TokenBytes = Callable[[int], bytes]


def decode_conversation(
    messages: Sequence[pb.ChatMessage], tools: Sequence[pb.Tool], choice: pb.ToolChoice | None = None
) -> tuple[list[Message], ToolUse]:
    """Turn a conversation into what the template takes."""
    use = decode_tools(tools, choice)
    return decode_messages(messages), use


def decode_messages(messages: Sequence[pb.ChatMessage]) -> list[Message]:
    """Turn the turns of a conversation into messages of the template; InvalidRequestError where they are too many."""
    check_count("messages", messages, MAX_MESSAGES)
    return [
        Message(
            message.role,
            message.content,
            message.name or None,
            _decode_calls(message.tool_calls, index),
            message.tool_call_id or None,
        )
        for index, message in enumerate(messages)
    ]


def _decode_calls(calls: Sequence[pb.ToolCall], index: int) -> tuple[ToolCall, ...]:
    check_count(f"messages[{index}].tool_calls", calls, MAX_CALLS)
    return tuple(ToolCall(call.id, call.name, call.arguments) for call in calls)


def decode_tools(tools: Sequence[pb.Tool], choice: pb.ToolChoice | None = None) -> ToolUse:
    """Say what an answer may call; InvalidRequestError for a choice that is not known."""
    check_count("tools", tools, MAX_TOOLS, "functions")
    if choice is None:
        choice = pb.ToolChoice()
    if choice.mode not in TOOL_CHOICES:
        raise InvalidRequestError(f"tool_choice.mode is {choice.mode}; it must be one of {list(TOOL_CHOICES)}")
    mode = ToolChoice.REQUIRED if choice.name else TOOL_CHOICES[choice.mode]
    decoded = tuple(_decode_tool(tool, index) for index, tool in enumerate(tools))
    return ToolUse(decoded, mode, choice.name or None, not choice.single)


def _decode_tool(tool: pb.Tool, index: int) -> Tool:
    parameters = parse_json(tool.parameters) if tool.parameters else None
    if not isinstance(parameters, dict | None):
        raise InvalidRequestError(f"tools[{index}].parameters is {tool.parameters[:80]!r}; it must be a JSON schema")
    return Tool(tool.name, tool.description or None, parameters, tool.strict)


def decode_request(
    prompt_ids: Sequence[int], sampling: pb.SamplingParams, output: pb.OutputParams, defaults: SamplingParams
) -> GenerationRequest:
    """Turn a request into what the generator takes; values out of range are found there, too many of them here."""
    check_count("stop", output.stop, MAX_STOPS, "strings")
    check_count("stop_ids", sampling.stop_ids, MAX_STOP_IDS)
    check_count("logit_bias", sampling.logit_bias, MAX_BIASES)
    return GenerationRequest(
        prompt_ids=tuple(prompt_ids),
        sampling=decode_sampling(sampling, defaults),
        stop=tuple(output.stop),
        n=output.n if output.HasField("n") else 1,
        best_of=output.best_of if output.HasField("best_of") else None,
        grammar=decode_grammar(output.response_format) if output.HasField("response_format") else None,
        return_routed_experts=output.return_routed_experts,
        no_replica=_decode_no_replica(output.no_replica),
    )


def _decode_no_replica(value: pb.NoReplica) -> str:
    if value == pb.NO_REPLICA_UNSPECIFIED:
        return ""
    if value not in NO_REPLICA:
        raise InvalidRequestError(f"no_replica is {value}; one of {sorted(NO_REPLICA)} would be right", "no_replica")
    return NO_REPLICA[value]


def decode_sampling(message: pb.SamplingParams, defaults: SamplingParams) -> SamplingParams:
    """Lay the fields that a request sets over the defaults."""
    return replace(
        defaults, **{descriptor.name: _plain(descriptor.name, value) for descriptor, value in message.ListFields()}
    )


def _plain(name: str, value: Any) -> Any:
    match name:
        case "logit_bias":
            return tuple(sorted(value.items()))
        case "stop_ids":
            return tuple(value)
    return value


def decode_grammar(message: pb.ResponseFormat) -> Grammar:
    """Turn a response format into a grammar; InvalidRequestError if it names none."""
    match message.WhichOneof("format"):
        case "json_object":
            return Grammar(GrammarKind.JSON_OBJECT)
        case "json_schema":
            return Grammar(GrammarKind.JSON_SCHEMA, message.json_schema)
        case "regex":
            return Grammar(GrammarKind.REGEX, message.regex)
    raise InvalidRequestError("response_format is empty; set json_object, json_schema or regex")


def encode_delta(delta: TextDelta, sampling: SamplingParams, token_bytes: TokenBytes) -> pb.Delta:
    """Turn a piece of an answer into its message; ``sampling`` says which logprobs were asked for."""
    message = pb.Delta(
        index=delta.index,
        text=delta.text,
        token_ids=[delta.token.token_id],
        finish_reason=_encode_reason(delta),
        stop=delta.stop or "",
        tool_calls=[
            pb.ToolCallPiece(index=piece.index, id=piece.id or "", name=piece.name or "", arguments=piece.arguments)
            for piece in delta.calls
        ],
        dropped_experts=[pb.DroppedExpert(expert_id=id_, num_choices=count) for id_, count in delta.dropped_experts],
    )
    if sampling.logprobs is not None:  # best_of computes them for itself
        message.logprobs.append(encode_logprobs(delta.token, token_bytes))
    if delta.prompt_logprobs is not None:
        message.prompt_logprobs.extend(encode_logprobs(choice, token_bytes) for choice in delta.prompt_logprobs)
    if delta.routed_experts is not None:
        message.routed_experts.append(_encode_experts(delta.routed_experts))
    if delta.finish_reason is not None:
        message.usage.CopyFrom(_encode_usage(delta))
    return message


def _encode_reason(delta: TextDelta) -> pb.FinishReason:
    if delta.finish_reason is FinishReason.STOP and delta.num_calls:
        return pb.FINISH_REASON_TOOL_CALLS
    return FINISH_REASONS[delta.finish_reason]


def encode_logprobs(choice: Choice, token_bytes: TokenBytes) -> pb.TokenLogprobs:
    """Turn a token, its logprob and those of its alternatives into their message."""

    def encode(token_id: int, logprob: float) -> pb.TokenLogprob:
        return pb.TokenLogprob(token_id=token_id, logprob=logprob, token_bytes=token_bytes(token_id))

    assert choice.logprob is not None, "the sampler computes what a request asks for"
    token = encode(choice.token_id, choice.logprob)
    return pb.TokenLogprobs(token=token, top=[encode(*alternative) for alternative in choice.top_logprobs])


def _encode_experts(layers: Iterable[Iterable[int]]) -> pb.RoutedExperts:
    return pb.RoutedExperts(layers=[pb.LayerExperts(expert_ids=expert_ids) for expert_ids in layers])


def _encode_usage(delta: TextDelta) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=delta.num_prompt_tokens,
        completion_tokens=delta.num_output_tokens,
        cached_prompt_tokens=delta.num_cached_tokens,
    )
