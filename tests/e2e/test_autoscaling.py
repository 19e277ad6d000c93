"""Demand that the gateway exports scales the group it is for, and no other, through the external metrics API.

E2E_HPA_SYNC_SECONDS: how often the cluster's autoscalers look, where that is not Kubernetes' default of 15 s.
"""

import os
import time
from pathlib import Path

import pytest
import yaml
from cluster import CommandError, run, wait_until
from release import CHART, FULLNAME, GATEWAY, Load
from replicas import DesiredReplicas, turns

METRICS = Path(__file__).with_name("external_metrics.py")
NAME = "external-metrics"
API = "v1beta1.external.metrics.k8s.io"
SYNC_SECONDS = float(os.environ.get("E2E_HPA_SYNC_SECONDS", "15"))
BUSY, QUIET = f"{FULLNAME}-e0", f"{FULLNAME}-e1"
# Seven experts in one group and one in another: the same requests are a skewed load.
SKEWED = (
    "experts.groups.e0.experts=0-6",
    "experts.groups.e1.experts=7",
    "experts.groups.e2=null",
    "experts.groups.e3=null",
    "experts.defaults.autoscaling.kind=hpa",
    "experts.defaults.autoscaling.max=3",
    "experts.defaults.autoscaling.targetDemandRows=3",
    "experts.defaults.autoscaling.scaleDownSeconds=5",
)


@pytest.fixture
def autoscaled(release, tmp_path):
    if has_api():
        pytest.skip(f"this cluster has somebody else's {API}")
    release.install(*SKEWED)
    metric = yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]["demandMetric"]
    certificate = make_certificate(tmp_path)
    arguments = (f"http://{GATEWAY}:8000/metrics", metric, "/scripts/server.pem")
    release.start_pod(NAME, METRICS, *arguments, files={"server.pem": certificate})
    try:
        release.namespace.apply(*service(release.namespace.name))
        yield release
    finally:
        run("kubectl", "delete", "apiservice", API, "--ignore-not-found")
        release.delete_pod(NAME)


def test_skewed_load_scales_its_own_group_soon_and_without_flapping(autoscaled):
    with DesiredReplicas(autoscaled.namespace) as desired:
        with Load(autoscaled) as load:
            start = time.monotonic()
            wait_until(lambda: autoscaled.ready_replicas(BUSY) == 3, "the busy group has grown", seconds=180)
            time.sleep(3 * SYNC_SECONDS)
        wait_until(lambda: autoscaled.ready_replicas(BUSY) == 1, "the group has shrunk again", seconds=180)
        time.sleep(3 * SYNC_SECONDS)
    assert load.report["failures"] == []
    assert desired.changed_at(BUSY) - start < 2 * SYNC_SECONDS
    assert (max(desired.of(BUSY)), desired.of(BUSY)[-1]) == (3, 1)
    assert turns(desired.of(BUSY)) == 1
    assert desired.of(QUIET) == [1]


def has_api():
    """Whether the cluster has external metrics already."""
    try:
        run("kubectl", "get", "apiservice", API)
    except CommandError:
        return False
    return True


def make_certificate(directory):
    """A key and a certificate that nobody checks, as one text."""
    run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}",
        "-keyout", directory / "key.pem", "-out", directory / "certificate.pem",
    )  # fmt: skip
    return (directory / "key.pem").read_text() + (directory / "certificate.pem").read_text()


def service(namespace):
    """What leads the API server to the pod."""
    ports = [{"port": 443, "targetPort": 6443}]
    group, version = API.partition(".")[2], API.partition(".")[0]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": ports},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": API},
            "spec": {
                "group": group,
                "version": version,
                "service": {"name": NAME, "namespace": namespace},
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    ]
