"""``expertmesh up``: a whole mesh on this machine, one process per server."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import read_model
from expertmesh.checkpoint.configuration import find_config, read_config
from expertmesh.cli import options
from expertmesh.cli.keys import read_keys
from expertmesh.cli.local_servers import default_servers, default_threads, parse_replicas, place_experts
from expertmesh.cli.logs import configure_logging
from expertmesh.cli.output import MeshOutput
from expertmesh.cli.ranges import format_ranges
from expertmesh.cli.supervisor import ChildFailedError, Program, Supervisor
from expertmesh.errors import ExpertmeshError
from expertmesh.rpc.signals import wait_for_shutdown
from expertmesh.rpc.sockets import free_port
from expertmesh.tracing.config import TraceConfig

MODULE = "expertmesh.cli.main"


def up(
    model: options.Model,
    expert_servers: Annotated[
        int,
        options.flag(
            options.MODEL,
            "EXPERT_SERVERS",
            "Expert processes to spread the experts over; 0 = one for every two cores, at most 4.",
            min=0,
        ),
    ] = 0,
    replicas: Annotated[
        list[str] | None,
        options.flag(
            options.MODEL,
            "REPLICAS",
            "EXPERT=COUNT: so many processes host this expert; may be repeated.",
            show_default=False,
        ),
    ] = None,
    quantize: options.Quantize = "none",
    listen: options.Listen = options.DEFAULT_GATEWAY,
    http_listen: options.HttpListen = options.DEFAULT_HTTP,
    api_key: options.ApiKey = None,
    api_key_file: options.ApiKeyFile = None,
    cors_origin: options.CorsOrigin = None,
    max_body_mib: options.MaxBodyMiB = 4.0,
    backend: options.Backend = "auto",
    device: options.Device = "cpu",
    isa: options.Isa = "auto",
    dtype: options.DType = "auto",
    threads: Annotated[
        int,
        options.flag(
            options.COMPUTE,
            "THREADS",
            "CPU threads of each process; 0 = one per core for the gateway, and for expert servers so many that those "
            "busy at a time fill the cores.",
            min=0,
        ),
    ] = 0,
    max_model_len: options.MaxModelLen = None,
    kv_cache_gib: options.KVCacheGiB = None,
    max_num_seqs: options.MaxNumSeqs = 64,
    max_num_batched_tokens: options.MaxNumBatchedTokens = 512,
    max_num_waiting: options.MaxNumWaiting = 256,
    no_prefix_cache: options.NoPrefixCache = False,
    micro_batches: options.MicroBatches = 1,
    api_processes: options.ApiProcesses = 1,
    speculate: options.Speculate = 0,
    wait_seconds: options.WaitSeconds = 120.0,
    drain_seconds: options.DrainSeconds = 30.0,
    log_level: options.LogLevel = "warning",
    trace_endpoint: options.TraceEndpoint = "",
    trace_sample: options.TraceSample = options.DEFAULT_TRACE_SAMPLE,
    chaos_delay: options.ChaosDelay = 0.0,
) -> None:
    """Serve a model on this machine: a gateway and expert servers, each in a process of its own.

    An expert process that dies is started again, and requests wait for it. Ctrl-C stops everything in order.
    """
    configure_logging(log_level)
    # Threads that wait for work by spinning would take the cores from the process whose turn it is.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options.quantize_bits(quantize)
    keys = read_keys(api_key or (), None)
    TraceConfig(trace_endpoint, trace_sample)
    config, num_cores = _read_config(model), os.cpu_count() or 1
    num_servers = expert_servers or default_servers(config.num_experts, num_cores)
    servers = place_experts(config.num_experts, num_servers, parse_replicas(replicas or []))
    endpoints = [f"127.0.0.1:{free_port()}" for _ in servers]
    shared = {
        "model": model,
        "quantize": quantize,
        "backend": backend,
        "device": device,
        "isa": isa,
        "drain-seconds": drain_seconds,
        "log-level": log_level,
        "trace-endpoint": trace_endpoint or None,
    }
    experts = [
        _program(
            f"experts {format_ranges(hosted)}",
            "expert",
            experts=format_ranges(hosted),
            listen=endpoint,
            threads=threads or default_threads(len(servers), config.num_experts_per_token, num_cores),
            chaos_delay=chaos_delay,
            **shared,
        )
        for hosted, endpoint in zip(servers, endpoints, strict=True)
    ]
    serving = {
        "http-listen": http_listen,
        "api-key-file": api_key_file,
        "cors-origin": cors_origin or [],
        "max-body-mib": max_body_mib,
        "dtype": dtype,
        "max-model-len": max_model_len,
        "kv-cache-gib": kv_cache_gib,
        "max-num-seqs": max_num_seqs,
        "max-num-batched-tokens": max_num_batched_tokens,
        "max-num-waiting": max_num_waiting,
        "no-prefix-cache": no_prefix_cache,
        "micro-batches": micro_batches,
        "api-processes": api_processes,
        "speculate": speculate,
        "wait-seconds": wait_seconds,
        "trace-sample": trace_sample,
    }
    gateway = _program(
        "gateway", "gateway", experts=",".join(endpoints), listen=listen, threads=threads, **shared, **serving
    )
    gateway = replace(gateway, environment=_key_environment(keys))
    asyncio.run(_supervise(experts, gateway, drain_seconds))


def _read_config(model: Path) -> ModelConfig:
    """Read the configuration only: the processes check the rest, and they have torch."""
    file = find_config(model)
    return read_model(read_config(file), file)


def _program(name: str, command: str, **flags: object) -> Program:
    arguments = [part for flag, value in flags.items() for part in _argument(flag.replace("_", "-"), value)]
    return Program(name, (sys.executable, "-m", MODULE, command, "--with-parent", *arguments))


def _argument(flag: str, value: object) -> tuple[str, ...]:
    """Write a flag with its value, once for each value of a list; None and False leave it at its default."""
    if isinstance(value, list):
        return tuple(part for one in value for part in _argument(flag, one))
    if value is None or value is False:
        return ()
    return (f"--{flag}",) if value is True else (f"--{flag}", str(value))


def _key_environment(keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Hand keys to a child where no list of processes shows them."""
    return (("EXPERTMESH_API_KEY", " ".join(keys)),) if keys else ()


async def _supervise(experts: list[Program], gateway: Program, drain_seconds: float) -> None:
    with ExitStack() as starting:
        output = MeshOutput(len(experts) + 1, starting)
        output.show("up", f"starting a gateway and {len(experts)} expert servers ...")
        supervisor = Supervisor([experts, [gateway]], output.show)
        running = asyncio.create_task(supervisor.run())
        shutdown = asyncio.create_task(wait_for_shutdown())
        try:
            await asyncio.wait((running, shutdown), return_when=asyncio.FIRST_COMPLETED)
            if shutdown.done():
                output.show("up", "stopping ...")
                await supervisor.stop(drain_seconds + 5)
            await running
        except ChildFailedError as error:
            raise ExpertmeshError(str(error)) from None
        finally:
            shutdown.cancel()
