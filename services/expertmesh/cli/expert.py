"""``expertmesh expert``: an expert server process."""

from functools import partial
from typing import Any

from expertmesh.cli import options
from expertmesh.cli.line_writer import open_output
from expertmesh.cli.logs import configure_logging
from expertmesh.cli.parent import end_with_parent
from expertmesh.cli.progress import progress_bar
from expertmesh.cli.ranges import parse_ranges
from expertmesh.cli.readiness import TellReady, claim_ready_pipe
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.settings.flags import fill, flags_of


@options.takes(flags_of(ExpertServerConfig))
def expert(*, experts: str, with_parent: options.WithParent = False, **flags: Any) -> None:
    """Serve some experts of a checkpoint; only their tensors are read."""
    configure_logging(flags["log_level"])
    tell_ready = claim_ready_pipe()
    if with_parent:
        end_with_parent()
    config = fill(ExpertServerConfig, flags, experts=parse_ranges(experts))

    from expertmesh.cli.runtime import run_process
    from expertmesh.expert.process import serve

    with progress_bar(f"loading experts {experts}") as report:
        run_process(serve(config, report, partial(_say_ready, tell_ready, experts)), config.threads)


def _say_ready(tell_ready: TellReady, experts: str, address: str) -> None:
    open_output()(f"ready: experts {experts} on {address}")
    tell_ready(address)
