"""Reduce Kubernetes' OpenAPI document to strict JSON schemas of the objects that the chart makes.

python tests/helm/make_schemas.py SWAGGER_JSON OUT, where SWAGGER_JSON is api/openapi-spec/swagger.json of a release of
k8s.io/kubernetes. Descriptions are left out, unknown fields are errors.
"""

import json
import sys
from pathlib import Path

KINDS = (
    "apps.v1.Deployment",
    "autoscaling.v2.HorizontalPodAutoscaler",
    "core.v1.ConfigMap",
    "core.v1.Pod",
    "core.v1.Secret",
    "core.v1.Service",
    "core.v1.ServiceAccount",
    "networking.v1.NetworkPolicy",
    "policy.v1.PodDisruptionBudget",
    "rbac.v1.Role",
    "rbac.v1.RoleBinding",
)
PREFIX = "#/definitions/"
# The document calls these strings; in files they may be numbers.
LENIENT = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
}


def reduce_document(document):
    """Return the definitions that ``KINDS`` need, made strict."""
    definitions, kept = document["definitions"], {}
    waiting = [f"io.k8s.api.{kind}" for kind in KINDS]
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = LENIENT.get(name) or tighten(definitions[name])
            waiting.extend(references(kept[name]))
    return {"definitions": dict(sorted(kept.items()))}


def tighten(schema):
    """Drop what does not constrain, and refuse fields that are not named."""
    strict = {key: value for key, value in schema.items() if key in ("type", "enum", "required", "$ref", "format")}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            strict[key] = tighten(schema[key])
    if "properties" in schema:
        strict["properties"] = {name: tighten(value) for name, value in schema["properties"].items()}
        strict["additionalProperties"] = False
    return strict


def references(schema):
    """List the names of the definitions that a schema refers to."""
    if isinstance(schema, list):
        return [name for item in schema for name in references(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"].removeprefix(PREFIX)] if isinstance(schema.get("$ref"), str) else []
    return own + [name for value in schema.values() for name in references(value)]


if __name__ == "__main__":
    reduced = reduce_document(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(reduced, sort_keys=True, separators=(",", ":")) + "\n")
