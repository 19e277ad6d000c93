"""Settings that every kind of server has: fields to be written into its configuration."""

from functools import partial

from expertmesh.settings.flags import COMPUTE, LIMITS, LOGGING, MODEL, NETWORK, SPEED, Flag, flagged, setting

model = flagged(Flag(MODEL, "MODEL", "Directory of the checkpoint, or its GGUF file."))
round_to_bits = partial(
    setting,
    None,
    Flag(
        MODEL,
        "QUANTIZE",
        "Round plain weights while loading: none, int8 or int4 (groups of 128). Gateway and expert servers must agree.",
        words={"none": None, "int8": 8, "int4": 4},
    ),
)
health_listen = partial(
    setting,
    None,
    Flag(
        NETWORK,
        "HEALTH_LISTEN",
        "Answer health checks of gRPC, and nothing else, on this host:port too, without TLS: for probes that have no "
        "certificate. Default: not at all.",
    ),
)
verify_weights = partial(
    setting,
    False,
    Flag(
        MODEL,
        "VERIFY_WEIGHTS",
        "Hash every byte of the weights that this server holds, not samples, before it serves: compared with what "
        "`expertmesh split` wrote down, and with replicas of the same experts that do so too.",
    ),
)
LISTEN = Flag(NETWORK, "LISTEN", "Serve gRPC on host:port; port 0 = any free one.")
backend = partial(
    setting,
    "auto",
    Flag(
        COMPUTE,
        "BACKEND",
        "Kernels: auto, cpu, cpu-a8, triton, triton-blas or reference. auto = the best on the device. cpu-a8 rounds "
        "activations to 8 bits: faster, less exact. triton-blas leaves very many rows to the vendor's library: faster, "
        "last bits depend on the batch.",
    ),
)
device = partial(
    setting,
    "auto",
    Flag(COMPUTE, "DEVICE", "Where kernels run: auto (a GPU where there is one), cpu, cuda or cuda:N."),
)
isa = partial(
    setting,
    "auto",
    Flag(
        COMPUTE,
        "ISA",
        "Instruction set of the CPU kernels: auto, avx2, avx512, avx512-bf16 or amx. auto = the best one here. "
        "Two of them may differ in a result's last bits.",
    ),
)
threads = partial(setting, 0, Flag(COMPUTE, "THREADS", "CPU threads of the kernels; 0 = one per core.", min=0))
cuda_graphs = partial(
    setting,
    256,
    Flag(
        SPEED,
        "CUDA_GRAPHS",
        "Most rows of a decode step, or of a call to experts, to record at start and replay as CUDA graphs; more rows "
        "are launched operation by operation. 0 = record none. Nothing is recorded without a GPU.",
        min=0,
        max=512,
    ),
)
drain_seconds = partial(
    setting,
    30.0,
    Flag(LIMITS, "DRAIN_SECONDS", "After SIGTERM, let running work finish for at most this long.", min=0),
)
log_level = partial(setting, "info", Flag(LOGGING, "LOG_LEVEL", "debug, info, warning or error."))
