"""Values that must be refused, by the schema or because they do not fit together."""

import json
import re

import jsonschema
import pytest
import yaml
from chart import CHART, RENDERS, needs, objects, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# A setting as `helm --set-json` takes it.
WRONG_VALUES = [
    'gatway={"replicas": 1}',
    "gateway.replica=2",
    'gateway.replicas="2"',
    "gateway.replicas=-1",
    "gateway.ports.grpc=80",
    "gateway.ports.grpc=70000",
    'gateway.service.type="External"',
    'gateway.dtype="fp8"',
    "gateway.kvCacheGiB=0",
    'gateway.kvCacheGiB="half"',
    'gateway.corsOrigins=["example.org"]',
    'gateway.chatTemplate="mine.jinja"',
    "gateway.maxBodyMiB=0",
    "gateway.maxResponseMiB=0",
    "gateway.maxConnections=0",
    "gateway.maxNumWaiting=0",
    "gateway.maxWaitingPerKey=-1",
    "gateway.maxNumSeqs=-1",
    "gateway.microBatches=9",
    "gateway.speculate=65",
    'gateway.prefixCache="no"',
    'gateway.sharedPrefixCache="no"',
    "gateway.autoscaling.min=0",
    "gateway.autoscaling.targetCPUUtilization=140",
    'gateway.apiKeys.keys=["short"]',
    'gateway.apiKeys.keys=["first-key scope=load"]',
    'gateway.forwardedAllowIps=["ingress"]',
    'gateway.extraEnv=[{"name": "1BAD"}]',
    'gateway.resources={"requests": {"memory": "8 GB"}}',
    'gateway.resources={"request": {"memory": "8Gi"}}',
    "gateway.terminationGracePeriodSeconds=3",
    'image.pullPolicy="Sometimes"',
    'image.tag="v1:latest"',
    "model.numExperts=0",
    'model.quantize="int3"',
    'model.hostPath.path="relative/path"',
    'model.fetch.baseUrl="s3://bucket/model"',
    'experts.groups.e0={"experts": -1}',
    'experts.groups.e0={"experts": "0-"}',
    "experts.perGroup=0",
    'experts.groups.E0={"experts": "0"}',
    'gateway.podLabels={"a label": "x"}',
    "experts.groups.e0.autoscaling.min=0",
    'experts.groups.e0.autoscaling.kind="vpa"',
    "experts.groups.e0.gpu.count=0.5",
    'experts.defaults.gpu.resource="gpu"',
    'experts.defaults.backend="cuda"',
    'experts.defaults.device="gpu"',
    'experts.defaults.isa="sse2"',
    "podSecurityContext.runAsNonRoot=false",
    "podSecurityContext.runAsUser=0",
    'discovery.kind="consul"',
    'monitoring.serviceMonitor.interval="15"',
    'monitoring.demandMetric="expertmesh:demand"',
    "monitoring.layerMetrics=1",
    'tracing.endpoint="collector:4317"',
    "tracing.sampleRatio=1.5",
    'serviceAccount.name="Not A Name"',
    'tls.allowIdentities=["*.example.org"]',
    'tls.certManager.duration="90 days"',
    'tls.secret="mine"',
]
# Values that only together are wrong, and what is said about them.
MISFITS = {
    'experts.groups.gateway={"experts": "0"}': "experts.groups.gateway: this name is the gateway's",
    'model.hostPath.path="/models"': "2 sources of the model are set",
    'model.pvc.claimName=""': "0 sources of the model are set",
    'experts.groups.more={"replicas": 2}': "experts.groups.more names no experts",
    'experts.groups.e3={"experts": "4"}': "expert 3 is in no group",
    'experts.groups.more={"experts": "8"}': "names expert 8; model.numExperts is 8, so the last one is 7",
    'experts.groups.e0.experts="3-1"': "experts.groups.e0.experts is 3-1; write numbers and ascending ranges",
    "gateway.resources.limits.memory=null": "gateway.kvCacheGiB is auto, which is a part of",
    "gateway.preStopSeconds=115": "gateway: terminationGracePeriodSeconds 120 leaves no time to drain",
    "tls.enabled=true": "tls.enabled needs certificates; set either tls.certManager.issuerRef.name, or",
    'tls={"enabled": true, "existingSecrets": {"experts": "e"}}': "tls.enabled needs certificates",
    'experts.groups.e1.autoscaling={"kind": "hpa", "min": 5}': "experts.groups.e1.autoscaling: min 5 is above max 4",
}


