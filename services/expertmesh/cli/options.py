"""Flags of the commands: one name, one environment variable, one text each."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expertmesh.errors import ConfigError

DEFAULT_GATEWAY = "127.0.0.1:50051"
DEFAULT_HTTP = "127.0.0.1:8000"
# A token of a large model has hundreds of spans.
DEFAULT_TRACE_SAMPLE = 0.01

MODEL = "Model"
NETWORK = "Network"
ACCESS = "Access"
COMPUTE = "Compute"
LIMITS = "Limits"
SPEED = "Speed"
SAMPLING = "Sampling"
LOGGING = "Logging"


def flag(panel: str, env: str, text: str, *names: str, **more: Any) -> Any:
    """Describe a flag: its group in ``--help``, its environment variable without EXPERTMESH_, and what it does."""
    return typer.Option(*names, envvar=f"EXPERTMESH_{env}", help=text, rich_help_panel=panel, **more)


Model = Annotated[Path, flag(MODEL, "MODEL", "Directory of the checkpoint.", "--model", show_default=False)]

Quantize = Annotated[
    str,
    flag(
        MODEL,
        "QUANTIZE",
        "Round plain weights while loading: none, int8 or int4 (groups of 128). Gateway and expert servers must agree.",
    ),
]
QUANTIZE_BITS = {"none": None, "int8": 8, "int4": 4}


def quantize_bits(name: str) -> int | None:
    """Return the bits that --quantize asks for; ConfigError for another word."""
    if name not in QUANTIZE_BITS:
        raise ConfigError(f"--quantize is {name!r}; one of {', '.join(QUANTIZE_BITS)} would be right")
    return QUANTIZE_BITS[name]


Listen = Annotated[str, flag(NETWORK, "LISTEN", "Serve gRPC on host:port; port 0 = any free one.")]
HttpListen = Annotated[
    str, flag(NETWORK, "HTTP_LISTEN", "Serve HTTP on host:port; port 0 = any free one, empty = no HTTP.")
]
MetricsListen = Annotated[
    str | None,
    flag(
        NETWORK,
        "METRICS_LISTEN",
        "Serve Prometheus metrics over HTTP on host:port, such as 0.0.0.0:9090. Default: not at all.",
        show_default=False,
    ),
]
MetricsByLayer = Annotated[
    bool,
    flag(
        LOGGING,
        "METRICS_BY_LAYER",
        "Export the rows of every expert layer by layer too: 256 more series for Mixtral.",
        "--metrics-by-layer",
    ),
]
VllmMetrics = Annotated[
    bool,
    flag(
        LOGGING,
        "VLLM_METRICS",
        "Export the engine's metrics under vLLM's names too, for dashboards that are there already.",
        "--vllm-metrics",
    ),
]
Endpoint = Annotated[str, flag(NETWORK, "ENDPOINT", "Gateway to ask, host:port.", "--endpoint")]

ApiKey = Annotated[
    list[str] | None,
    flag(
        ACCESS,
        "API_KEY",
        "Key that callers must present; may be repeated (in the environment: separated by spaces). Default: no key.",
        "--api-key",
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    flag(ACCESS, "API_KEY_FILE", "File with further keys, one a line; # begins a comment.", show_default=False),
]
CorsOrigin = Annotated[
    list[str] | None,
    flag(
        ACCESS,
        "CORS_ORIGIN",
        "Origin whose pages may call over HTTP, such as https://example.org, or *; may be repeated. Default: none.",
        "--cors-origin",
        show_default=False,
    ),
]
MaxBodyMiB = Annotated[float, flag(LIMITS, "MAX_BODY_MIB", "Largest body of an HTTP request, MiB.", min=0, max=2**20)]

Backend = Annotated[
    str,
    flag(
        COMPUTE,
        "BACKEND",
        "Kernels: auto, cpu, cpu-a8, triton or reference. cpu-a8 rounds activations to 8 bits: faster, less exact.",
    ),
]
Device = Annotated[str, flag(COMPUTE, "DEVICE", "Device of the kernels.")]
Isa = Annotated[
    str,
    flag(
        COMPUTE,
        "ISA",
        "Instruction set of the CPU kernels: auto, avx2, avx512, avx512-bf16 or amx. auto = the best one here. "
        "Two of them may differ in a result's last bits.",
    ),
]
DType = Annotated[
    str,
    flag(
        COMPUTE,
        "DTYPE",
        "Activations: auto, float32, bfloat16 or float16. auto = bfloat16 where the kernels are fast at it.",
    ),
]
Threads = Annotated[int, flag(COMPUTE, "THREADS", "CPU threads of the kernels; 0 = one per core.", min=0)]

MaxModelLen = Annotated[
    int | None,
    flag(
        LIMITS,
        "MAX_MODEL_LEN",
        "Longest sequence, prompt and output together. Default: what the model and --kv-cache-gib allow.",
        min=2,
        show_default=False,
    ),
]
KVCacheGiB = Annotated[
    float | None,
    flag(
        LIMITS,
        "KV_CACHE_GIB",
        "Memory of the KV cache, GiB. Default: half of what is free after loading, nine tenths on a GPU.",
        min=0,
        # Keeps inf out, which is no number of bytes.
        max=2**20,
        show_default=False,
    ),
]
MaxNumSeqs = Annotated[int, flag(LIMITS, "MAX_NUM_SEQS", "Sequences computed at once.", min=1)]
MaxNumBatchedTokens = Annotated[
    int,
    flag(LIMITS, "MAX_NUM_BATCHED_TOKENS", "Tokens of one step; longer prompts are computed in chunks.", min=1),
]
MaxNumWaiting = Annotated[
    int,
    flag(LIMITS, "MAX_NUM_WAITING", "Sequences that may wait to be computed; more are refused as too many.", min=1),
]
NoPrefixCache = Annotated[
    bool,
    flag(
        SPEED,
        "NO_PREFIX_CACHE",
        "Compute every prompt anew, also one that begins like an earlier one.",
        "--no-prefix-cache",
    ),
]
MicroBatches = Annotated[
    int,
    flag(
        SPEED,
        "MICRO_BATCHES",
        "Parts of a step that run interleaved: while one awaits its experts, another attends.",
        min=1,
        max=8,
    ),
]
ApiProcesses = Annotated[
    int,
    flag(SPEED, "API_PROCESSES", "Processes that serve clients, on the same ports; the engine is one more.", min=1),
]
Speculate = Annotated[
    int,
    flag(SPEED, "SPECULATE", "Tokens to guess per step from what the text holds already; 0 = none.", min=0, max=64),
]
ChaosDelay = Annotated[
    float,
    flag(LOGGING, "CHAOS_DELAY", "For experiments: answer every expert call so many seconds later.", min=0, max=60),
]
WaitSeconds = Annotated[
    float,
    flag(LIMITS, "WAIT_SECONDS", "How long a request waits for an expert without a replica; 0 = fail at once.", min=0),
]
DrainSeconds = Annotated[
    float, flag(LIMITS, "DRAIN_SECONDS", "After SIGTERM, let running work finish for at most this long.", min=0)
]

ClientKey = Annotated[
    str | None,
    flag(NETWORK, "API_KEY", "Key to present to the gateway.", "--api-key", show_default=False),
]

MaxTokens = Annotated[
    int | None,
    flag(
        SAMPLING, "MAX_TOKENS", "Tokens to produce at most. Default: what is left of the context.", show_default=False
    ),
]
Temperature = Annotated[
    float | None,
    flag(
        SAMPLING,
        "TEMPERATURE",
        "0 = always the most probable token. Default: the model's, else 0.",
        show_default=False,
    ),
]
TopK = Annotated[
    int | None,
    flag(
        SAMPLING, "TOP_K", "Keep the k most probable tokens; 0 = all. Default: the model's, else 0.", show_default=False
    ),
]
TopP = Annotated[
    float | None,
    flag(
        SAMPLING,
        "TOP_P",
        "Keep the most probable tokens that add up to p. Default: the model's, else 1.",
        show_default=False,
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    flag(
        SAMPLING,
        "REPETITION_PENALTY",
        "Above 1: avoid tokens already seen. Default: the model's, else 1.",
        show_default=False,
    ),
]
MinP = Annotated[
    float | None,
    flag(
        SAMPLING,
        "MIN_P",
        "Keep tokens at least p times as probable as the most probable one. Default: 0.",
        show_default=False,
    ),
]
Stop = Annotated[
    list[str] | None,
    flag(
        SAMPLING,
        "STOP",
        "Text that ends the answer and is not part of it; may be repeated.",
        "--stop",
        show_default=False,
    ),
]
JsonSchema = Annotated[
    Path | None,
    flag(
        SAMPLING,
        "JSON_SCHEMA",
        "File with a JSON schema that the answer must be valid under.",
        show_default=False,
        exists=True,
        dir_okay=False,
    ),
]
Seed = Annotated[int | None, flag(SAMPLING, "SEED", "Makes sampling repeatable. Default: random.", show_default=False)]

TraceEndpoint = Annotated[
    str,
    flag(
        LOGGING,
        "TRACE_ENDPOINT",
        "Send traces to this OTLP collector: http://HOST:4318 or grpc://HOST:4317 (https://, grpcs://). Default: none.",
        show_default=False,
    ),
]
TraceSample = Annotated[
    float,
    flag(
        LOGGING,
        "TRACE_SAMPLE",
        "Share of requests to trace, 0 to 1; a request that comes with a traceparent follows its caller instead.",
        min=0,
        max=1,
    ),
]

LogLevel = Annotated[str, flag(LOGGING, "LOG_LEVEL", "debug, info, warning or error.")]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True, help="End when the parent process ends.")]
