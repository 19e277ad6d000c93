"""A gateway's pod from inside: its engine loads and is killed, several processes answer, links are direct.

Each as a real cluster has it: probes by the kubelet, SIGKILL inside the container, sockets between pods.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import wait_until
from release import FULLNAME, GATEWAY, GATEWAY_PODS, GROUPS, KILL_ENGINE, Load

WATCH_HEALTH = Path(__file__).with_name("watch_health.py")
ASK_PROCESSES = Path(__file__).with_name("ask_processes.py")
GRPC_PORT, HTTP_PORT = 50051, 8000
NUM_PROCESSES = 2
LOAD_SECONDS = 5


def test_while_its_engine_loads_a_gateway_is_neither_ready_nor_restarted(release):
    before = {pod["metadata"]["name"] for pod in release.namespace.pods(GATEWAY_PODS)}
    release.namespace.kubectl("rollout", "restart", f"deployment/{GATEWAY}")
    answers = watch_health(release, wait_for_new_pod(release, before))
    release.namespace.rollout(GATEWAY)
    assert answers == {
        "health": [503, 200],
        "liveness": ["NOT_SERVING", "SERVING"],
        "readiness": ["NOT_SERVING", "SERVING"],
    }
    assert num_restarts(release.gateway_pod()) == 0


def test_an_answer_goes_on_when_the_engine_is_killed_in_its_middle(release):
    pod = release.gateway_pod()
    name = pod["metadata"]["name"]
    with ThreadPoolExecutor() as threads:
        watching = threads.submit(watch_health, release, name)
        answer = json.loads(release.run_inside(name, KILL_ENGINE, f"{GATEWAY}:{GRPC_PORT}"))
        health = watching.result()
    assert answer["disturbed"] == answer["undisturbed"]
    assert answer["pause_seconds"] > 0.5  # what no engine needs for a step, and each to load
    assert health == {"health": [200], "liveness": ["SERVING"], "readiness": ["SERVING", "NOT_SERVING", "SERVING"]}
    after = release.gateway_pod()
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert num_restarts(after) == 0


@pytest.fixture(scope="module")
def calm(release):
    """What is answered by one process over gRPC, while nothing happens."""
    release.install()
    with Load(release) as load:
        time.sleep(LOAD_SECONDS)
    assert load.report["failures"] == []
    return load.report["texts"]


@pytest.fixture(scope="module")
def changed(release, calm):
    """The release with direct links and several processes that serve clients."""
    assert transports(release) == {"gRPC"}
    release.install("gateway.transport=direct", f"gateway.apiProcesses={NUM_PROCESSES}")
    return release


def test_every_process_that_serves_clients_answers_alike(changed):
    pod = changed.gateway_pod()["metadata"]["name"]
    texts = json.loads(changed.run_inside(pod, ASK_PROCESSES, HTTP_PORT, NUM_PROCESSES))
    assert len(texts) == NUM_PROCESSES
    assert len({text for answers in texts.values() for text in answers}) == 1


def test_direct_links_between_pods_give_the_text_of_grpc(changed, calm):
    with Load(changed) as load:
        time.sleep(LOAD_SECONDS)
        changed.namespace.kubectl("rollout", "restart", f"deployment/{FULLNAME}-{GROUPS[0]}")
        changed.namespace.rollout(f"{FULLNAME}-{GROUPS[0]}")
        time.sleep(LOAD_SECONDS)
    assert load.report["failures"] == []
    assert load.report["texts"] == calm
    assert transports(changed) == {"TCP"}


def wait_for_new_pod(release, before):
    """The name of a gateway's pod that was not there ``before``, as soon as commands can run in it."""
    new = []

    def has_started():
        new[:] = {pod["metadata"]["name"] for pod in release.namespace.pods(GATEWAY_PODS)} - before
        return new and release.namespace.kubectl("exec", new[0], "--", "true") == ""

    wait_until(has_started, "a new gateway has started")
    return new[0]


def watch_health(release, pod):
    """See watch_health.py."""
    return json.loads(release.run_inside(pod, WATCH_HEALTH, GRPC_PORT, HTTP_PORT))


def num_restarts(pod):
    """How often the kubelet has started the container again."""
    return pod["status"]["containerStatuses"][0]["restartCount"]


def transports(release):
    """The kinds of links that a gateway has said to have had."""
    lines = release.namespace.logs(release.gateway_pod()["metadata"]["name"]).splitlines()
    return {line.rpartition(" over ")[2] for line in lines if "is ready with experts" in line}
