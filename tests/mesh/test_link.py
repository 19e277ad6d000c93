"""What every link to a real expert server does, whatever it runs over."""

import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from link_server import (
    FINGERPRINT,
    NUM_EXPERTS,
    NUM_LAYERS,
    have_no_unix_sockets,
    link_server,
    make_call,
    share_every_call,
    use_tls,
)
from waiting import wait_until

from expertmesh.errors import FingerprintMismatchError
from expertmesh.expert import executor
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.health import MAX_CONSECUTIVE_ERRORS
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.open_link import open_link
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.roster import Roster
from expertmesh.model.experts import LayerCall, run_experts
from expertmesh.wire.failures import CallFailure, FailureCode

TRANSPORTS = ["grpc", "direct"]


@pytest.fixture(params=[*TRANSPORTS, "shared memory", "TCP", "grpc with TLS", "TCP with TLS"])
def transport(request, monkeypatch, tmp_path):
    if request.param == "shared memory":
        share_every_call(monkeypatch)
    if "TCP" in request.param:
        have_no_unix_sockets(monkeypatch)
    if "TLS" in request.param:
        use_tls(monkeypatch, tmp_path)
    return "grpc" if "grpc" in request.param else "direct"


def until_lost(link):
    """Use a link without asking anything, until that is an error."""
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        link.send(99, make_call(layer=9))
        with suppress(CallFailure):
            link.receive(99, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_answers_equal_those_of_experts_in_this_process(transport, dtype):
    with link_server() as server:
        link = server.open(transport)
        for number, num_rows in enumerate((1, 2, 7, 300)):
            call = make_call(num_rows, layer=number % 3, seed=number, dtype=dtype)
            assert link.send(number, call) == call.num_bytes
            result = link.receive(number, 10)
            assert torch.equal(result.partial, server.expected(call))
            assert result.compute_seconds > 0
            assert result.queue_seconds >= 0
        link.close()


def test_many_calls_are_under_way_and_answered_in_any_order(transport):
    with link_server() as server:
        link = server.open(transport)
        calls = {number: make_call(1 + number % 5, layer=number % 3, seed=number) for number in range(40)}
        for number, call in calls.items():
            link.send(number, call)
        answers = {number: link.receive(number, 10) for number in reversed(calls)}
        # Looked at when all have arrived: none lies in memory that a later one overwrote.
        for number, call in calls.items():
            assert torch.equal(answers[number].partial, server.expected(call))
        link.close()


def test_a_caller_that_listens_late_does_not_hold_up_itself_or_the_server(transport):
    with link_server(max_batch_rows=100_000, max_queue_rows=10**6) as server:
        link = server.open(transport)
        call = make_call(20_000)  # more than a socket holds, in each direction
        for number in range(8):
            link.send(number, call)
        expected = server.expected(call)
        for number in range(8):
            assert torch.equal(link.receive(number, 30).partial, expected)
        link.close()


def test_what_is_sent_is_what_the_tensors_held_then(transport):
    with link_server(closed_layers=[0], max_batch_rows=100_000, max_queue_rows=10**6) as server:
        link = server.open(transport)
        calls = [make_call(20_000, layer=layer, seed=layer) for layer in (0, 1, 2)]
        expected = [server.expected(call) for call in calls]
        for number, call in enumerate(calls):
            link.send(number, call)
            call.hidden.zero_()
        server.layers[0].releases.release()
        for number in range(3):
            assert torch.equal(link.receive(number, 30).partial, expected[number])
        link.close()


def test_a_call_that_takes_too_long_times_out_and_may_be_forgotten(transport):
    with link_server(closed_layers=[0]) as server:
        link = server.open(transport)
        slow, call = make_call(2), make_call(3, layer=1)
        link.send(1, slow)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            link.receive(1, 0.3)
        assert 0.29 < time.monotonic() - started < 20
        with pytest.raises(TimeoutError):
            link.receive(1, 0)
        link.forget(1)
        link.send(2, call)
        server.layers[0].releases.release()
        assert torch.equal(link.receive(2, 10).partial, server.expected(call))
        with pytest.raises(KeyError):
            link.receive(1, 0)
        link.close()


def test_an_answer_after_a_timeout_can_still_be_received(transport):
    with link_server(closed_layers=[0]) as server:
        link = server.open(transport)
        link.send(1, make_call())
        with pytest.raises(TimeoutError):
            link.receive(1, 0.01)
        server.layers[0].releases.release()
        assert torch.equal(link.receive(1, 10).partial, server.expected(make_call()))
        link.close()


def test_what_cannot_be_run_is_the_servers_failure_and_the_link_goes_on(transport):
    with link_server(max_batch_rows=8) as server:
        link = server.open(transport)
        bad = make_call(2)
        bad.hidden[1, 3] = float("nan")
        cases = [
            (make_call(layer=9), FailureCode.INVALID_REQUEST, "layer 9 is out of range"),
            (make_call(9), FailureCode.INVALID_REQUEST, "hidden has 9 rows; at most 8"),
            (bad, FailureCode.INVALID_REQUEST, "rows \\[1\\] are not finite"),
        ]
        for number, (call, code, words) in enumerate(cases):
            link.send(number, call)
            with pytest.raises(CallFailure, match=words) as failure:
                link.receive(number, 10)
            assert failure.value.code is code
        link.send(9, make_call())
        assert torch.equal(link.receive(9, 10).partial, server.expected(make_call()))
        link.close()


def test_a_full_server_is_busy(transport):
    with link_server(closed_layers=[0], max_batch_rows=4, max_queue_rows=4) as server:
        links = [server.open(transport) for _ in range(3)]
        links[0].send(0, make_call(1))
        assert server.layers[0].entered.acquire(timeout=30)
        links[1].send(1, make_call(3))
        wait_until(lambda: server.batcher.num_waiting_rows == 3)
        links[2].send(2, make_call(2))
        with pytest.raises(CallFailure, match="3 rows wait already, 2 more would exceed the limit of 4") as busy:
            links[2].receive(2, 10)
        assert busy.value.code is FailureCode.BUSY
        server.layers[0].releases.release(2)
        for number, link in enumerate(links[:2]):
            link.receive(number, 10)
        for link in links:
            link.close()


def test_a_call_whose_time_is_over_is_not_run(transport):
    with link_server(closed_layers=[0]) as server:
        links = [server.open(transport) for _ in range(2)]
        links[0].send(0, make_call(1))
        assert server.layers[0].entered.acquire(timeout=30)
        links[1].send(1, make_call(3, timeout_seconds=0.01))
        wait_until(lambda: server.batcher.num_waiting_rows == 3)
        time.sleep(0.02)
        server.layers[0].releases.release()
        with pytest.raises(CallFailure) as late:
            links[1].receive(1, 10)
        assert late.value.code is FailureCode.DEADLINE_EXCEEDED
        links[0].receive(0, 10)
        assert len(server.layers[0].launches) == 1
        for link in links:
            link.close()


def test_callers_that_wait_run_together_and_get_what_each_gets_alone(transport):
    with link_server(closed_layers=[0]) as server:
        links = [server.open(transport) for _ in range(3)]
        calls = [make_call(num_rows, seed=num_rows) for num_rows in (1, 2, 3)]
        links[0].send(0, calls[0])
        assert server.layers[0].entered.acquire(timeout=30)
        for number in (1, 2):
            links[number].send(number, calls[number])
        wait_until(lambda: server.batcher.num_waiting_rows == 5)
        server.layers[0].releases.release(2)
        for number, (link, call) in enumerate(zip(links, calls, strict=True)):
            assert torch.equal(link.receive(number, 10).partial, server.expected(call))
            link.close()
        assert server.layers[0].launches == [1, 8]


def test_calls_of_different_links_meet(transport):
    with link_server(closed_layers=[1]) as server:
        links = [server.open(name) for name in (*TRANSPORTS, transport)]
        links[2].send(5, make_call(1, layer=1))
        assert server.layers[1].entered.acquire(timeout=30)
        for link in links[:2]:
            link.send(0, make_call(2, layer=1))
        wait_until(lambda: server.batcher.num_waiting_rows == 4)
        server.layers[1].releases.release(2)
        for link in links[:2]:
            assert torch.equal(link.receive(0, 10).partial, server.expected(make_call(2, layer=1)))
        for link in links:
            link.close()
        assert len(server.layers[1].launches) == 2


def test_a_draining_server_answers_what_it_accepted_refuses_the_rest_and_ends(transport):
    with link_server(closed_layers=[0]) as server:
        busy, idle = server.open(transport), server.open(transport)
        call = make_call()
        idle.send(0, make_call(layer=1))
        idle.receive(0, 10)
        busy.send(0, call)
        assert server.layers[0].entered.acquire(timeout=30)
        server.stop.set()
        with pytest.raises(LinkLostError):
            until_lost(idle)
        busy.send(1, call)
        time.sleep(0.05)
        server.layers[0].releases.release()
        assert torch.equal(busy.receive(0, 10).partial, server.expected(call))
        with pytest.raises(CallFailure) as refused:
            busy.receive(1, 10)
        assert refused.value.code is FailureCode.DRAINING
        busy.forget(1)
        with pytest.raises(LinkLostError):
            until_lost(busy)
        for link in (busy, idle):
            link.close()


def test_a_server_that_goes_away_with_calls_in_flight_loses_the_link(transport):
    with link_server(closed_layers=[0], drain_seconds=0.1) as server:
        link = server.open(transport)
        link.send(1, make_call())
        assert server.layers[0].entered.acquire(timeout=30)
        server.stop.set()
        with pytest.raises(LinkLostError):
            link.receive(1, 10)
        with pytest.raises(LinkLostError):
            link.send(2, make_call())
        link.close()


def test_a_closed_link_is_lost(transport):
    with link_server() as server:
        link = server.open(transport)
        link.send(1, make_call())
        link.close()
        link.close()
        with pytest.raises(LinkLostError, match="was closed"):
            link.receive(1, 20)
        with pytest.raises(LinkLostError, match="was closed"):
            link.send(2, make_call())


def test_a_caller_that_leaves_takes_its_waiting_call_along(transport):
    with link_server(closed_layers=[0]) as server:
        stays, leaves = server.open(transport), server.open(transport)
        stays.send(0, make_call(1))
        assert server.layers[0].entered.acquire(timeout=30)
        leaves.send(0, make_call(3))
        wait_until(lambda: server.batcher.num_waiting_rows == 3)
        leaves.close()
        wait_until(lambda: server.batcher.num_waiting_rows == 0)
        server.layers[0].releases.release()
        stays.receive(0, 10)
        stays.close()
        assert server.layers[0].launches == [1]


def test_another_model_is_refused(transport):
    with link_server() as server, pytest.raises(FingerprintMismatchError, match="f00d"):
        server.open(transport, "beef")


def test_a_server_that_is_not_there_loses_the_link(transport):
    with pytest.raises(LinkLostError, match="127.0.0.1:9 cannot be asked what it is: UNAVAILABLE"):
        open_link("127.0.0.1:9", FINGERPRINT, transport)


@pytest.mark.parametrize(
    "lie",
    [
        lambda partial: partial[1:].contiguous(),
        lambda partial: partial[:, :1].contiguous(),
        lambda partial: torch.cat([partial, partial]),
        lambda partial: partial.fill_(torch.nan),
    ],
    ids=["fewer rows", "narrower", "more rows", "NaN"],
)
def test_a_server_that_lies_is_found_out_and_its_twin_asked(transport, lie, monkeypatch):
    with link_server() as liar, link_server() as twin:
        run_chosen = executor.run_chosen
        lying = liar.store.layers[0]

        def run(layer, *arguments):
            partial = run_chosen(layer, *arguments)
            return lie(partial) if layer is lying else partial

        monkeypatch.setattr(executor, "run_chosen", run)
        monkeypatch.setattr(executor, "is_finite", lambda partial: True)
        roster = Roster()
        replicas = [Replica(server.address, roster.update) for server in (liar, twin)]
        links = [server.open(transport) for server in (liar, twin)]
        roster.know(replicas)
        for replica, link in zip(replicas, links, strict=True):
            replica.connect(link, frozenset(range(NUM_EXPERTS)))
        remote = RemoteExperts(roster, DispatchConfig(), ExpertLoadCounter(NUM_LAYERS, NUM_EXPERTS))
        call = make_call(3, dtype=torch.float32)
        ids = np.maximum(call.topk_ids, 0)
        step = LayerCall(0, call.hidden, torch.from_numpy(ids), torch.from_numpy(call.topk_weights))
        expected = twin.expected(replace(call, topk_ids=ids))
        states = [ReplicaState.READY] * 2
        while states == [ReplicaState.READY] * 2:  # it is asked again later
            torch.testing.assert_close(run_experts(remote, step), expected)
            states = [replica.state for replica in replicas]
        assert states == [ReplicaState.EJECTED, ReplicaState.READY]
        assert replicas[0].stats.num_failed_calls == MAX_CONSECUTIVE_ERRORS
        for link in links:
            link.close()
