"""``expertmesh expert``: flags of an expert server process."""

from typing import Annotated

import typer

from expertmesh.cli import options
from expertmesh.cli.logs import configure_logging
from expertmesh.cli.parent import end_with_parent
from expertmesh.cli.progress import progress_bar
from expertmesh.cli.ranges import parse_ranges


def expert(
    model: options.Model,
    experts: Annotated[
        str,
        options.flag(options.MODEL, "EXPERTS", "Experts to host, for example 0,3-5.", show_default=False),
    ],
    quantize: options.Quantize = "none",
    listen: options.Listen = "127.0.0.1:50052",
    metrics_listen: options.MetricsListen = None,
    backend: options.Backend = "auto",
    device: options.Device = "cpu",
    isa: options.Isa = "auto",
    threads: options.Threads = 0,
    max_queue_rows: Annotated[
        int,
        options.flag(options.LIMITS, "MAX_QUEUE_ROWS", "Rows that may wait; more are answered BUSY.", min=1),
    ] = 16384,
    drain_seconds: options.DrainSeconds = 30.0,
    log_level: options.LogLevel = "info",
    chaos_delay: options.ChaosDelay = 0.0,
    trace_endpoint: options.TraceEndpoint = "",
    with_parent: options.WithParent = False,
) -> None:
    """Serve some experts of a checkpoint; only their tensors are read."""
    configure_logging(log_level)
    if with_parent:
        end_with_parent()
    hosted = parse_ranges(experts)

    from expertmesh.cli.runtime import run_process
    from expertmesh.expert.config import ExpertServerConfig
    from expertmesh.expert.process import serve
    from expertmesh.tracing.config import TraceConfig

    config = ExpertServerConfig(
        model=model,
        round_to_bits=options.quantize_bits(quantize),
        experts=hosted,
        listen=listen,
        metrics_listen=metrics_listen,
        backend=backend,
        device=device,
        isa=isa,
        max_queue_rows=max_queue_rows,
        drain_seconds=drain_seconds,
        chaos_delay_seconds=chaos_delay,
        trace=TraceConfig(trace_endpoint),
    )
    with progress_bar(f"loading experts {experts}") as report:
        run_process(
            serve(config, report, lambda address: typer.echo(f"ready: experts {experts} on {address}")), threads
        )
