"""What ``up`` passes on to the processes that it starts, read by their own commands."""

import os
from pathlib import Path

import pytest
import typer

from expertmesh.checkpoint.configuration import read_configuration
from expertmesh.cli.main import app
from expertmesh.cli.places import Place
from expertmesh.cli.up import (
    EXPERT_FLAGS,
    FLAGS,
    GATEWAY_FLAGS,
    UpConfig,
    child_program,
    hide_tls,
    plan_gateway,
    plan_servers,
)
from expertmesh.settings.flags import REQUIRED

COMMANDS = typer.main.get_command(app).commands
# A value of each flag that is not its default.
OTHER = {bool: True, int: 3, float: 0.5}


def other_value(flag):
    kinds = [kind for kind in (bool, int, float) if flag.kind in (kind, kind | None)]
    if flag.kind == list[str] | None:
        return ["a", "b c"]
    return OTHER[kinds[0]] if kinds else f"other {flag.name}"


@pytest.mark.parametrize(("command", "flags"), [("gateway", GATEWAY_FLAGS), ("expert", EXPERT_FLAGS)])
@pytest.mark.parametrize("choose", [other_value, lambda flag: "x" if flag.default is REQUIRED else flag.default])
def test_a_child_gets_every_value_that_it_takes(command, flags, choose):
    values = {name: choose(flag) for name, flag in FLAGS.items()}
    program = child_program("name", command, flags, values, experts="0")
    read = COMMANDS[command].make_context(command, list(program.argv[4:])).params
    shared = flags.keys() & FLAGS.keys()
    assert {name: as_given(read[name]) for name in shared} == {name: values[name] for name in shared}
    assert (read["experts"], read["with_parent"]) == ("0", True)


CARDS = [Place(f"cuda:{number}", "NVIDIA L4, 24 GB") for number in range(2)]
SLICES = [Place("cuda:0", "A100 MIG 1g.5gb, 5 GB", (("CUDA_VISIBLE_DEVICES", f"MIG-{name}"),)) for name in "ab"]
NOTHING_SAID = {name: "x" if flag.default is REQUIRED else flag.default for name, flag in FLAGS.items()}


def planned(make_mixtral, places, num_servers=0, **flags):
    """What ``up`` would run: the expert servers, and the gateway."""
    directory = make_mixtral().directory
    model = read_configuration(directory).model
    flags = {**NOTHING_SAID, **flags}
    servers = plan_servers(model, UpConfig(num_servers), flags, places)
    return [server.program for server in servers], plan_gateway(servers, flags, places[0])


def device_of(program):
    return program.argv[program.argv.index("--device") + 1]


def test_every_gpu_gets_a_server_and_the_gateway_is_on_the_first(make_mixtral):
    experts, gateway = planned(make_mixtral, CARDS)
    assert [(program.name, device_of(program)) for program in experts] == [
        ("experts 0-3", "cuda:0"),
        ("experts 4-7", "cuda:1"),
    ]
    assert (device_of(gateway), gateway.environment) == ("cuda:0", ())


def test_the_cache_is_what_the_experts_on_its_gpu_have_left(make_mixtral):
    experts, gateway = planned(make_mixtral, CARDS, num_servers=4)
    assert gateway.after == (experts[0], experts[2])
    assert planned(make_mixtral, CARDS, num_servers=4, kv_cache_gib=8.0)[1].after == ()
    assert planned(make_mixtral, [Place("cpu", "cpu")])[1].after == ()


def test_every_process_sees_its_own_slice(make_mixtral):
    experts, gateway = planned(make_mixtral, SLICES)
    assert [program.environment for program in experts] == [place.environment for place in SLICES]
    assert {device_of(program) for program in (*experts, gateway)} == {"cuda:0"}
    assert (gateway.environment, gateway.after) == (SLICES[0].environment, (experts[0],))


def as_given(value):
    """Undo what the command line makes of a value."""
    if isinstance(value, tuple | list):
        return list(value) or None
    return str(value) if isinstance(value, Path) else value


def test_tls_is_for_clients_and_expert_servers_have_none_whatever_the_environment_says(make_mixtral, monkeypatch):
    tls = {"tls_cert": "a.pem", "tls_key": "b.pem", "tls_client_ca": "c.pem"}
    experts, gateway = planned(make_mixtral, [Place("cpu", "cpu")], 1, **tls, health_listen="127.0.0.1:1")
    for name in ("TLS_CERT", "HEALTH_LISTEN", "ALLOW_IDENTITY", "EXPERTS_CA"):
        monkeypatch.setenv(f"EXPERTMESH_{name}", "from the environment")
    hide_tls(os.environ)
    for command, program, expected in (("expert", experts[0], dict.fromkeys(tls)), ("gateway", gateway, tls)):
        read = COMMANDS[command].make_context(command, list(program.argv[4:])).params
        assert {name: as_given(read[name]) for name in tls} == expected
        assert read["health_listen"] == ("127.0.0.1:1" if command == "gateway" else None)
        assert not read.get("allow_identity") and not read.get("experts_ca")
