"""Dispatch and combine against replicas in this thread."""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from in_process_link import InProcessLink, answer_with, fail_with
from spans import keeping

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.errors import ComputeError, ExpertUnavailableError
from expertmesh.kernels.backend import GroupedFFN
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.mesh.answers import ReplicaFaultError
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.health import MAX_CONSECUTIVE_ERRORS, Health
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.replica_state import ReplicaState
from expertmesh.mesh.roster import Roster
from expertmesh.model.experts import LayerCall, LocalExperts, run_experts
from expertmesh.tracing.tracer import NullTracer, Tracer
from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure, FailureCode

HIDDEN, NUM_EXPERTS, LAYER = 128, 8, 1
QUARTERS = ((0, 1), (2, 3), (4, 5), (6, 7))
BUSY = CallFailure(FailureCode.BUSY, "full")


@pytest.fixture(scope="module")
def directory(make_mixtral) -> Path:
    return make_mixtral().directory


@pytest.fixture(scope="module")
def layer(directory) -> GroupedFFN:
    checkpoint = Checkpoint.open(directory)
    return ReferenceBackend(torch.device("cpu")).experts(
        [checkpoint.expert(LAYER, expert) for expert in range(NUM_EXPERTS)]
    )


@dataclass
class Mesh:
    """Remote experts, and the replicas and links behind them in the order that they were asked for."""

    remote: RemoteExperts
    roster: Roster
    load: ExpertLoadCounter
    replicas: list[Replica]
    links: list[InProcessLink]

    @property
    def inflight_rows(self) -> list[int]:
        return [replica.inflight_rows for replica in self.replicas]

    def assert_nothing_owed(self) -> None:
        assert set(self.inflight_rows) == {0}
        assert not any(replica.is_held for replica in self.replicas)
        assert self.load.inflight_rows == self.load.queue_rows == [0] * NUM_EXPERTS


@pytest.fixture
def make_mesh(layer):
    def make(hosts: Sequence[Sequence[int]] = QUARTERS, tracer: Tracer = NullTracer(), **config: float) -> Mesh:
        roster, load = Roster(), ExpertLoadCounter(10, NUM_EXPERTS)
        links = [InProcessLink(answer_with(layer, NUM_EXPERTS)) for _ in hosts]
        replicas = [Replica(f"replica-{index}", roster.update) for index in range(len(hosts))]
        roster.know(replicas)
        for replica, link, hosted in zip(replicas, links, hosts, strict=True):
            replica.connect(link, frozenset(hosted))
        remote = RemoteExperts(roster, DispatchConfig(**config), load, tracer=tracer)  # type: ignore[arg-type]
        return Mesh(remote, roster, load, replicas, links)

    return make


def make_step(num_rows: int, seed: int = 0) -> LayerCall:
    generator = torch.Generator().manual_seed(seed)
    topk_ids = torch.rand(num_rows, NUM_EXPERTS, generator=generator).argsort(1)[:, :2]
    topk_weights = torch.rand(num_rows, 2, generator=generator)
    return LayerCall(LAYER, torch.randn(num_rows, HIDDEN, generator=generator), topk_ids, topk_weights)


def choosing(*topk_ids: tuple[int, int]) -> LayerCall:
    return replace(make_step(len(topk_ids)), topk_ids=torch.tensor(topk_ids))


def run_local(layer: GroupedFFN, step: LayerCall) -> torch.Tensor:
    return run_experts(LocalExperts([layer, layer], NUM_EXPERTS), step)


@pytest.mark.parametrize(
    "hosts",
    [(range(8),), QUARTERS, ((0, 2, 4, 6), (1, 3, 5, 7)), (*QUARTERS, (0, 1), range(8))],
    ids=["one server", "pairs", "interleaved", "replicas"],
)
@pytest.mark.parametrize("max_piece_rows", [1024, 3])
def test_remote_experts_equal_local_ones(make_mesh, layer, hosts, max_piece_rows):
    mesh = make_mesh(hosts, max_piece_rows=max_piece_rows)
    for num_rows in (1, 2, 33):
        step = make_step(num_rows, seed=num_rows)
        answer = run_experts(mesh.remote, step)
        torch.testing.assert_close(answer, run_local(layer, step), rtol=1e-5, atol=1e-6)
        mesh.assert_nothing_owed()
    assert all(len(call.hidden) <= max_piece_rows for link in mesh.links for call in link.sent)


