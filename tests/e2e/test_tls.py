"""With TLS the mesh answers as without, and experts answer nobody but the gateway."""

import json
from pathlib import Path

import pytest
from certificates import Authority
from release import FULLNAME, GATEWAY, NAME

ASK_EXPERT = Path(__file__).with_name("ask_expert.py")
DIRECTORY = "/etc/expertmesh-tls"
SECRETS = {"gateway": "gateway-certificate", "experts": "experts-certificate"}
REFUSED = "UNAVAILABLE"


@pytest.fixture
def encrypted(release, tmp_path):
    """The release with certificates of an authority made for it; where others get no further than to the port."""
    authority, namespace = Authority(tmp_path), release.namespace.name
    names = {
        "gateway": [GATEWAY, f"{GATEWAY}.{namespace}.svc"],
        "experts": [f"{FULLNAME}-experts.{namespace}.svc"],
    }
    release.namespace.apply(*(secret(authority, SECRETS[role], names[role]) for role in SECRETS))
    settings = [f"tls.existingSecrets.{role}={name}" for role, name in SECRETS.items()]
    release.install("tls.enabled=true", "networkPolicy.enabled=false", *settings)
    yield release
    release.install()
    release.namespace.kubectl("delete", "secret", *SECRETS.values())


def secret(authority, name, names):
    """A Secret such as cert-manager makes."""
    issued = authority.issue(name, names)
    files = {"tls.crt": issued.cert, "tls.key": issued.key, "ca.crt": authority.ca}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls",
        "stringData": {file: path.read_text() for file, path in files.items()},
    }


def test_a_pod_without_a_certificate_is_refused_and_the_gateway_answers(encrypted):
    namespace = encrypted.namespace
    namespace.helm("test", NAME, "--timeout", "120s")
    assert namespace.logs(f"{FULLNAME}-test-generate").strip() == "141"
    name = f"{FULLNAME}-experts.{namespace.name}.svc"
    asked = encrypted.run_inside(f"deploy/{GATEWAY}", ASK_EXPERT, f"{FULLNAME}-e0:50052", name, DIRECTORY)
    assert json.loads(asked) == {
        "in the clear": REFUSED,
        "without a certificate": REFUSED,
        "with the one here": "OK",
    }
    asked = encrypted.run_inside(f"deploy/{FULLNAME}-e1", ASK_EXPERT, f"{FULLNAME}-e0:50052", name, DIRECTORY)
    assert json.loads(asked)["with the one here"] == "PERMISSION_DENIED"
