"""Steps in pieces, over real links to real expert servers in this process."""

import os
import threading

import pytest
import torch
from link_server import HIDDEN, NUM_EXPERTS, NUM_LAYERS, link_server
from linked_mesh import NUM_ROWS, PIECE_ROWS, make_step, mesh_of
from waiting import wait_until

from expertmesh.mesh import direct_link
from expertmesh.model.experts import run_experts


@pytest.fixture(params=["grpc", "direct", "shared memory"])
def transport(request, monkeypatch):
    monkeypatch.setattr(direct_link, "MIN_SHARED_BYTES", 1 if request.param == "shared memory" else 2**40)
    return "grpc" if request.param == "grpc" else "direct"


HOSTS = [None, ((0, 1, 2, 3), (2,)), ((0, 2), (1, 3)), ((0,), (1, 2, 3))]


@pytest.mark.parametrize("hosts", HOSTS, ids=str)
def test_pieces_are_the_whole_bit_by_bit(transport, hosts):
    with link_server() as one, link_server() as other:
        for num_rows in (1, PIECE_ROWS, PIECE_ROWS + 1, NUM_ROWS):
            step, call = make_step(num_rows, layer=num_rows % NUM_LAYERS)
            with mesh_of([one, other], transport, hosts) as mesh, mesh_of([one], "grpc", max_piece_rows=999) as whole:
                answers = [run_experts(mesh.remote, step) for _ in range(3)]
                torch.testing.assert_close(answers[0], one.expected(call))
                assert all(torch.equal(answer, answers[0]) for answer in answers)
                if hosts is None:
                    assert torch.equal(answers[0], run_experts(whole.remote, step))
                answers.clear()  # one that is nobody's sum lies where the server put it
                mesh.assert_nothing_owed()


def test_two_steps_under_way_share_the_memory_and_not_their_rooms(transport):
    with link_server() as server, mesh_of([server], transport) as mesh:
        steps = [make_step(NUM_ROWS, layer) for layer in range(NUM_LAYERS)]
        pending = [mesh.remote.begin(step) for step, _ in steps]
        for (_, call), waiting in reversed(list(zip(steps, pending, strict=True))):
            torch.testing.assert_close(waiting.finish(), server.expected(call))
        del pending, waiting
        mesh.assert_nothing_owed()


def test_what_has_no_room_travels_through_the_socket(monkeypatch):
    monkeypatch.setattr(direct_link, "MIN_SHARED_BYTES", 1)
    monkeypatch.setattr("expertmesh.mesh.open_link.SHARED_BYTES", 64 * 1024)
    with link_server(closed_layers=[0]) as server, mesh_of([server], "direct") as mesh:
        step, call = make_step()
        pending = mesh.remote.begin(step)
        [rooms] = [link._rooms for link in mesh.links]
        assert len(rooms._taken) == 1
        server.layers[0].releases.release(100)
        torch.testing.assert_close(pending.finish(), server.expected(call))
        mesh.assert_nothing_owed()


def test_pieces_that_a_dying_server_owes_are_sent_to_another(transport):
    with (
        link_server(closed_layers=[0], drain_seconds=0.1) as dying,
        link_server() as other,
        mesh_of([dying, other], transport) as mesh,
    ):
        step, call = make_step()
        pending = mesh.remote.begin(step)
        if any(replica.inflight_rows for replica in mesh.replicas[:1]):
            assert dying.layers[0].entered.acquire(timeout=30)
        dying.stop.set()
        torch.testing.assert_close(pending.finish(), other.expected(call))
        assert sum(mesh.load.num_retries) + sum(mesh.load.num_hedged) > 0
        mesh.assert_nothing_owed()


def test_pieces_that_a_draining_server_refuses_are_sent_to_another(transport):
    with (
        link_server(closed_layers=[0]) as draining,
        link_server() as other,
        mesh_of([draining, other], transport) as mesh,
    ):
        mesh.replicas[1].disconnect(mesh.links[1])
        step, call = make_step()
        pending = mesh.remote.begin(step)
        assert draining.layers[0].entered.acquire(timeout=30)
        mesh.replicas[1].connect(mesh.links[1], frozenset(range(NUM_EXPERTS)))
        draining.stop.set()
        threading.Timer(0.1, draining.layers[0].releases.release, [100]).start()
        torch.testing.assert_close(pending.finish(), other.expected(call))
        # Over gRPC it may have accepted all of them.
        assert transport == "grpc" or (len(draining.layers[0].launches), len(other.layers[0].launches)) == (1, 4)
        mesh.assert_nothing_owed()


def test_late_answers_to_pieces_that_were_given_up_harm_no_later_one(transport, monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.latency.MIN_LATE_SECONDS", 0.05)
    with (
        link_server(closed_layers=[0]) as late,
        link_server() as other,
        mesh_of([late, other], transport, call_timeout_seconds=0.2) as mesh,
    ):
        mesh.replicas[1].disconnect(mesh.links[1])
        step, call = make_step()
        pending = mesh.remote.begin(step)
        mesh.replicas[1].connect(mesh.links[1], frozenset(range(NUM_EXPERTS)))
        assert late.layers[0].entered.acquire(timeout=30)
        torch.testing.assert_close(pending.finish(), other.expected(call))
        late.layers[0].releases.release(100)
        mesh.replicas[1].disconnect(mesh.links[1])
        for layer in (1, 2, 0):
            step, call = make_step(NUM_ROWS, layer)
            torch.testing.assert_close(run_experts(mesh.remote, step), late.expected(call))
        mesh.assert_nothing_owed()


def test_a_step_that_is_abandoned_gives_its_rooms_back_once_it_is_answered(transport):
    with link_server(closed_layers=[0]) as server, mesh_of([server], transport) as mesh:
        mesh.remote.begin(make_step()[0]).abandon()
        server.layers[0].releases.release(100)
        step, call = make_step(layer=1)
        torch.testing.assert_close(run_experts(mesh.remote, step), server.expected(call))
        mesh.assert_nothing_owed()


def test_no_descriptor_and_no_thread_stays(transport):
    with link_server() as server:
        with mesh_of([server], transport) as mesh:  # what a process opens once
            run_experts(mesh.remote, make_step()[0])
        del mesh
        for _ in range(3):
            before = len(os.listdir("/proc/self/fd"))
            with mesh_of([server], transport) as mesh:
                run_experts(mesh.remote, make_step()[0])
            del mesh
            wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "expert-link"])
            wait_until(lambda before=before: len(os.listdir("/proc/self/fd")) <= before)


def test_rows_of_any_width_fit_in_a_message(monkeypatch):
    monkeypatch.setattr("expertmesh.mesh.layer_step.MAX_ANSWER_BYTES", 3 * HIDDEN * 4)
    with link_server() as server, mesh_of([server], "grpc") as mesh:
        step, call = make_step(7)
        torch.testing.assert_close(run_experts(mesh.remote, step), server.expected(call))
        assert mesh.replicas[0].stats.num_calls == 3