@pytest.mark.parametrize("num_chosen", [2, 3, 8])
def test_no_call_is_greater_than_servers_take(make_mesh, layer, num_chosen):
    mesh = make_mesh(((0, 2, 4, 6), (1, 3, 5, 7)), max_call_rows=16)
    step = make_step(33)
    chosen = torch.rand(33, NUM_EXPERTS, generator=torch.Generator().manual_seed(0)).argsort(1)[:, :num_chosen]
    step = replace(step, topk_ids=chosen, topk_weights=torch.full(chosen.shape, 1 / num_chosen))
    torch.testing.assert_close(run_experts(mesh.remote, step), run_local(layer, step), rtol=1e-5, atol=1e-6)
    assert 0 < max(len(call.hidden) for link in mesh.links for call in link.sent) <= 16


def test_a_replica_gets_each_row_once_and_only_rows_that_chose_its_experts(make_mesh):
    mesh = make_mesh()
    pending = mesh.remote.begin(choosing((0, 1), (0, 2), (2, 3)))
    assert mesh.inflight_rows == [2, 2, 0, 0]
    assert mesh.load.inflight_rows == [2, 1, 2, 1, 0, 0, 0, 0]
    assert [replica.is_held for replica in mesh.replicas] == [True, True, False, False]
    pending.finish()
    mesh.assert_nothing_owed()


def test_answers_are_awaited_in_the_order_of_experts_and_steps_may_overlap(make_mesh, layer):
    mesh = make_mesh([range(8)])
    steps = [make_step(3, seed) for seed in (1, 2)]
    pending = [mesh.remote.begin(step) for step in steps]
    for step, call in reversed(list(zip(steps, pending, strict=True))):
        torch.testing.assert_close(call.finish(), run_local(layer, step), rtol=1e-5, atol=1e-6)
    assert mesh.links[0].received == [1, 0]
    mesh.assert_nothing_owed()


def test_another_replica_gives_the_same_bytes(make_mesh):
    mesh = make_mesh([*QUARTERS, (0, 1)])
    before = run_experts(mesh.remote, make_step(16))
    mesh.replicas[0].disconnect(mesh.links[0])
    assert torch.equal(run_experts(mesh.remote, make_step(16)), before)


@pytest.mark.parametrize(
    "error",
    [
        *(CallFailure(code, "as told") for code in FailureCode),
        LinkLostError("gone"),
        ReplicaFaultError("it answered with nonsense"),
    ],
    ids=[*(code.name for code in FailureCode), "lost", "nonsense"],
)
def test_what_fails_is_asked_of_another_replica(make_mesh, layer, error):
    mesh = make_mesh([range(8), range(8)])
    failing, good = mesh.links
    failing.answer = fail_with(error)
    step = make_step(5)
    for _ in range(8):  # until it has been picked
        torch.testing.assert_close(run_experts(mesh.remote, step), run_local(layer, step), rtol=1e-5, atol=1e-6)
    assert (mesh.replicas[0].stats.num_calls, mesh.replicas[1].stats.num_failed_calls) == (0, 0)
    assert sum(mesh.load.num_retries) >= mesh.replicas[0].stats.num_failed_calls >= 1
    mesh.assert_nothing_owed()


def test_the_others_keep_their_answers_when_one_fails(make_mesh):
    mesh = make_mesh([*QUARTERS, (0, 1)])
    for link in (mesh.links[0], mesh.links[4]):
        link.answer = fail_once(BUSY, link.answer)
    step = choosing((0, 2), (1, 4), (6, 2))
    answer = run_experts(mesh.remote, step)
    assert torch.equal(answer, run_experts(make_mesh().remote, step))
    assert [len(link.sent) for link in mesh.links[1:4]] == [1, 1, 1]


