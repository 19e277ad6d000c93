"""A namespace that enforces restricted Pod Security, and the chart with the demo model in it.

Any cluster that KUBECONFIG names will do. E2E_VALUES: values files besides values-cpu-demo.yaml, separated by commas,
for example with the images' registry. E2E_MANIFEST: objects to make first; $NAMESPACE in it is replaced.
"""

import os
import shutil
import uuid
from pathlib import Path

import pytest
from cluster import Namespace, run
from release import Release


def pytest_collection_modifyitems(items):
    """Mark everything here; skip it where there is no cluster."""
    missing = [program for program in ("kubectl", "helm") if shutil.which(program) is None]
    reason = f"needs {', '.join(missing)} on PATH" if missing else "needs KUBECONFIG"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(900))
            if missing or not os.environ.get("KUBECONFIG"):
                item.add_marker(pytest.mark.skip(reason))


@pytest.fixture(scope="module")
def namespace():
    name = f"expertmesh-{uuid.uuid4().hex[:8]}"
    run("kubectl", "create", "namespace", name)
    run("kubectl", "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    manifest = os.environ.get("E2E_MANIFEST")
    text = Path(manifest).read_text().replace("$NAMESPACE", name) if manifest else None
    try:
        if text:
            run("kubectl", "--namespace", name, "apply", "--filename", "-", stdin=text)
        yield Namespace(name)
    finally:
        run("kubectl", "delete", "namespace", name, "--timeout=120s")
        if text:
            run("kubectl", "--namespace", name, "delete", "--ignore-not-found", "--filename", "-", stdin=text)


@pytest.fixture(scope="module")
def release(namespace):
    files = [Path(file) for file in os.environ.get("E2E_VALUES", "").split(",") if file]
    installed = Release(namespace, tuple(files))
    installed.install()
    yield installed
    installed.uninstall()
