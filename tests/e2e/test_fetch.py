"""Pods that fetch the files of their own experts, and of no other, from a web server.

What fetches them is the chart's default, or what E2E_VALUES says.
"""

from pathlib import Path

import pytest
from cluster import wait_until
from release import FULLNAME, GATEWAY, GROUPS, NAME

SERVER = Path(__file__).with_name("serve_split.py")
POD, PORT = "models", 8080
COMPANIONS = {"config.json", "model.safetensors.index.json"}
GATEWAY_FILES = COMPANIONS | {"generation_config.json", "tokenizer.model", "gateway.safetensors"}


@pytest.fixture
def fetched(release):
    release.start_pod(POD, SERVER, str(PORT))
    try:
        wait_until(lambda: "serving" in release.namespace.logs(POD), "the checkpoint is served")
        address = release.namespace.get("pod", POD)["status"]["podIP"]
        release.install("model.inImage.path=", f"model.fetch.baseUrl=http://{address}:{PORT}")
        yield release
    finally:
        release.delete_pod(POD)
        release.install()


def test_every_pod_holds_its_own_files_only_and_the_mesh_answers(fetched):
    held = {group: files(fetched, f"{FULLNAME}-{group}") for group in GROUPS}
    assert held == {
        group: COMPANIONS | {f"expert-{expert:02}.safetensors" for expert in (2 * i, 2 * i + 1)}
        for i, group in enumerate(GROUPS)
    }
    assert files(fetched, GATEWAY) == GATEWAY_FILES
    fetched.namespace.helm("test", NAME, "--timeout", "120s")
    assert fetched.namespace.logs(f"{FULLNAME}-test-generate").strip() == "141"


def files(release, deployment):
    """What lies in the model's directory of a Deployment's pod."""
    return set(release.namespace.kubectl("exec", f"deployment/{deployment}", "--", "ls", "/model").split())
