"""Flags that several commands share: one name, one environment variable, one text."""

from pathlib import Path
from typing import Annotated

import typer

MODEL_PANEL = "Model"
NETWORK_PANEL = "Network"
COMPUTE_PANEL = "Compute"
LIMITS_PANEL = "Limits"
SAMPLING_PANEL = "Sampling"

DEFAULT_GATEWAY = "127.0.0.1:50051"

Model = Annotated[
    Path,
    typer.Option(
        "--model",
        envvar="EXPERTMESH_MODEL",
        help="Directory of the checkpoint.",
        rich_help_panel=MODEL_PANEL,
        show_default=False,
    ),
]
Listen = Annotated[
    str,
    typer.Option(
        envvar="EXPERTMESH_LISTEN",
        help="Serve gRPC on host:port; port 0 = any free one.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True, help="End when the parent process ends.")]
Endpoint = Annotated[
    str,
    typer.Option(
        "--endpoint", envvar="EXPERTMESH_ENDPOINT", help="Gateway to ask, host:port.", rich_help_panel=NETWORK_PANEL
    ),
]
Backend = Annotated[
    str,
    typer.Option(envvar="EXPERTMESH_BACKEND", help="Kernels: auto, cpu or reference.", rich_help_panel=COMPUTE_PANEL),
]
Device = Annotated[
    str, typer.Option(envvar="EXPERTMESH_DEVICE", help="Device of the kernels.", rich_help_panel=COMPUTE_PANEL)
]
DType = Annotated[
    str,
    typer.Option(
        envvar="EXPERTMESH_DTYPE",
        help="Activations: auto, float32, bfloat16 or float16. auto = bfloat16 where the device is fast at it.",
        rich_help_panel=COMPUTE_PANEL,
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        envvar="EXPERTMESH_THREADS",
        min=0,
        help="CPU threads of the kernels; 0 = one per core.",
        rich_help_panel=COMPUTE_PANEL,
    ),
]
LogLevel = Annotated[
    str, typer.Option(envvar="EXPERTMESH_LOG_LEVEL", help="debug, info, warning or error.", rich_help_panel="Logging")
]
DrainSeconds = Annotated[
    float,
    typer.Option(
        envvar="EXPERTMESH_DRAIN_SECONDS",
        min=0,
        help="After SIGTERM, let running work finish for at most this long.",
        rich_help_panel=LIMITS_PANEL,
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        envvar="EXPERTMESH_MAX_MODEL_LEN",
        min=2,
        help="Longest sequence, prompt and output together. Default: what the model and --kv-cache-gib allow.",
        rich_help_panel=LIMITS_PANEL,
        show_default=False,
    ),
]
KVCacheGiB = Annotated[
    float,
    typer.Option(envvar="EXPERTMESH_KV_CACHE_GIB", help="Memory of the KV cache, GiB.", rich_help_panel=LIMITS_PANEL),
]
MaxNumSeqs = Annotated[
    int,
    typer.Option(
        envvar="EXPERTMESH_MAX_NUM_SEQS", min=1, help="Sequences computed at once.", rich_help_panel=LIMITS_PANEL
    ),
]
MaxNumBatchedTokens = Annotated[
    int,
    typer.Option(
        envvar="EXPERTMESH_MAX_NUM_BATCHED_TOKENS",
        min=1,
        help="Tokens of one step; longer prompts are computed in chunks.",
        rich_help_panel=LIMITS_PANEL,
    ),
]
WaitSeconds = Annotated[
    float,
    typer.Option(
        envvar="EXPERTMESH_WAIT_SECONDS",
        min=0,
        help="How long a request waits for an expert without a replica; 0 = fail at once.",
        rich_help_panel=LIMITS_PANEL,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        envvar="EXPERTMESH_MAX_TOKENS",
        help="Tokens to produce at most. Default: what is left of the context.",
        rich_help_panel=SAMPLING_PANEL,
        show_default=False,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        envvar="EXPERTMESH_TEMPERATURE",
        help="0 = always the most probable token. Default: the model's, else 0.",
        rich_help_panel=SAMPLING_PANEL,
        show_default=False,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        envvar="EXPERTMESH_TOP_K",
        help="Keep the k most probable tokens; 0 = all. Default: the model's, else 0.",
        rich_help_panel=SAMPLING_PANEL,
        show_default=False,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        envvar="EXPERTMESH_TOP_P",
        help="Keep the most probable tokens that add up to p. Default: the model's, else 1.",
        rich_help_panel=SAMPLING_PANEL,
        show_default=False,
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        envvar="EXPERTMESH_REPETITION_PENALTY",
        help="Above 1: avoid tokens already seen. Default: the model's, else 1.",
        rich_help_panel=SAMPLING_PANEL,
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        envvar="EXPERTMESH_SEED",
        help="Makes sampling repeatable. Default: random.",
        rich_help_panel=SAMPLING_PANEL,
        show_default=False,
    ),
]
