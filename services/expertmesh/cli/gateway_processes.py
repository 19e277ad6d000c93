"""The processes of a gateway beside the first; ``expertmesh gateway`` starts them, with settings on standard input."""

import pickle
import sys
from dataclasses import dataclass

from expertmesh.cli.logs import configure_logging
from expertmesh.cli.parent import end_with_parent
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.process_keeper import ProcessCommand


@dataclass(frozen=True)
class Settings:
    """What a process needs to know."""

    is_engine: bool
    config: GatewayConfig
    socket: str


@dataclass(frozen=True)
class Commands:
    """How processes are started. Keys and the like go where no list of processes shows them."""

    module: str = __name__

    def engine(self, config: GatewayConfig, socket: str) -> ProcessCommand:
        """Say how an engine process is started."""
        return self._command(True, config, socket)

    def api(self, config: GatewayConfig, socket: str) -> ProcessCommand:
        """Say how a further process for clients is started."""
        return self._command(False, config, socket)

    def _command(self, is_engine: bool, config: GatewayConfig, socket: str) -> ProcessCommand:
        settings = pickle.dumps(Settings(is_engine, config, socket))
        return ProcessCommand((sys.executable, "-m", self.module), settings)


def main() -> None:
    """Read the settings and run until SIGTERM."""
    end_with_parent()
    settings: Settings = pickle.loads(sys.stdin.buffer.read())
    configure_logging(settings.config.log_level)

    from expertmesh.cli.runtime import run_process

    if not settings.is_engine:
        from expertmesh.gateway.process import serve_beside

        run_process(serve_beside(settings.config, settings.socket))
        return

    from expertmesh.gateway.engine_process import run_engine

    could_serve = run_process(run_engine(settings.config, settings.socket), settings.config.threads)
    sys.exit(0 if could_serve else 1)


if __name__ == "__main__":
    main()
