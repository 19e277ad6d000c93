import numpy as np
import pytest
import torch

from expertmesh.v1 import expert_pb2
from expertmesh.wire.calls import (
    ExpertCall,
    ExpertResult,
    decode_call,
    decode_response,
    encode_request,
    encode_response,
    split_call,
)
from expertmesh.wire.failures import CallFailure, FailureCode, WireError
from expertmesh.wire.info import ServerInfo, decode_info, encode_info
from expertmesh.wire.tensors import write

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def make_call(timeout_seconds=None, traceparent=""):
    ids, weights = np.array([[3, -1], [0, 7]], np.int32), torch.rand(2, 2).numpy()
    return ExpertCall(31, torch.randn(2, 8).bfloat16(), ids, weights, timeout_seconds, traceparent)


def test_a_call_arrives_as_it_was_sent():
    call = make_call(timeout_seconds=1.5)
    request = expert_pb2.DispatchRequest.FromString(encode_request(7, call).SerializeToString())
    received = decode_call(request.call)
    assert request.request_id == 7
    assert (received.layer, received.timeout_seconds) == (31, 1.5)
    assert torch.equal(received.hidden, call.hidden)
    for name in ("topk_ids", "topk_weights"):
        assert getattr(received, name).dtype == getattr(call, name).dtype
        assert np.array_equal(getattr(received, name), getattr(call, name))


@pytest.mark.parametrize("traceparent", ["", TRACEPARENT])
def test_a_call_names_the_span_of_its_caller(traceparent):
    assert decode_call(encode_request(1, make_call(traceparent=traceparent)).call).traceparent == traceparent


@pytest.mark.parametrize(
    ("sent", "received"), [(None, None), (float("inf"), None), (2.0, 2.0), (0.0, 1e-9), (-3.0, 1e-9)]
)
def test_a_time_that_is_over_is_not_the_same_as_no_limit(sent, received):
    assert decode_call(encode_request(1, make_call(sent)).call).timeout_seconds == received


@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [
        ("topk_ids", torch.float32, "topk_ids are float32; int32 would be right"),
        ("topk_weights", torch.bfloat16, "topk_weights are bfloat16; float32 would be right"),
    ],
)
def test_choices_of_another_dtype_are_refused(name, dtype, words):
    message = encode_request(1, make_call()).call
    write(torch.zeros(2, 2, dtype=dtype), getattr(message, name))
    with pytest.raises(WireError, match=words):
        decode_call(message)


def test_a_call_without_tensors_is_refused():
    with pytest.raises(WireError, match="dtype 0 is unknown"):
        decode_call(expert_pb2.ExpertCall(layer=1))


def test_a_result_arrives_as_it_was_sent():
    result = ExpertResult(torch.randn(2, 8), queue_seconds=0.25, compute_seconds=0.5)
    message = encode_response(9, result)
    received = decode_response(expert_pb2.DispatchResponse.FromString(message.SerializeToString()))
    assert message.request_id == 9
    assert isinstance(received, ExpertResult)
    assert torch.equal(received.partial, result.partial)
    assert (received.queue_seconds, received.compute_seconds) == (0.25, 0.5)


def test_a_failure_arrives_as_it_was_sent():
    received = decode_response(encode_response(9, CallFailure(FailureCode.BUSY, "4096 rows wait")))
    assert isinstance(received, CallFailure)
    assert (received.code, received.message) == (FailureCode.BUSY, "4096 rows wait")


def test_an_empty_answer_is_a_failure():
    received = decode_response(expert_pb2.DispatchResponse(request_id=5))
    assert isinstance(received, CallFailure)
    assert str(received) == "UNSPECIFIED: the answer to request 5 is empty"


def test_the_description_of_a_server_arrives_as_it_was_sent():
    info = ServerInfo(
        "ab12", (0, 3), 8, 32, 4096, "awq 4-bit g128", "cpu", "cpu", 123456789012, "0.1.0", "avx512", True
    )
    assert decode_info(encode_info(info)) == info
    assert set(info.__dataclass_fields__) == set(expert_pb2.GetInfoResponse.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("max_rows", "sizes"), [(3, [3, 3, 3, 1]), (9, [5, 5]), (10, [10]), (4, [4, 4, 2]), (1, [1] * 10)]
)
def test_a_long_call_is_cut_into_even_pieces_that_add_up_to_it(max_rows, sizes):
    ids, weights = torch.randint(0, 8, (10, 2)).int().numpy(), torch.rand(10, 2).numpy()
    call = ExpertCall(3, torch.randn(10, 8), ids, weights, 1.5, "00-1-2-01")
    parts = split_call(call, max_rows)
    assert [len(part.hidden) for part in parts] == sizes
    assert torch.equal(torch.cat([part.hidden for part in parts]), call.hidden)
    assert np.array_equal(np.concatenate([part.topk_ids for part in parts]), call.topk_ids)
    assert np.array_equal(np.concatenate([part.topk_weights for part in parts]), call.topk_weights)
    assert {(part.layer, part.timeout_seconds, part.traceparent) for part in parts} == {(3, 1.5, "00-1-2-01")}
