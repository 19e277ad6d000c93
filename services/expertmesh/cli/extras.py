"""Commands whose packages an extra brings, and what they say where it is not installed."""

import sys
from importlib.util import find_spec
from typing import Any

from typer.core import TyperCommand

from expertmesh.errors import ExpertmeshError

# These have an extra of their name. The other commands run parts of both, or start both.
SERVERS = ("gateway", "expert")


class Command(TyperCommand):
    """A command that says in a line which package it lacks."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; ExpertmeshError where a package of others is not installed."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (package := lacking(error)) is None:
                raise
            extra = self.name if self.name in SERVERS else "all"
            raise ExpertmeshError(
                f"expertmesh {self.name} needs {package}, which is not installed; "
                f"pip install 'expertmesh[{extra}]' would be right"
            ) from None


def lacking(error: ModuleNotFoundError) -> str | None:
    """Name the package of others that is not installed.

    None where a module of ours is missing, of Python's, or of a package that is there: then something is broken.
    """
    package = (error.name or "").partition(".")[0]
    is_of_others = package not in ("", "expertmesh", *sys.stdlib_module_names)
    return package if is_of_others and find_spec(package) is None else None
