import json
from dataclasses import fields

import pytest

from expertmesh.client import (
    ExpertLoad,
    ExpertRates,
    GatewayLoad,
    JsonObject,
    JsonSchema,
    Load,
    LoadRates,
    LoadUpdate,
    Message,
    ModelInfo,
    Output,
    Regex,
    ReplicaLoad,
    Sampling,
    Tool,
    ToolCall,
    ToolCallPiece,
    ToolUse,
)
from expertmesh.client.codec import (
    decode_info,
    decode_load,
    decode_update,
    encode_chat,
    encode_generate,
    encode_output,
    encode_sampling,
    encode_tokenize,
)
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.api.generation_codec import decode_messages, decode_tools
from expertmesh.text import tools
from expertmesh.text.conversation import Message as TextMessage
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import load_pb2


def names(message) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.fields}


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (Sampling, pb.SamplingParams),
        (Output, pb.OutputParams),
        (ModelInfo, pb.GetModelInfoResponse),
        (Load, load_pb2.GetLoadResponse),
        (ExpertLoad, load_pb2.ExpertLoad),
        (ReplicaLoad, load_pb2.ReplicaLoad),
        (GatewayLoad, load_pb2.GatewayLoad),
        (LoadUpdate, load_pb2.WatchLoadResponse),
        (LoadRates, load_pb2.LoadRates),
        (Message, pb.ChatMessage),
        (Tool, pb.Tool),
        (ToolCall, pb.ToolCall),
        (ToolCallPiece, pb.ToolCallPiece),
        (ExpertRates, load_pb2.ExpertRates),
    ],
)
def test_every_field_of_the_message_is_there(ours, message):
    assert {field.name for field in fields(ours)} == names(message)


def test_only_what_is_set_is_sent():
    assert encode_sampling(Sampling()) == pb.SamplingParams()
    assert encode_output(Output()) == pb.OutputParams()
    sampling = encode_sampling(Sampling(temperature=0.0, min_tokens=0, logprobs=0, logit_bias={7: -100}, stop_ids=[9]))
    assert {field.name for field, _ in sampling.ListFields()} == {
        "temperature",
        "min_tokens",
        "logprobs",
        "logit_bias",
        "stop_ids",
    }
    assert (dict(sampling.logit_bias), list(sampling.stop_ids)) == ({7: -100}, [9])


def test_one_stop_string_is_not_its_letters():
    assert list(encode_output(Output(stop="END")).stop) == ["END"]
    assert list(encode_output(Output(stop=["END", "."])).stop) == ["END", "."]


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        (JsonObject(), pb.ResponseFormat(json_object=pb.JsonObject())),
        (JsonSchema('{"type":"string"}'), pb.ResponseFormat(json_schema='{"type":"string"}')),
        (JsonSchema({"type": "string"}), pb.ResponseFormat(json_schema=json.dumps({"type": "string"}))),
        (Regex("[0-9]+"), pb.ResponseFormat(regex="[0-9]+")),
    ],
)
def test_formats(response_format, message):
    assert encode_output(Output(response_format=response_format)).response_format == message


def test_prompts_and_conversations():
    nothing = (Sampling(), Output())
    assert encode_generate("a", *nothing).text == "a"
    assert list(encode_generate([1, 2], *nothing).token_ids.ids) == [1, 2]
    assert encode_generate([], *nothing).WhichOneof("prompt") == "token_ids"
    user = pb.ChatMessage(role="user", content="a")
    assert list(encode_chat("a", *nothing).messages) == list(encode_chat([("user", "a")], *nothing).messages) == [user]
    assert encode_tokenize("a") == pb.TokenizeRequest(text="a")
    assert encode_tokenize([("user", "a")]) == pb.TokenizeRequest(conversation=pb.Conversation(messages=[user]))


@pytest.mark.parametrize(
    ("sampling", "output", "message"),
    [
        (Sampling(max_tokens=-1), Output(), "SamplingParams"),
        (Sampling(seed=2**64), Output(), "SamplingParams"),
        (Sampling(logit_bias={-1: 0.5}), Output(), "SamplingParams"),
        (Sampling(), Output(n=-1), "OutputParams"),
    ],
)
def test_a_value_that_fits_no_field_is_refused(sampling, output, message):
    with pytest.raises(InvalidRequestError, match=message):
        encode_generate("a", sampling, output)