def fail_once(error: Exception, answer):
    errors = [error]

    def answer_later(call: ExpertCall):
        if errors:
            raise errors.pop()
        return answer(call)

    return answer_later


def test_a_step_waits_for_a_replica_to_come_back(make_mesh, layer):
    mesh = make_mesh([range(8)])
    [replica], [link] = mesh.replicas, mesh.links
    replica.disconnect(link)
    timer = threading.Timer(0.1, replica.connect, (link, frozenset(range(8))))
    timer.start()
    started = time.monotonic()
    run_experts(mesh.remote, make_step(2))
    assert time.monotonic() - started >= 0.09
    timer.join()
    mesh.assert_nothing_owed()


def test_an_expert_that_nobody_hosts_is_named(make_mesh):
    mesh = make_mesh(QUARTERS[:3], wait_seconds=0.1)
    with pytest.raises(ExpertUnavailableError, match=r"expert 7; waited 0\.1 s"):
        mesh.remote.begin(choosing((0, 7)))
    mesh.assert_nothing_owed()


def test_an_expert_that_never_answers_is_named_with_the_reason(make_mesh):
    mesh = make_mesh([range(8)], wait_seconds=0.05)
    mesh.links[0].answer = fail_with(BUSY)
    with pytest.raises(
        ExpertUnavailableError, match=r"experts \[0, 7\] of layer 1 .* 0\.05 s; last failure: BUSY: full"
    ):
        run_experts(mesh.remote, choosing((0, 7)))
    assert len(mesh.links[0].sent) > 1
    mesh.assert_nothing_owed()


def test_nobody_waits_once_the_roster_is_closed(make_mesh):
    mesh = make_mesh([range(8)])
    mesh.links[0].answer = fail_with(BUSY)
    pending = mesh.remote.begin(make_step(1))
    mesh.roster.close()
    started = time.monotonic()
    with pytest.raises(ExpertUnavailableError):
        pending.finish()
    assert time.monotonic() - started < 5
    mesh.assert_nothing_owed()


NAN = CallFailure(FailureCode.COMPUTE_FAILED, "NaN")


@pytest.mark.parametrize("hosts", [(range(8),), (range(8), range(8))], ids=["the only one", "two"])
def test_what_is_refused_twice_ends_the_step_and_nobody_is_blamed(make_mesh, hosts):
    mesh = make_mesh(hosts)
    for link in mesh.links:
        link.answer = fail_with(NAN)
    told = "layer 1, expert 0: COMPUTE_FAILED: NaN; asked again: COMPUTE_FAILED: NaN"
    with pytest.raises(ComputeError, match=told) as refused:
        run_experts(mesh.remote, choosing((0, 2), (4, 6)))
    assert str(refused.value) == told
    (note,) = refused.value.__notes__
    assert re.fullmatch("replica-[01]: COMPUTE_FAILED: NaN; replica-[01]: COMPUTE_FAILED: NaN", note)
    assert all(len(link.sent) <= 2 for link in mesh.links)
    assert all(replica.health == Health() for replica in mesh.replicas)
    mesh.assert_nothing_owed()


def test_the_end_of_a_step_forgets_what_it_still_waits_for(make_mesh):
    mesh = make_mesh()
    mesh.links[0].answer = fail_with(NAN)
    mesh.links[1].answer = fail_once(BUSY, mesh.links[1].answer)
    with pytest.raises(ComputeError):
        run_experts(mesh.remote, choosing((0, 2), (4, 6)))
    assert [len(link.received) for link in mesh.links] == [0, 0, 1, 1]
    assert [len(link.forgotten) for link in mesh.links] == [
        2,
        2,
        0,
        0,
    ]
    mesh.assert_nothing_owed()


def test_who_refuses_what_another_answers_is_to_blame(make_mesh):
    mesh = make_mesh([range(8), range(8)])
    mesh.links[0].answer = fail_with(CallFailure(FailureCode.INVALID_REQUEST, "rows"))
    for _ in range(64):
        run_experts(mesh.remote, make_step(2))
    assert [replica.state for replica in mesh.replicas] == [ReplicaState.EJECTED, ReplicaState.READY]
    assert len(mesh.links[0].sent) == MAX_CONSECUTIVE_ERRORS


