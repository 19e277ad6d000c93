"""Install, test, upgrade, roll back; rights and Pod Security as a real API server sees them."""

import json

import pytest
from cluster import CommandError, run, wait_until
from release import FULLNAME, GATEWAY, GROUPS, NAME

SELECTOR = f"app.kubernetes.io/instance={NAME}"


def test_every_pod_runs_under_restricted_pod_security(release):
    pods = release.namespace.pods(SELECTOR)
    assert sorted(pod["metadata"]["labels"].get("expertmesh/group", "gateway") for pod in pods) == [*GROUPS, "gateway"]
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}


def test_every_server_computes_the_same_bits_in_any_company(release):
    """Without kernels in the images the other tests would compare texts that may differ."""
    for pod in release.namespace.pods(SELECTOR):
        assert "deterministic: yes" in release.namespace.logs(pod["metadata"]["name"])


def test_helm_test_generates_an_answer(release):
    release.namespace.helm("test", NAME, "--timeout", "120s")
    assert release.namespace.logs(f"{FULLNAME}-test-generate").strip() == "141"


def test_the_service_leads_to_the_http_api(release):
    assert ask_http(release, "/v1/models")["object"] == "list"


def test_with_keys_only_those_who_present_one_are_answered(release):
    release.install("gateway.apiKeys.keys={first-key,second-key}")
    try:
        with pytest.raises(CommandError, match="credentials|Unauthorized"):
            ask_http(release, "/v1/models")
        release.namespace.helm("test", NAME, "--timeout", "120s")
        assert release.namespace.logs(f"{FULLNAME}-test-generate").strip() == "141"
    finally:
        release.install()


def test_a_privileged_pod_is_refused_here(release):
    with pytest.raises(CommandError, match="violates PodSecurity"):
        release.namespace.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "privileged"},
                "spec": {"containers": [{"name": "c", "image": "none", "securityContext": {"privileged": True}}]},
            }
        )


@pytest.mark.parametrize("verb", ["get", "list", "watch"])
def test_the_gateway_may_read_endpoint_slices(release, verb):
    assert can(release, verb, "endpointslices.discovery.k8s.io")


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("delete", "endpointslices.discovery.k8s.io"), ("update", "endpointslices.discovery.k8s.io")]
    + [("list", "pods"), ("get", "secrets"), ("list", "services"), ("create", "pods"), ("list", "configmaps")],
)
def test_the_gateway_may_do_nothing_else(release, verb, resource):
    assert not can(release, verb, resource)


def test_a_forbidden_verb_fails(release):
    with pytest.raises(CommandError, match="Forbidden"):
        release.namespace.kubectl("get", "pods", f"--as={account(release)}")


def test_expert_pods_hold_no_token(release):
    for pod in release.namespace.pods(f"{SELECTOR},app.kubernetes.io/component=expert"):
        mounts = [mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]]
        assert not any("serviceaccount" in mount for mount in mounts)


def test_an_upgrade_changes_one_group_and_a_rollback_takes_it_back(release):
    before = generations(release)
    release.install("experts.groups.e1.replicas=2")
    assert release.ready_replicas(f"{FULLNAME}-e1") == 2
    release.namespace.get("poddisruptionbudget", f"{FULLNAME}-e1")
    release.namespace.helm("rollback", NAME, "--wait", "--timeout", "180s")
    assert release.ready_replicas(f"{FULLNAME}-e1") == 1
    with pytest.raises(CommandError, match="NotFound"):
        release.namespace.get("poddisruptionbudget", f"{FULLNAME}-e1")
    changed = {name for name, generation in generations(release).items() if generation != before[name]}
    assert changed == {f"{FULLNAME}-e1"}


def test_uninstalling_leaves_nothing_behind(release):
    kinds = "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,hpa"
    release.uninstall()
    try:
        # A hook's pod is helm's to keep; the others finish their work first.
        others = f"{SELECTOR},app.kubernetes.io/component!=test"
        wait_until(lambda: not release.namespace.get(kinds, "--selector", others)["items"], "nothing is left")
    finally:
        release.install()


def ask_http(release, path):
    """Ask the gateway's Service over HTTP, through the API server."""
    service = f"/api/v1/namespaces/{release.namespace.name}/services/{GATEWAY}:http"
    return json.loads(run("kubectl", "get", "--raw", f"{service}/proxy{path}"))


def account(release):
    """The gateway's ServiceAccount as a user."""
    return f"system:serviceaccount:{release.namespace.name}:{GATEWAY}"


def can(release, verb, resource):
    """Whether the gateway's account may do this."""
    try:
        return release.namespace.kubectl("auth", "can-i", verb, resource, f"--as={account(release)}").strip() == "yes"
    except CommandError:
        return False


def generations(release):
    """How often each Deployment has been changed."""
    deployments = release.namespace.get("deployments", "--selector", SELECTOR)["items"]
    return {item["metadata"]["name"]: item["metadata"]["generation"] for item in deployments}