def test_the_schema_is_valid_and_closed():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.validate(yaml.safe_load((CHART / "values.yaml").read_text()), SCHEMA)


def test_the_values_are_short_enough_to_be_read():
    assert len((CHART / "values.yaml").read_text().splitlines()) <= 300


@needs("helm")
@pytest.mark.parametrize("setting", WRONG_VALUES)
def test_a_wrong_value_is_refused_by_name(setting):
    refused = render(RENDERS["default"], setting)
    assert refused.returncode != 0
    assert "values don't meet the specifications of the schema" in refused.stderr
    assert re.split(r"[.=]", setting)[0] in refused.stderr


@needs("helm")
@pytest.mark.parametrize("setting", MISFITS)
def test_values_that_do_not_fit_together_are_refused(setting):
    refused = render(RENDERS["default"], setting)
    assert refused.returncode != 0
    assert MISFITS[setting] in refused.stderr


def rendered_groups(*settings: str) -> dict[str, str]:
    """Render the experts of each group, by its name."""
    rendered = render(RENDERS["default"], *settings)
    assert rendered.returncode == 0, rendered.stderr
    groups = {}
    for made in objects(rendered.stdout):
        name = made["metadata"].get("labels", {}).get("expertmesh/group")
        if name and made["kind"] == "Deployment":
            variables = made["spec"]["template"]["spec"]["containers"][0]["env"]
            groups[name] = next(one["value"] for one in variables if one["name"] == "EXPERTMESH_EXPERTS")
    return groups


@needs("helm")
@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        (["model.numExperts=2"], {"e0": "0", "e1": "1"}),
        (["model.numExperts=1"], {"e0": "0"}),
        (["model.numExperts=5", "experts.perGroup=2"], {"e0": "0-1", "e2": "2-3", "e4": "4"}),
        (
            ["model.numExperts=128", "experts.perGroup=16"],
            {f"e{first}": f"{first}-{first + 15}" for first in range(0, 128, 16)},
        ),
        (
            ["experts.perGroup=4", "experts.groups.e4.replicas=2", 'experts.groups.hot.experts="5"'],
            {"e0": "0-3", "e4": "4,6,7", "hot": "5"},
        ),
        (["experts.perGroup=8", 'experts.groups.e0.experts="0-6"'], {"e0": "0-6", "e7": "7"}),
        (["model.numExperts=2", 'experts.groups.both.experts="0-1"'], {"both": "0-1"}),
        (["model.numExperts=2", 'experts.groups.e0={"experts": "0"}', 'experts.groups.more={"experts": "0"}'],
         {"e0": "0", "more": "0", "e1": "1"}),
        (["model.numExperts=2", "experts.groups.e1=null"], {"e0": "0", "e1": "1"}),
    ],
)  # fmt: skip
def test_every_expert_is_in_a_group(settings, groups):
    assert rendered_groups(*settings) == groups


@needs("helm")
def test_a_group_may_replace_a_default_by_zero_or_false():
    rendered = render(
        RENDERS["default"], 'experts.groups.e0={"experts": "0", "preStopSeconds": 0, "readOnlyRootFilesystem": false}'
    ).stdout
    assert rendered.count("readOnlyRootFilesystem: false") == 1
    assert rendered.count('command: [sleep, "0"]') == 1
