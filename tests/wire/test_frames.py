from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from raw_frames import header_bytes

from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode, WireError
from expertmesh.wire.frames import (
    HEADER_BYTES,
    MAX_TEXT_BYTES,
    Kind,
    decode_call,
    decode_failure,
    decode_header,
    decode_result,
    empty_partial,
    encode_call,
    encode_hello,
    encode_outcome,
    encode_welcome,
)

MAX_BODY_BYTES = 1 << 20
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def make_call(num_rows=3, width=8, num_choices=2, dtype=torch.bfloat16, timeout_seconds=None, traceparent=""):
    ids = np.arange(num_rows * num_choices, dtype=np.int32).reshape(num_rows, num_choices) - 1
    weights = torch.rand(num_rows, num_choices).numpy()
    return ExpertCall(31, torch.randn(num_rows, width).to(dtype), ids, weights, timeout_seconds, traceparent)


def parts(frame):
    """Header and body of a frame as it arrives."""
    data = b"".join(memoryview(part).cast("B") if memoryview(part).nbytes else b"" for part in frame)
    header = decode_header(data[:HEADER_BYTES], MAX_BODY_BYTES)
    body = data[HEADER_BYTES:]
    assert len(body) == header.num_body_bytes
    return header, memoryview(bytearray(body))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 8, 2), (3, 7, 1), (0, 8, 2), (2, 0, 2), (2, 8, 0)])
@pytest.mark.parametrize("traceparent", ["", TRACEPARENT])
def test_a_call_arrives_as_it_was_sent(dtype, shape, traceparent):
    call = make_call(*shape, dtype, 1.5, traceparent)
    header, body = parts(encode_call(2**63, call))
    received = decode_call(header, body)
    assert (header.kind, header.call_id) == (Kind.CALL, 2**63)
    assert (received.layer, received.timeout_seconds, received.traceparent) == (31, 1.5, traceparent)
    assert received.hidden.dtype == dtype
    assert torch.equal(received.hidden, call.hidden)
    for name in ("topk_ids", "topk_weights"):
        assert getattr(received, name).dtype == getattr(call, name).dtype
        assert np.array_equal(getattr(received, name), getattr(call, name))


@pytest.mark.parametrize(("sent", "received"), [(None, None), (float("inf"), None), (0.0, 1e-9), (-3.0, 1e-9)])
def test_a_time_that_is_over_is_not_the_same_as_no_limit(sent, received):
    assert decode_call(*parts(encode_call(1, make_call(timeout_seconds=sent)))).timeout_seconds == received


def test_what_does_not_lie_row_by_row_is_sent_row_by_row():
    call = make_call(4, 4)
    turned = replace(call, hidden=call.hidden.T, topk_ids=call.topk_ids[::-1], topk_weights=call.topk_weights[::-1])
    received = decode_call(*parts(encode_call(1, turned)))
    assert torch.equal(received.hidden, call.hidden.T)
    assert np.array_equal(received.topk_ids, call.topk_ids[::-1])
    assert np.array_equal(received.topk_weights, call.topk_weights[::-1])


def test_a_call_is_sent_from_where_it_lies():
    call = make_call()
    header, *body = encode_call(1, call)
    assert np.shares_memory(body[0], call.topk_ids)
    assert np.shares_memory(body[1], call.topk_weights)
    assert body[2].ctypes.data == call.hidden.data_ptr()


def test_a_result_arrives_as_it_was_sent():
    result = ExpertResult(torch.randn(3, 8), queue_seconds=0.25, compute_seconds=0.5)
    header, body = parts(encode_outcome(9, result))
    partial, memory = empty_partial((3, 8))
    memory[:] = body
    received = decode_result(header, partial)
    assert (header.kind, header.call_id) == (Kind.RESULT, 9)
    assert torch.equal(received.partial, result.partial)
    assert (received.queue_seconds, received.compute_seconds) == (0.25, 0.5)