def test_a_state_of_a_newer_gateway_is_unknown():
    message = load_pb2.GetLoadResponse(replicas=[load_pb2.ReplicaLoad(state=99)])
    assert decode_load(message).replicas[0].state == "unknown"


def test_load_and_info_are_read_field_by_field():
    expert = ExpertLoad(3, 40, (30, 10), 0.5, 2, 1, 5, 6.5, 7, 8, 9, {"ready": 1, "connecting": 2})
    replica = ReplicaLoad("a:1", (3, 4), True, 9, 1, 2, 7000, 8000, 500, 600, "ready")
    gateway = GatewayLoad(1, 2, 0.25, 3, 4, 5, 6, 7)
    rates = LoadRates(2.0, 10.0, 20.0, (ExpertRates(3, 30.0, (20.0, 10.0), 0.5),), 0.75)
    counts = [{"state": 1, "replicas": 1}, {"state": 2, "replicas": 2}]
    message = load_pb2.GetLoadResponse(
        experts=[load_pb2.ExpertLoad(**{**vars(expert), "replicas": counts})],
        replicas=[load_pb2.ReplicaLoad(**{**vars(replica), "state": 1})],
        balancedness=0.5,
        gateway=load_pb2.GatewayLoad(**vars(gateway)),
    )
    load = Load((expert,), (replica,), 0.5, gateway)
    assert decode_load(message) == load
    expert_rates = [load_pb2.ExpertRates(**vars(rates.experts[0]))]
    update = load_pb2.WatchLoadResponse(
        load=message, rates=load_pb2.LoadRates(**{**vars(rates), "experts": expert_rates})
    )
    assert decode_update(update) == LoadUpdate(load, rates)
    assert decode_update(load_pb2.WatchLoadResponse(load=message)) == LoadUpdate(load, None)
    info = ModelInfo("m", "A", "f", "awq", 2, 64, 8, 2, 512, 128, "0.1", "avx2", True)
    assert decode_info(pb.GetModelInfoResponse(**vars(info))) == info


def test_tools_calls_and_results():
    nothing = (Sampling(), Output())
    use = ToolUse([Tool("now"), Tool("f", "does", {"type": "object"}, strict=True)], "required", single=True)
    call = ToolCall("a", "now", "{}")
    chat = [("user", "a"), Message("assistant", tool_calls=(call,)), call.result("noon")]
    request = encode_chat(chat, *nothing, use, continues=True)
    assert list(request.tools) == [
        pb.Tool(name="now"),
        pb.Tool(name="f", description="does", parameters='{"type": "object"}', strict=True),
    ]
    assert request.tool_choice == pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED, single=True)
    assert list(request.messages)[1:] == [
        pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(id="a", name="now", arguments="{}")]),
        pb.ChatMessage(role="tool", content="noon", tool_call_id="a"),
    ]
    assert request.continue_final_message
    named = encode_chat("a", *nothing, ToolUse(use.tools, "now"))
    assert named.tool_choice == pb.ToolChoice(name="now")
    assert decode_messages(request.messages)[1:] == [
        TextMessage("assistant", "", tool_calls=(tools.ToolCall("a", "now", "{}"),)),
        TextMessage("tool", "noon", tool_call_id="a"),
    ]


@pytest.mark.parametrize(
    ("choice", "decoded"),
    [
        (ToolUse(), tools.ToolUse()),
        (ToolUse(choice="none"), tools.ToolUse(choice=tools.ToolChoice.NONE)),
        (ToolUse(choice="f", single=True), tools.ToolUse((), tools.ToolChoice.REQUIRED, "f", False)),
        (ToolUse([Tool("f", "d", "{}")]), tools.ToolUse((tools.Tool("f", "d", {}),))),
    ],
)
def test_a_gateway_reads_what_may_be_called(choice: ToolUse, decoded: tools.ToolUse):
    request = encode_chat("a", Sampling(), Output(), choice)
    assert decode_tools(request.tools, request.tool_choice) == decoded


def test_what_is_no_schema_is_named():
    request = encode_chat("a", Sampling(), Output(), ToolUse([Tool("f"), Tool("g", parameters="[")]))
    with pytest.raises(InvalidRequestError, match=r"tools\[1\].parameters is '\['; it must be a JSON schema"):
        decode_tools(request.tools)


def test_an_unknown_policy_is_refused():
    with pytest.raises(InvalidRequestError, match="NO_REPLICA_HOPE"):
        encode_output(Output(no_replica="hope"))
