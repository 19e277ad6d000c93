"""``expertmesh gateway``: flags of a gateway process."""

from collections.abc import Sequence
from typing import Annotated

import typer

from expertmesh.cli import options
from expertmesh.cli.keys import read_keys
from expertmesh.cli.logs import configure_logging
from expertmesh.cli.parent import end_with_parent
from expertmesh.cli.progress import progress_bar
from expertmesh.errors import ConfigError


def gateway(
    model: options.Model,
    experts: Annotated[
        str,
        options.flag(
            options.NETWORK,
            "EXPERT_ENDPOINTS",
            "Expert servers: host:port,host:port,..., or dns://NAME:PORT,... for every address of these names, or "
            "kubernetes://NAMESPACE/?selector=KEY=VALUE,...&port=NAME for the pods of the Services that have these "
            "labels (default NAMESPACE: this pod's; port: grpc). Each server says itself which experts it hosts.",
            show_default=False,
        ),
    ] = "",
    local_experts: Annotated[
        bool,
        options.flag(options.NETWORK, "LOCAL_EXPERTS", "Run all experts in this process instead.", "--local-experts"),
    ] = False,
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
    threads: options.Threads = 0,
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
    log_level: options.LogLevel = "info",
    metrics_by_layer: options.MetricsByLayer = False,
    vllm_metrics: options.VllmMetrics = False,
    trace_endpoint: options.TraceEndpoint = "",
    trace_sample: options.TraceSample = options.DEFAULT_TRACE_SAMPLE,
    with_parent: options.WithParent = False,
) -> None:
    """Serve the public API: text, attention, KV cache, gate and sampling; experts are asked over gRPC."""
    configure_logging(log_level)
    if with_parent:
        end_with_parent()
    if local_experts == bool(experts):
        raise ConfigError("give either --experts, which says where expert servers are, or --local-experts")

    from expertmesh.cli import gateway_processes
    from expertmesh.cli.runtime import run_process
    from expertmesh.discovery.sources import parse_experts
    from expertmesh.engine.scheduler import SchedulerConfig
    from expertmesh.gateway.config import GatewayConfig
    from expertmesh.gateway.metrics.config import MetricsConfig
    from expertmesh.gateway.process import serve
    from expertmesh.mesh.dispatch_config import DispatchConfig
    from expertmesh.tracing.config import TraceConfig

    config = GatewayConfig(
        model=model,
        round_to_bits=options.quantize_bits(quantize),
        listen=listen,
        http_listen=http_listen or None,
        api_keys=read_keys(api_key or (), api_key_file),
        cors_origins=tuple(cors_origin or ()),
        max_body_bytes=int(max_body_mib * 2**20),
        discovery=None if local_experts else parse_experts(experts),
        backend=backend,
        device=device,
        isa=isa,
        dtype=dtype,
        max_model_len=max_model_len,
        kv_cache_bytes=None if kv_cache_gib is None else int(kv_cache_gib * 2**30),
        reuses_prefixes=not no_prefix_cache,
        num_micro_batches=micro_batches,
        num_api_processes=api_processes,
        scheduler=SchedulerConfig(max_num_batched_tokens, max_num_seqs, max_num_waiting, speculate),
        dispatch=DispatchConfig(wait_seconds=wait_seconds),
        metrics=MetricsConfig(metrics_by_layer, vllm_metrics),
        drain_seconds=drain_seconds,
        trace=TraceConfig(trace_endpoint, trace_sample),
    )
    with progress_bar("loading the gateway") as report:
        run_process(serve(config, gateway_processes.Commands(log_level, threads), report, _print_ready))


def _print_ready(addresses: Sequence[str]) -> None:
    typer.echo(f"ready: gateway on {', '.join(addresses)}")
