"""Expert groups and gateways come and go under load: no request fails, and no text changes."""

import time

import pytest
from cluster import wait_until
from release import FULLNAME, GATEWAY, GATEWAY_PODS, KILL_ENGINE, Load

CALM_SECONDS = 3
GROUP = "e0"
SELECTOR = f"expertmesh/group={GROUP}"


@pytest.fixture(scope="module")
def calm(release):
    """What is answered while nothing happens."""
    with Load(release) as load:
        time.sleep(2 * CALM_SECONDS)
    assert not load.report["failures"]
    assert all(len(texts) == 1 for texts in load.report["texts"].values())
    return load.report["texts"]


def restart_experts(release):
    """Restart a group as an upgrade does."""
    release.namespace.kubectl("rollout", "restart", f"deployment/{FULLNAME}-{GROUP}")
    release.namespace.rollout(f"{FULLNAME}-{GROUP}")


def kill_experts(release):
    """Kill the only replica of a group at once."""
    release.namespace.kubectl("delete", "pod", "--selector", SELECTOR, "--grace-period=0", "--force")
    release.namespace.rollout(f"{FULLNAME}-{GROUP}")


def scale_experts(release):
    """Scale a group out and in again."""
    scale(release, f"{FULLNAME}-{GROUP}", 3)
    time.sleep(CALM_SECONDS)
    scale(release, f"{FULLNAME}-{GROUP}", 1)


def drain_experts(release):
    """Drain a node of a group's pods."""
    drain(release, SELECTOR)
    release.namespace.rollout(f"{FULLNAME}-{GROUP}")


def restart_gateways(release):
    """Restart every gateway as an upgrade does."""
    release.namespace.kubectl("rollout", "restart", f"deployment/{GATEWAY}")
    release.namespace.rollout(GATEWAY)


def scale_gateways(release):
    """Scale gateways out and in again."""
    scale(release, GATEWAY, 2)
    time.sleep(CALM_SECONDS)
    scale(release, GATEWAY, 1)


@pytest.mark.parametrize(
    "disturb", [restart_experts, kill_experts, scale_experts, drain_experts, restart_gateways, scale_gateways]
)
def test_no_request_fails_and_no_text_changes(release, calm, disturb):
    with Load(release) as load:
        time.sleep(CALM_SECONDS)
        disturb(release)
        time.sleep(CALM_SECONDS)
    assert load.report["failures"] == []
    assert load.report["texts"] == calm


def test_a_killed_gateway_takes_nothing_but_answers_that_had_begun(release, calm):
    scale(release, GATEWAY, 2)
    try:
        with Load(release, attempts=5) as load:
            time.sleep(CALM_SECONDS)
            kill_one_gateway(release)
            time.sleep(2 * CALM_SECONDS)
    finally:
        scale(release, GATEWAY, 1)
    assert all(failure["had_begun"] for failure in load.report["failures"])
    assert len(load.report["failures"]) <= len(calm)
    assert load.report["texts"] == calm


def test_an_engine_killed_beside_another_gateway_takes_nothing(release, calm):
    scale(release, GATEWAY, 2)
    try:
        with Load(release) as load:
            time.sleep(CALM_SECONDS)
            [victim, *_] = release.namespace.pods(GATEWAY_PODS)
            release.run_inside(victim["metadata"]["name"], KILL_ENGINE)
            time.sleep(3 * CALM_SECONDS)
            release.namespace.rollout(GATEWAY)
    finally:
        scale(release, GATEWAY, 1)
    assert load.report["failures"] == []
    assert load.report["texts"] == calm


def kill_one_gateway(release):
    """Kill one of the gateways at once, and wait for another in its place."""
    [victim, *_] = release.namespace.pods(GATEWAY_PODS)
    release.namespace.kubectl("delete", "pod", victim["metadata"]["name"], "--grace-period=0", "--force")
    release.namespace.rollout(GATEWAY)


def scale(release, deployment, replicas):
    """Set the number of replicas, and wait until others are gone."""
    release.namespace.kubectl("scale", f"deployment/{deployment}", f"--replicas={replicas}")
    release.namespace.rollout(deployment)
    labels = release.namespace.get("deployment", deployment)["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    wait_until(lambda: len(release.namespace.pods(selector)) == replicas, f"{deployment} has {replicas} pods")


def drain(release, selector):
    """Drain the node of the pods with these labels, of these pods, and let it take pods again."""
    node = release.namespace.pods(selector)[0]["spec"]["nodeName"]
    try:
        release.namespace.kubectl("drain", node, "--pod-selector", selector, "--delete-emptydir-data", "--timeout=120s")
    finally:
        release.namespace.kubectl("uncordon", node)
