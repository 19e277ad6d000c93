"""The chart as it renders: equal to what is committed, and valid for each release of Kubernetes."""

import json

import jsonschema
import pytest
import yaml
from chart import CHART, GOLDEN, HERE, KUBE_VERSION, RENDERS, helm, needs, objects, render

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "schemas").glob("*.json"))}
# Their schemas belong to operators, not to Kubernetes.
FOREIGN_GROUPS = ("cert-manager.io", "keda.sh", "monitoring.coreos.com")


@needs("helm")
@pytest.mark.parametrize("name", RENDERS)
def test_renders_are_those_committed(name):
    """`make golden` writes them anew."""
    assert render(RENDERS[name]).stdout == (GOLDEN / f"{name}.yaml").read_text()


@needs("helm")
@pytest.mark.parametrize("name", RENDERS)
def test_lint_finds_nothing(name):
    helm("lint", CHART, "--strict", "--kube-version", KUBE_VERSION, "-f", RENDERS[name])


@needs("helm")
@pytest.mark.parametrize(("kind", "file"), [("prometheusRule", "alerts.yaml"), ("dashboard", "dashboard.json")])
def test_monitoring_objects_hold_the_chart_s_files(kind, file):
    rendered = render(RENDERS["default"], f"monitoring.{kind}.enabled=true")
    made = next(d for d in objects(rendered.stdout) if d["kind"] in ("PrometheusRule", "ConfigMap"))
    held = made.get("spec") or json.loads(made["data"]["expertmesh.json"])
    assert held == yaml.safe_load((CHART / "files" / file).read_text())


@pytest.mark.parametrize("release", SCHEMAS)
@pytest.mark.parametrize("name", RENDERS)
def test_objects_are_valid_for_every_release(name, release):
    for rendered in objects((GOLDEN / f"{name}.yaml").read_text()):
        if rendered["apiVersion"].partition("/")[0] not in FOREIGN_GROUPS:
            validator(release, rendered).validate(rendered)


def test_the_schemas_find_a_wrong_field():
    wrong = objects((GOLDEN / "default.yaml").read_text())[0] | {"specs": {}}
    with pytest.raises(jsonschema.ValidationError, match="'specs' was unexpected"):
        validator("1.29", wrong).validate(wrong)


def validator(release, rendered):
    """A validator of objects of this kind."""
    group, _, version = rendered["apiVersion"].rpartition("/")
    name = f"io.k8s.api.{group.partition('.')[0] or 'core'}.{version}.{rendered['kind']}"
    return jsonschema.Draft7Validator({**SCHEMAS[release], "$ref": f"#/definitions/{name}"})


@pytest.mark.parametrize("name", RENDERS)
def test_every_pod_is_admitted_by_restricted_pod_security(name):
    """The rules of the level "restricted", https://kubernetes.io/docs/concepts/security/pod-security-standards."""
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", RENDERS)
def test_only_gateways_hold_a_token(name):
    holders = {pod["containers"][0]["name"] for pod in pods(name) if pod["automountServiceAccountToken"]}
    assert holders == {"gateway"}


@pytest.mark.parametrize("name", RENDERS)
def test_names_are_unique_and_selectors_find_their_own_pods(name):
    rendered = objects((GOLDEN / f"{name}.yaml").read_text())
    names = [(document["kind"], document["metadata"]["name"]) for document in rendered]
    assert len(set(names)) == len(names)
    selectors = [d["spec"]["selector"]["matchLabels"].items() for d in rendered if d["kind"] == "Deployment"]
    labels = [d["spec"]["template"]["metadata"]["labels"].items() for d in rendered if d["kind"] == "Deployment"]
    assert [[selector <= label for label in labels] for selector in selectors] == [
        [row == column for column in range(len(labels))] for row in range(len(selectors))
    ]


def pods(name):
    """The pod specifications of a golden render."""
    rendered = objects((GOLDEN / f"{name}.yaml").read_text())
    templates = [d["spec"]["template"]["spec"] for d in rendered if d["kind"] == "Deployment"]
    return templates + [d["spec"] for d in rendered if d["kind"] == "Pod"]
