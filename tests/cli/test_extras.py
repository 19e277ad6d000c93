"""A command that lacks a package says so; errors of our own imports stay what they are."""

import pytest
import typer

from expertmesh.cli.extras import Command
from expertmesh.errors import ExpertmeshError


def run(name: str, code: str) -> None:
    """Run a command that does nothing but ``code``."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command(name, cls=Command)(lambda: exec(code, {}))
    app([name])


@pytest.mark.parametrize(("name", "extra"), [("gateway", "gateway"), ("expert", "expert"), ("up", "all")])
def test_a_package_that_is_not_installed_is_named_with_the_extra_that_brings_it(name: str, extra: str):
    with pytest.raises(ExpertmeshError) as caught:
        run(name, "import not_there.part")
    assert str(caught.value) == (
        f"expertmesh {name} needs not_there, which is not installed; pip install 'expertmesh[{extra}]' would be right"
    )


@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("import expertmesh.no_such_module", "expertmesh.no_such_module"),
        ("import pytest.no_such_module", "pytest.no_such_module"),
        ("raise ModuleNotFoundError('nothing is named')", None),
        # A Python that was built without it.
        ("raise ModuleNotFoundError('no readline', name='readline')", "readline"),
    ],
)
def test_a_module_missing_from_a_package_that_is_there_is_an_error_of_the_code(code: str, module: str | None):
    with pytest.raises(ModuleNotFoundError) as caught:
        run("up", code)
    assert caught.value.name == module


def test_a_name_missing_from_a_module_is_an_error_of_the_code():
    with pytest.raises(ImportError, match="no_such_name"):
        run("up", "from json import no_such_name")
