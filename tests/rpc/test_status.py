import asyncio
import logging

import grpc
import pytest

from expertmesh.errors import (
    ComputeError,
    ExpertUnavailableError,
    FingerprintMismatchError,
    ForbiddenError,
    InvalidRequestError,
    QueueFullError,
    UnauthenticatedError,
)
from expertmesh.rpc.channels import open_channel
from expertmesh.rpc.server import RpcServer
from expertmesh.rpc.status import report_errors, retry_hint, status_of
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.failures import CallFailure, FailureCode, WireError

SERVICE = "expertmesh.v1.ExpertService"
CASES = [
    (UnauthenticatedError("no key", "no_key"), grpc.StatusCode.UNAUTHENTICATED),
    (ForbiddenError("no scope", "missing_scope"), grpc.StatusCode.PERMISSION_DENIED),
    (InvalidRequestError("top_p 2"), grpc.StatusCode.INVALID_ARGUMENT),
    (WireError("20 bytes"), grpc.StatusCode.INVALID_ARGUMENT),
    (QueueFullError("9 wait"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ExpertUnavailableError("expert 3"), grpc.StatusCode.UNAVAILABLE),
    (ComputeError("layer 3"), grpc.StatusCode.INTERNAL),
    (FingerprintMismatchError("ab is not cd"), grpc.StatusCode.FAILED_PRECONDITION),
    (TimeoutError(), grpc.StatusCode.DEADLINE_EXCEEDED),
    (CallFailure(FailureCode.BUSY, "full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (CallFailure(FailureCode.DRAINING, "bye"), grpc.StatusCode.UNAVAILABLE),
    (CallFailure(FailureCode.EXPERT_NOT_HOSTED, "expert 3"), grpc.StatusCode.NOT_FOUND),
    (CallFailure(FailureCode.FINGERPRINT_MISMATCH, "ab"), grpc.StatusCode.FAILED_PRECONDITION),
    (CallFailure(FailureCode.INVALID_REQUEST, "layer 40"), grpc.StatusCode.INVALID_ARGUMENT),
    (CallFailure(FailureCode.DEADLINE_EXCEEDED, "late"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (CallFailure(FailureCode.COMPUTE_FAILED, "NaN"), grpc.StatusCode.INTERNAL),
    (CallFailure(FailureCode.DAMAGED, "m"), grpc.StatusCode.DATA_LOSS),
    (CallFailure(FailureCode.UNSPECIFIED, "?"), grpc.StatusCode.INTERNAL),
]


class Raiser(expert_pb2_grpc.ExpertServiceServicer):
    def __init__(self, error):
        self._error = error

    async def GetInfo(self, request, context):
        async with report_errors(context):
            raise self._error

    async def Dispatch(self, request_iterator, context):
        async with report_errors(context):
            yield expert_pb2.DispatchResponse(request_id=1)
            raise self._error


async def ask(error):
    server = RpcServer("127.0.0.1:0")
    server.register(SERVICE, expert_pb2_grpc.add_ExpertServiceServicer_to_server, Raiser(error))
    async with server, open_channel(f"127.0.0.1:{server.port}") as channel:
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await stub.GetInfo(expert_pb2.GetInfoRequest())
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            async for response in stub.Dispatch(iter(())):
                assert response.request_id == 1
    assert (unary.value.code(), unary.value.details()) == (stream.value.code(), stream.value.details())
    return unary.value.code(), unary.value.details()


@pytest.mark.parametrize(("error", "code"), CASES)
def test_every_error_has_its_status(error, code):
    assert status_of(error) == (code, str(error) or "TimeoutError")


def test_every_failure_code_is_in_the_cases():
    assert {error.code for error, _ in CASES if isinstance(error, CallFailure)} == set(FailureCode)


def test_the_client_sees_status_and_words():
    error = CallFailure(FailureCode.BUSY, "9 rows wait")
    assert asyncio.run(ask(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY: 9 rows wait")


def test_an_unforeseen_error_is_logged_and_hidden(caplog):
    code, details = asyncio.run(ask(KeyError("secret path")))
    assert code == grpc.StatusCode.INTERNAL
    assert details == "internal error (KeyError); the server's log has the details"
    ours = [record for record in caplog.records if record.name == "expertmesh.rpc.status"]
    assert [record.levelno for record in ours] == [logging.ERROR] * 2
    assert ours == caplog.records, "grpc itself logged a traceback"


def test_a_full_queue_says_when_to_come_back_and_a_missing_expert_that_it_was_waited_for():
    [(key, milliseconds)] = retry_hint(QueueFullError("9 wait"))
    assert key == "grpc-retry-pushback-ms"
    assert 500 <= int(milliseconds) <= 1500
    assert retry_hint(ExpertUnavailableError("expert 3")) == (("grpc-retry-pushback-ms", "-1"),)
    assert retry_hint(InvalidRequestError("top_p 2")) == ()