def test_what_lies_in_a_room_is_left_out_and_the_rest_arrives():
    call = make_call(traceparent=TRACEPARENT)
    header, body = parts(encode_call(1, call, place=7))
    elsewhere = torch.randn(3, 8)
    received = decode_call(header, body, elsewhere)
    assert (header.place, len(body)) == (7, 3 * 2 * 8 + len(TRACEPARENT))
    assert received.hidden is elsewhere
    assert received.traceparent == TRACEPARENT
    assert np.array_equal(received.topk_ids, call.topk_ids)
    assert np.array_equal(received.topk_weights, call.topk_weights)
    header, body = parts(encode_outcome(1, ExpertResult(torch.randn(3, 8), 0.25, 0.5), place=7))
    assert (header.place, header.num_rows, header.width, len(body)) == (7, 3, 8, 0)


def test_a_failure_arrives_as_it_was_sent():
    received = decode_failure(*parts(encode_outcome(9, CallFailure(FailureCode.BUSY, "4096 rows wait"))))
    assert (received.code, received.message) == (FailureCode.BUSY, "4096 rows wait")


def test_a_failure_of_a_newer_server_stays_named():
    header, body = parts(encode_outcome(9, CallFailure(FailureCode.BUSY, "why")))
    received = decode_failure(header._replace(code=77), body)
    assert (received.code, received.message) == (FailureCode.UNSPECIFIED, "unknown failure code 77: why")


def test_the_longest_failure_fits_a_frame():
    failure = CallFailure(FailureCode.BUSY, "\U0001d11e" * MAX_TEXT_BYTES)
    header, body = parts(encode_outcome(9, failure))
    assert header.num_text_bytes <= MAX_TEXT_BYTES
    assert decode_failure(header, body).message == failure.message


def test_a_token_and_its_welcome_arrive():
    header, body = parts(encode_hello(b"secret"))
    assert (header.kind, bytes(body)) == (Kind.HELLO, b"secret")
    for shares_memory in (False, True):
        header, body = parts(encode_welcome(shares_memory))
        assert (header.kind, header.place, len(body)) == (Kind.WELCOME, int(shares_memory), 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": torch.zeros(3, 8, dtype=torch.float64)}, "float64"),
        ({"hidden": torch.zeros(3)}, r"\[3\]"),
        ({"topk_ids": np.zeros((2, 2), np.int32)}, r"\[2, 2\] and \[3, 2\]"),
        ({"topk_ids": np.zeros((3, 2), np.int64)}, "int64 and float32"),
    ],
)
def test_a_call_that_has_no_frame_is_refused_where_it_is_sent(change, words):
    with pytest.raises(WireError, match=words):
        encode_call(1, replace(make_call(), **change))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"magic": b"GET "}, "begins with b'GET ', version 2"),
        ({"version": 1}, "version 1"),
        ({"kind": 9}, "kind 9 is unknown"),
        ({"dtype": 4}, "dtype 4 is unknown"),
        ({"text": MAX_TEXT_BYTES + 1}, "bytes of text"),
        ({"rows": 2**32 - 1, "width": 2**32 - 1, "chosen": 2**32 - 1}, "at most 1048576 would be right"),
        ({"kind": 4, "rows": 2**31, "width": 1}, "has 8589934592 bytes"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_with_its_numbers(fields, words):
    with pytest.raises(WireError, match=words):
        decode_header(header_bytes(**fields), MAX_BODY_BYTES)


def test_a_text_that_is_not_utf_8_is_refused():
    header, body = parts(encode_call(1, make_call(traceparent="xx")))
    body[-1] = 0xFF
    with pytest.raises(WireError, match="not UTF-8"):
        decode_call(header, body)


headers = st.builds(
    lambda fields: header_bytes(**fields),
    st.fixed_dictionaries(
        {"kind": st.integers(1, 5), "dtype": st.integers(0, 5), "code": st.integers(0, 255)},
        optional={
            name: st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1))
            for name in ("layer", "rows", "width", "chosen", "text", "place")
        },
    ),
)


@given(st.one_of(headers, st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES), st.binary()), st.binary())
def test_no_bytes_are_worse_than_a_wire_error(data, filling):
    with suppress(WireError):
        header = decode_header(data, 4096)
        body = memoryview(bytearray((filling + bytes(4096))[: header.num_body_bytes]))
        assert len(body) == header.num_body_bytes
        match header.kind:
            case Kind.CALL:
                decode_call(header, body, torch.empty(0) if header.place else None)
            case Kind.RESULT if not header.place:
                assert len(empty_partial((header.num_rows, header.width))[1]) == len(body)
            case Kind.FAILURE:
                decode_failure(header, body)
