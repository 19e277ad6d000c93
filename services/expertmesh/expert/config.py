"""What an expert server serves, where, and within which bounds. Knows settings, not what they do."""

from dataclasses import dataclass, field
from pathlib import Path

from expertmesh.errors import ConfigError
from expertmesh.tracing.config import TraceConfig


@dataclass(frozen=True)
class ExpertServerConfig:
    """What to serve and where.

    ``model`` is the directory of a checkpoint; ``experts`` None hosts all; ``listen`` is host:port, port 0 for a free
    one. ``isa`` is the instruction set of the CPU kernels. ``max_batch_rows`` bounds a launch and a call,
    ``max_queue_rows`` what may wait; calls of a lone gateway that should take at most ``max_inline_seconds`` run in the
    event loop. ``drain_seconds`` is what calls in flight get after SIGTERM. Plain weights are rounded to
    ``round_to_bits``. Answers come ``chaos_delay_seconds`` late. ``metrics_listen`` is where Prometheus asks over HTTP,
    None for nowhere. Spans of calls that are traced go where ``trace`` says.
    """

    model: Path
    listen: str = "0.0.0.0:50051"
    experts: tuple[int, ...] | None = None
    backend: str = "auto"
    device: str = "cpu"
    isa: str = "auto"
    max_batch_rows: int = 2048
    max_inline_seconds: float = 0.01
    max_queue_rows: int = 16384
    drain_seconds: float = 25.0
    round_to_bits: int | None = None
    chaos_delay_seconds: float = 0.0
    metrics_listen: str | None = None
    trace: TraceConfig = field(default_factory=TraceConfig)

    def __post_init__(self) -> None:
        if min(self.max_batch_rows, self.max_queue_rows) < 1:
            raise ConfigError(
                f"max_batch_rows {self.max_batch_rows} and max_queue_rows {self.max_queue_rows} must be at least 1"
            )
        if self.drain_seconds < 0:
            raise ConfigError(f"drain_seconds is {self.drain_seconds}; 0 or more would be right")
