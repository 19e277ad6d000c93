"""The shell commands of the chart, run as its containers would run them."""

import hashlib
import json
import os
import subprocess
import threading
from contextlib import nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from chart import GOLDEN, needs, objects

RENDERED = objects((GOLDEN / "full.yaml").read_text())


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and does not say so."""

    def log_message(self, *arguments):
        pass


@pytest.fixture
def model_server(tmp_path):
    """A web server with a file of each name that some pod fetches, holding its own name."""
    directory = tmp_path / "published"
    directory.mkdir()
    for name in {name for container in fetchers().values() for name in environment(container)["FILES"].split()}:
        (directory / name).write_text(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=directory))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@needs("curl")
@pytest.mark.parametrize(
    ("deployment", "shards"),
    [("e0", {0}), ("e3", {3, 4, 5, 7}), ("gateway", set())],
)
def test_a_pod_fetches_the_files_of_its_own_experts(deployment, shards, model_server, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    fetch(deployment, model_server, model)
    found = {path.name: path.read_text() for path in model.iterdir()}
    assert all(name == content for name, content in found.items())
    assert {name for name in found if name.startswith("expert-")} == {
        f"expert-{shard:02}.safetensors" for shard in shards
    }
    assert {"config.json", "model.safetensors.index.json"} <= set(found)
    assert ("gateway.safetensors" in found) == (deployment == "gateway")


@needs("curl")
def test_what_was_fetched_is_kept_and_what_was_cut_short_is_not(model_server, tmp_path):
    (tmp_path / "config.json").write_text("kept")
    (tmp_path / "expert-00.safetensors.part").write_text("half")
    fetch("e0", model_server, tmp_path)
    assert (tmp_path / "config.json").read_text() == "kept"
    assert (tmp_path / "expert-00.safetensors").read_text() == "expert-00.safetensors"


@needs("curl")
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_fetched_file_is_compared_with_what_the_index_says(is_damaged, model_server, tmp_path, capfd):
    name = "expert-00.safetensors"
    found = hashlib.sha256(name.encode()).hexdigest()
    right = hashlib.sha256(b"another").hexdigest() if is_damaged else found
    index = {"weight_map": {"a.weight": name}, "metadata": {"expertmesh": {"sha256": {name: right}}}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    with pytest.raises(subprocess.CalledProcessError) if is_damaged else nullcontext():
        fetch("e0", model_server, tmp_path)
    assert (tmp_path / name).exists() != is_damaged
    said = f"{name} is damaged: its SHA-256 is {found}; {right} would be right"
    assert (said in capfd.readouterr().err) == is_damaged


def test_helm_test_presents_the_first_key_that_is_no_hash(tmp_path):
    (tmp_path / "keys").write_text(f"# clients\n\nsha256:{'0' * 64} name=a\n  first-key name=b\nsecond-key\n")
    pod = next(document for document in RENDERED if document["kind"] == "Pod")
    command = [part.replace("/etc/expertmesh", str(tmp_path)) for part in pod["spec"]["containers"][0]["command"]]
    shown = subprocess.run([*command, "printenv", "EXPERTMESH_API_KEY"], capture_output=True, text=True, check=True)
    assert shown.stdout == "first-key\n"


def fetchers():
    """The init container of each Deployment, by the end of its name."""
    deployments = [document for document in RENDERED if document["kind"] == "Deployment"]
    return {
        document["metadata"]["name"].rpartition("-")[2]: document["spec"]["template"]["spec"]["initContainers"][0]
        for document in deployments
    }


def environment(container):
    """The variables of a container that have a value."""
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def fetch(deployment, url, model):
    """Run an init container's command on this machine."""
    container = fetchers()[deployment]
    variables = environment(container) | {"BASE_URL": url, "MODEL": str(model)}
    subprocess.run(container["command"], env={**os.environ, **variables}, check=True, timeout=60)
