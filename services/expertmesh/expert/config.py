"""What an expert server serves, where, and within which bounds. Knows settings and their flags, not what they do."""

from dataclasses import dataclass, field
from pathlib import Path

from expertmesh.errors import ConfigError
from expertmesh.settings import servers
from expertmesh.settings.flags import LIMITS, LOGGING, MODEL, NETWORK, Flag, nested, setting
from expertmesh.settings.tls import ServerTls
from expertmesh.tracing.config import TraceConfig
from expertmesh.wire.limits import MAX_CALL_ROWS

EXPERTS = Flag(MODEL, "EXPERTS", "Experts to host, for example 0,3-5.", kind=str)
METRICS_LISTEN = Flag(
    NETWORK,
    "METRICS_LISTEN",
    "Serve Prometheus metrics over HTTP on host:port, such as 0.0.0.0:9090. Default: not at all.",
)
MAX_QUEUE_ROWS = Flag(LIMITS, "MAX_QUEUE_ROWS", "Rows that may wait; more are answered BUSY.", min=MAX_CALL_ROWS)
CHAOS_DELAY = Flag(
    LOGGING, "CHAOS_DELAY", "For experiments: answer every expert call so many seconds later.", min=0, max=60
)


@dataclass(frozen=True)
class ExpertServerConfig:
    """What to serve and where. The order of the fields is that of their flags in ``--help``.

    ``model`` is the directory of a checkpoint; ``experts`` None hosts all; ``listen`` is host:port, port 0 for a free
    one. ``isa`` is the instruction set of the CPU kernels. ``max_batch_rows`` bounds a launch and a call,
    ``max_queue_rows`` what may wait. ``drain_seconds`` is what calls in flight get after SIGTERM. Plain weights are
    rounded to ``round_to_bits``; every byte is hashed where that ``verifies_weights``. Answers come
    ``chaos_delay_seconds`` late. ``metrics_listen`` is where Prometheus asks over HTTP, None for nowhere;
    ``health_listen`` likewise for health checks. Callers meet ``tls``. Spans of calls that are traced go where
    ``trace`` says.
    """

    model: Path = field(metadata=servers.model)
    listen: str = setting("127.0.0.1:50052", servers.LISTEN)
    experts: tuple[int, ...] | None = setting(None, EXPERTS)
    round_to_bits: int | None = servers.round_to_bits()
    verifies_weights: bool = servers.verify_weights()
    metrics_listen: str | None = setting(None, METRICS_LISTEN)
    health_listen: str | None = servers.health_listen()
    tls: ServerTls = nested(ServerTls)
    backend: str = servers.backend()
    device: str = servers.device()
    isa: str = servers.isa()
    threads: int = servers.threads()
    cuda_graphs: int = servers.cuda_graphs()
    max_batch_rows: int = MAX_CALL_ROWS
    max_queue_rows: int = setting(16384, MAX_QUEUE_ROWS)
    drain_seconds: float = servers.drain_seconds()
    log_level: str = servers.log_level()
    chaos_delay_seconds: float = setting(0.0, CHAOS_DELAY)
    # Calls follow their caller.
    trace: TraceConfig = nested(TraceConfig, sample_ratio=0.0)

    def __post_init__(self) -> None:
        if min(self.max_batch_rows, self.max_queue_rows) < 1:
            raise ConfigError(
                f"max_batch_rows {self.max_batch_rows} and max_queue_rows {self.max_queue_rows} must be at least 1"
            )
        if self.drain_seconds < 0:
            raise ConfigError(f"drain_seconds is {self.drain_seconds}; 0 or more would be right")
