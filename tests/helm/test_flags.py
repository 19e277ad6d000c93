"""Every flag of the servers can be set by a value of the chart, or the chart sets it itself."""

import pytest
import typer
from chart import GOLDEN, objects

from expertmesh.cli.main import app

# Variables that no value sets, and why.
LEFT_OUT = {
    "EXPERTMESH_API_KEY": "keys come as a file from a Secret",
    "EXPERTMESH_LOCAL_EXPERTS": "experts are pods of their own",
    "EXPERTMESH_CHAOS_DELAY": "for experiments",
    None: "hidden: for processes of one machine",
}
RENDERED = objects((GOLDEN / "full.yaml").read_text())
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize(
    ("command", "deployment"), [("gateway", "mesh-expertmesh-gateway"), ("expert", "mesh-expertmesh-e0")]
)
def test_the_chart_sets_every_variable_of_a_server_and_no_other(command, deployment):
    flags = {parameter.envvar for parameter in COMMANDS[command].params if parameter.name != "help"} - set(LEFT_OUT)
    assert {name for name in variables(deployment) if name.startswith("EXPERTMESH_")} == flags


def variables(deployment):
    """Names of the variables of a Deployment's container."""
    found = {document["metadata"]["name"]: document for document in RENDERED if document["kind"] == "Deployment"}
    [container] = found[deployment]["spec"]["template"]["spec"]["containers"]
    return [variable["name"] for variable in container["env"]]
