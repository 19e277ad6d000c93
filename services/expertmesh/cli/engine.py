"""The engine process of a gateway; ``expertmesh gateway`` starts it, with its settings on standard input."""

import pickle
import sys
from dataclasses import dataclass

from expertmesh.cli.logs import configure_logging
from expertmesh.cli.parent import end_with_parent
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.engine_supervisor import EngineCommand


@dataclass(frozen=True)
class EngineSettings:
    """What an engine process needs to know; ``threads`` are the CPU threads of its kernels, 0 = one per core."""

    config: GatewayConfig
    socket: str
    log_level: str
    threads: int


def make_command(settings: EngineSettings) -> EngineCommand:
    """Say how an engine process is started: keys and the like go where no list of processes shows them."""
    return EngineCommand((sys.executable, "-m", __name__), pickle.dumps(settings))


def main() -> None:
    """Read the settings and compute until SIGTERM."""
    end_with_parent()
    settings: EngineSettings = pickle.loads(sys.stdin.buffer.read())
    configure_logging(settings.log_level)

    from expertmesh.cli.runtime import run_process
    from expertmesh.gateway.engine_process import run_engine

    could_serve = run_process(run_engine(settings.config, settings.socket), settings.threads)
    sys.exit(0 if could_serve else 1)


if __name__ == "__main__":
    main()
