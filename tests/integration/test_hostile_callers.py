"""What an expert server, in a process of its own, holds for callers that ask for much and take no answers."""

from contextlib import ExitStack
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch
from expert_process import expert_process
from hostile_callers import deaf_socket, deaf_stream, impatient_unary_calls, send_while_it_takes
from waiting import wait_until

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.mesh.open_link import open_link
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure
from expertmesh.wire.limits import MAX_CALL_ROWS
from expertmesh.wire.offers import SocketKind

MIB = 2**20
HIDDEN = 1024
NUM_CALLERS, NUM_CALLS = 8, 16
# Of 8 MiB, as their answers are: what the callers ask for are 2 GiB.
LARGE_CALL = ExpertCall(
    0,
    torch.ones(MAX_CALL_ROWS, HIDDEN),
    np.zeros((MAX_CALL_ROWS, 2), np.int32),
    np.ones((MAX_CALL_ROWS, 2), np.float32),
)
# Twice the calls and answers that `--max-queue-rows 2048` lets in, and for each caller what gRPC makes of a message: it
# receives bytes, makes a message of them, and bytes of that.
BOUND_BYTES = 2 * 34 * MIB + 4 * NUM_CALLERS * 8 * MIB


@pytest.fixture(scope="module")
def started(make_mixtral):
    model = make_mixtral(hidden_size=HIDDEN, intermediate_size=32, num_hidden_layers=1).directory
    name = fingerprint(Checkpoint.open(model))
    with expert_process(model, "--backend", "reference", "--max-queue-rows", str(MAX_CALL_ROWS)) as process:
        yield process, name


@pytest.fixture
def server(started):
    """The server, its model, and the most memory that it has had before anybody asks for much."""
    process, name = started
    ask(process, name, LARGE_CALL)
    process.reset_peak()
    return process, name, process.peak_bytes()


def ask(server, name, call, transport="grpc"):
    link = open_link(server.address, name, transport).link
    try:
        link.send(1, call)
        return link.receive(1, 30).partial
    finally:
        link.close()


def is_answered(server, name):
    """Whether a modest caller is answered, and not refused for the sake of others."""
    call = replace(LARGE_CALL, hidden=LARGE_CALL.hidden[:2], topk_ids=np.zeros((2, 2), np.int32))
    call = replace(call, topk_weights=np.ones((2, 2), np.float32))
    try:
        return ask(server, name, call).shape == (2, HIDDEN)
    except CallFailure:
        return False


def test_callers_of_streams_that_never_read(server):
    server, name, before = server
    with ExitStack() as callers:
        for _ in range(NUM_CALLERS):
            callers.enter_context(deaf_stream(server.address, name, LARGE_CALL, NUM_CALLS))
        wait_until(lambda: server.peak_bytes() > before + 16 * MIB)
        wait_until(lambda: not is_answered(server, name) or True)
    wait_until(lambda: is_answered(server, name))
    assert server.peak_bytes() - before < BOUND_BYTES


@pytest.mark.parametrize("is_valid", [True, False])
def test_many_unary_calls_at_once(server, is_valid):
    server, name, before = server
    call = LARGE_CALL if is_valid else replace(LARGE_CALL, layer=9)
    with ExitStack() as callers:
        rpcs = [
            rpc
            for _ in range(NUM_CALLERS // 2)
            for rpc in callers.enter_context(impatient_unary_calls(server.address, call, NUM_CALLS))
        ]
        ends = {rpc.code() for rpc in rpcs}
    assert ends <= {
        grpc.StatusCode.OK if is_valid else grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    wait_until(lambda: is_answered(server, name))
    assert server.peak_bytes() - before < BOUND_BYTES


@pytest.mark.parametrize("kind", list(SocketKind))
def test_callers_of_sockets_that_never_read(server, kind):
    server, name, before = server
    with ExitStack() as callers:
        sockets = [callers.enter_context(deaf_socket(server, kind, name)) for _ in range(NUM_CALLERS)]
        assert sum(send_while_it_takes(connection, LARGE_CALL, NUM_CALLS) for connection in sockets) > 0
    wait_until(lambda: is_answered(server, name))
    assert server.peak_bytes() - before < BOUND_BYTES
