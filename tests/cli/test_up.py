"""What ``up`` passes on to the processes that it starts, read by their own commands."""

from pathlib import Path

import pytest
import typer

from expertmesh.cli.main import app
from expertmesh.cli.up import EXPERT_FLAGS, FLAGS, GATEWAY_FLAGS, child_program
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


def as_given(value):
    """Undo what the command line makes of a value."""
    if isinstance(value, tuple | list):
        return list(value) or None
    return str(value) if isinstance(value, Path) else value