def test_hidden_states_that_are_no_numbers_are_the_gateways_fault(make_mesh):
    mesh = make_mesh([range(8), range(8)])
    step = make_step(2)
    step.hidden[1, 3] = torch.nan
    with pytest.raises(ComputeError, match=r"INVALID_REQUEST: hidden or topk_weights of rows \[[01]\] are not finite"):
        run_experts(mesh.remote, step)
    assert not any(replica.health.num_consecutive_errors for replica in mesh.replicas)


def test_a_late_answer_is_given_up_once_somebody_else_can_give_it(make_mesh, monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.latency.MIN_LATE_SECONDS", 0.0)
    mesh = make_mesh([range(8), range(8)])
    [wedged, twin], good = mesh.replicas, mesh.links[1].answer
    twin.disconnect(mesh.links[1])
    expected = run_experts(mesh.remote, make_step(2))
    num_looks = 0

    def come_back_and_look(call: ExpertCall):
        nonlocal num_looks
        num_looks += 1
        if num_looks == 3:
            twin.connect(mesh.links[1], frozenset(range(8)))
        raise TimeoutError

    mesh.links[0].answer = come_back_and_look
    assert torch.equal(run_experts(mesh.remote, make_step(2)), expected)
    assert (num_looks, wedged.state, good is mesh.links[1].answer) == (3, ReplicaState.EJECTED, True)
    mesh.assert_nothing_owed()


def test_the_only_replica_has_all_the_time_of_a_call(make_mesh, monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.latency.MIN_LATE_SECONDS", 0.0)
    mesh = make_mesh([range(8)], call_timeout_seconds=0.1, wait_seconds=0.2)
    run_experts(mesh.remote, make_step(2))
    mesh.links[0].answer = fail_with(TimeoutError())
    started = time.monotonic()
    with pytest.raises(ExpertUnavailableError, match="last failure: its replica was lost or did not answer") as late:
        run_experts(mesh.remote, make_step(2))
    (note,) = late.value.__notes__
    assert re.fullmatch(r"replica-0: replica-0 did not answer within \d\.\d s", note)
    assert time.monotonic() - started > 0.09
    mesh.assert_nothing_owed()


def test_a_replica_that_retires_between_pick_and_call_is_not_called(make_mesh):
    mesh = make_mesh([range(8), range(8)], wait_seconds=0)
    # The roster that the step reads is the one from before.
    mesh.replicas[0].is_retired = True
    for _ in range(8):
        mesh.roster._ready = dict.fromkeys(range(8), [mesh.replicas[0]])
        threading.Timer(0.01, mesh.roster.update).start()
        run_experts(mesh.remote, make_step(1))
    assert not mesh.links[0].sent


def test_rows_and_bytes_are_counted(make_mesh):
    mesh = make_mesh([range(8)])
    run_experts(mesh.remote, make_step(3))
    [call] = mesh.links[0].sent
    assert (mesh.load.sent_bytes, mesh.load.received_bytes) == (call.num_bytes, 3 * HIDDEN * 4)
    assert sum(mesh.load.by_layer(expert)[LAYER] for expert in range(8)) == 6


def test_a_call_whose_answer_nobody_waits_for_ends_its_span(make_mesh):
    with keeping() as kept:
        mesh = make_mesh(tracer=kept.tracer)
        parent = kept.tracer.start("layer dispatch", "", {})
        mesh.remote.begin(replace(choosing((0, 2), (4, 2)), traceparent=parent.traceparent)).abandon()
        mesh.assert_nothing_owed()
        assert [link.sent[0].traceparent != parent.traceparent for link in mesh.links[:3]] == [True] * 3
        assert [(span.name, span.attributes["error.type"]) for span in kept.spans] == [
            ("expert rpc", "UnwantedError")
        ] * 3
