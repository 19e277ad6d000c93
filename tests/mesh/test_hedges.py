"""Replicas that freeze, swallow or crawl beside a healthy twin, over real links."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from link_server import link_server
from linked_mesh import make_step, mesh_of
from wires import ANSWERS, CALLS, Wires, lay_direct

from expertmesh.errors import ExpertUnavailableError
from expertmesh.mesh.hedges import EXTRA_SHARE, MAX_SAVED, Budget
from expertmesh.model.experts import run_experts

SLOW_SECONDS = 0.05


@pytest.fixture
def harms():
    """What wires do to a replica, and what lets go of all that they hold back."""
    let_go = threading.Event()

    def freeze(direction, data):
        let_go.wait()
        return data

    def swallow(direction, data):
        return b"" if direction == CALLS else data

    def crawl(direction, data):
        if direction == ANSWERS:
            let_go.wait(SLOW_SECONDS)
        return data

    return {"frozen": freeze, "blackholed": swallow, "slow": crawl}, let_go


@contextmanager
def letting_go_at_the_end(event):
    try:
        yield
    finally:
        event.set()


@pytest.mark.parametrize("transport", ["grpc", "direct"])
@pytest.mark.parametrize("what", ["frozen", "blackholed", "slow"])
def test_a_step_takes_the_answer_of_the_twin_and_the_same_bits(transport, what, harms, monkeypatch):
    harm, let_go = harms
    with link_server() as ill, link_server() as well, Wires() as wires, letting_go_at_the_end(let_go):
        lay_direct(wires, monkeypatch, lambda endpoint: endpoint == ill.address)
        address = wires.to(ill.address) if transport == "grpc" else ill.address
        with mesh_of([SimpleNamespace(address=address), well], transport) as mesh:
            step, call = make_step(4)
            expected = well.expected(call)

            def run_step():
                assert torch.equal(run_experts(mesh.remote, step), expected)

            for _ in range(100):
                run_step()
            wires.harm = harm[what]
            while not sum(mesh.load.num_hedged):
                run_step()
            for _ in range(100):
                run_step()
            num_calls = sum(replica.stats.num_calls for replica in mesh.replicas)
            # A call has several experts, of which each counts it.
            assert sum(mesh.load.num_hedged) <= 4 * (1 + EXTRA_SHARE * num_calls)
            if what == "slow":
                mesh.assert_nothing_owed()
                assert mesh.replicas[0].state.value == "ready"
                assert sum(mesh.load.num_retries) == 0


def test_a_wedged_replica_is_ejected_once_its_answer_is_late(monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.latency.MIN_LATE_SECONDS", 0.1)
    with link_server() as wedged, link_server() as well, mesh_of([wedged, well], "direct") as mesh:
        step, call = make_step(4)
        for _ in range(50):
            run_experts(mesh.remote, step)
        wedged.layers[0].is_open = False
        while not mesh.replicas[0].health.num_ejections:
            assert torch.equal(run_experts(mesh.remote, step), well.expected(call))
        assert list(mesh.roster.ready(0)) == [mesh.replicas[1]]
        wedged.layers[0].is_open = True
        wedged.layers[0].releases.release(100)
        mesh.assert_nothing_owed()


def test_both_may_fail_and_the_step_is_asked_again(monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.latency.MIN_LATE_SECONDS", 0.05)
    with link_server() as one, link_server() as other, mesh_of([one, other], "direct") as mesh:
        step, call = make_step(4)
        for _ in range(50):
            run_experts(mesh.remote, step)
        for server in (one, other):
            server.layers[0].is_open = False

        def open_again():
            time.sleep(0.3)
            for server in (one, other):
                server.layers[0].is_open = True
                server.layers[0].releases.release(100)

        opener = threading.Thread(target=open_again)
        opener.start()
        assert torch.equal(run_experts(mesh.remote, step), one.expected(call))
        opener.join()
        assert sum(mesh.load.num_retries) > 0
        mesh.assert_nothing_owed()


def test_the_only_replica_is_waited_for_as_long_as_the_step_may_take_and_not_for_the_whole_call(monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.latency.MIN_LATE_SECONDS", 0.05)
    with link_server() as only, mesh_of([only], "direct", wait_seconds=0.3, call_timeout_seconds=60.0) as mesh:
        step, call = make_step(4)
        assert torch.equal(run_experts(mesh.remote, step), only.expected(call))
        only.layers[0].is_open = False
        # Were it waited for until the call's time is over, so would this test be.
        with pytest.raises(ExpertUnavailableError, match=r"did not answer within 0\.3 s"):
            run_experts(mesh.remote, step)
        only.layers[0].is_open = True
        only.layers[0].releases.release(100)
        assert torch.equal(run_experts(mesh.remote, step), only.expected(call))


def test_one_call_in_twenty_may_be_sent_twice_and_what_is_saved_has_an_end():
    budget = Budget()
    assert [budget.spend(), budget.spend()] == [True, False]
    num_spent = 0
    for _ in range(1000):
        budget.earn()
        num_spent += budget.spend()
    assert num_spent == pytest.approx(1000 * EXTRA_SHARE, abs=1)
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == MAX_SAVED
