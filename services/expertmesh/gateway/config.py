"""What a gateway serves, where, and within which bounds. Knows settings and their flags, not what they do."""

from dataclasses import dataclass, field
from pathlib import Path

from expertmesh.discovery.endpoints import Discovery
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.gateway.metrics.config import MetricsConfig
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.rpc.forwarded import Proxies
from expertmesh.settings import servers
from expertmesh.settings.flags import ACCESS, COMPUTE, LIMITS, MODEL, NETWORK, SPEED, Flag, flagged, nested, setting
from expertmesh.settings.tls import ExpertsTls, ServerTls
from expertmesh.tracing.config import TraceConfig

EXPERTS = Flag(
    NETWORK,
    "EXPERT_ENDPOINTS",
    "Expert servers: host:port,host:port,..., or dns://NAME:PORT,... for every address of these names, or "
    "kubernetes://NAMESPACE/?selector=KEY=VALUE,...&port=NAME for the pods of the Services that have these "
    "labels (default NAMESPACE: this pod's; port: grpc). Each server says itself which experts it hosts.",
    name="experts",
    kind=str,
    default="",
)
CHAT_TEMPLATE = Flag(
    MODEL,
    "CHAT_TEMPLATE",
    "File with a chat template in Jinja. Default: that of the checkpoint, or [INST] as its tokenizer has it.",
)
SERVED_MODEL_NAME = Flag(
    MODEL,
    "SERVED_MODEL_NAME",
    "Name of the model in requests and replies; may be repeated (in the environment: separated by spaces), replies "
    "carry the first. Default: ORG/NAME of the Hugging Face Hub if the checkpoint says so, else its directory's name.",
)
LOCAL_EXPERTS = Flag(NETWORK, "LOCAL_EXPERTS", "Run all experts in this process instead.", kind=bool, default=False)
HTTP_LISTEN = Flag(NETWORK, "HTTP_LISTEN", "Serve HTTP on host:port; port 0 = any free one, empty = no HTTP.")
API_KEY = Flag(
    ACCESS,
    "API_KEY",
    "Key that callers must present; may be repeated (in the environment: separated by spaces). Default: no key.",
)
API_KEY_FILE = Flag(
    ACCESS,
    "API_KEY_FILE",
    "File with further keys, which `expertmesh add-key` writes: one a line, best as hashes, with names, scopes and "
    "times to expire. Changes are taken while serving.",
)
FORWARDED_ALLOW_IPS = Flag(
    ACCESS,
    "FORWARDED_ALLOW_IPS",
    "Addresses and networks of proxies, such as 127.0.0.1,10.0.0.0/8, whose X-Forwarded-For and -Proto are believed; "
    "* = everybody's. Default: nobody's.",
    kind=str,
    default="",
)
CORS_ORIGIN = Flag(
    ACCESS,
    "CORS_ORIGIN",
    "Origin whose pages may call over HTTP, such as https://example.org, or *; may be repeated. Default: none.",
)
MAX_BODY = Flag(
    LIMITS, "MAX_BODY_MIB", "Largest request, MiB: body over HTTP, message over gRPC.", min=0, max=2**20, unit=2**20
)
MAX_RESPONSE = Flag(
    LIMITS,
    "MAX_RESPONSE_MIB",
    "Largest response, MiB: requests whose answers, with log-probabilities and all, could become larger are refused.",
    min=0,
    max=2**20,
    unit=2**20,
)
KEEP_ALIVE = Flag(
    NETWORK,
    "KEEP_ALIVE_SECONDS",
    "Close a connection that idles for so long. Proxies before the gateway should keep theirs less long.",
    min=0,
    max=86_400,
)
MAX_CONNECTIONS = Flag(
    LIMITS,
    "MAX_CONNECTIONS",
    "Connections of an API process, over HTTP and over gRPC each. More requests at once are refused; connections "
    "that wait for a request make place for new ones. /health, /ready and /metrics are always answered.",
    min=1,
)
DTYPE = Flag(
    COMPUTE,
    "DTYPE",
    "Activations: auto, float32, bfloat16 or float16. auto = bfloat16 where the kernels are fast at it.",
)
MAX_MODEL_LEN = Flag(
    LIMITS,
    "MAX_MODEL_LEN",
    "Longest sequence, prompt and output together. Default: what the model and --kv-cache-gib allow.",
    min=2,
)
KV_CACHE = Flag(
    LIMITS,
    "KV_CACHE_GIB",
    "Memory of the KV cache, GiB. Default: half of what is free after loading, nine tenths on a GPU.",
    min=0,
    # Keeps inf out, which is no number of bytes.
    max=2**20,
    unit=2**30,
)
NO_PREFIX_CACHE = Flag(
    SPEED,
    "NO_PREFIX_CACHE",
    "Compute every prompt anew, also one that begins like an earlier one.",
    negates=True,
)
SHARED_PREFIX_CACHE = Flag(
    SPEED,
    "SHARED_PREFIX_CACHE",
    "Share the prefix cache between API keys: prompts that begin alike are computed once, and how soon an answer comes "
    "tells one key what others have asked. Default: a cache for each key.",
)
MICRO_BATCHES = Flag(
    SPEED,
    "MICRO_BATCHES",
    "Parts of a step that run interleaved: while one awaits its experts, another attends.",
    min=1,
    max=8,
)
API_PROCESSES = Flag(
    SPEED, "API_PROCESSES", "Processes that serve clients, on the same ports; the engine is one more.", min=1
)

# Whose spans they are, in whichever process of a gateway.
TRACED_AS = "expertmesh-gateway"


@dataclass(frozen=True)
class GatewayConfig:
    """What to serve, where, and within which bounds. The order of the fields is that of their flags in ``--help``.

    Plain weights are rounded to ``round_to_bits``; every byte of what it holds is hashed where that
    ``verifies_weights``. ``chat_template`` None takes that of the checkpoint, and so without
    ``served_model_names`` do its names. ``discovery``
    says where expert servers are, None runs all experts in the engine. ``isa`` is the instruction set of the CPU
    kernels, ``dtype`` the type of activations. ``max_model_len`` None serves the longest sequence that the model and
    the KV cache allow; ``kv_cache_bytes`` None takes a share of the memory that is free after loading. One key finds
    nothing in the prefix cache that others left there unless it ``shares_prefixes``.
    ``num_api_processes`` serve clients, on the same ports. ``http_listen`` None serves gRPC only. With ``api_keys`` a
    caller must present one of them, or of those in ``api_key_file``. ``proxies`` say who is behind them. ``tls`` is
    what clients meet at both addresses, ``experts_tls`` how expert servers are called; ``health_listen`` answers health
    checks without either. Spans go where ``trace`` says.
    """

    model: Path = field(metadata=servers.model)
    discovery: Discovery | None = setting(None, EXPERTS, LOCAL_EXPERTS)
    round_to_bits: int | None = servers.round_to_bits()
    verifies_weights: bool = servers.verify_weights()
    chat_template: Path | None = setting(None, CHAT_TEMPLATE)
    served_model_names: tuple[str, ...] = setting((), SERVED_MODEL_NAME)
    listen: str = setting("127.0.0.1:50051", servers.LISTEN)
    http_listen: str | None = setting("127.0.0.1:8000", HTTP_LISTEN)
    health_listen: str | None = servers.health_listen()
    api_keys: tuple[str, ...] = field(default=(), repr=False, metadata=flagged(API_KEY))
    api_key_file: Path | None = setting(None, API_KEY_FILE)
    proxies: Proxies = setting(Proxies(), FORWARDED_ALLOW_IPS)
    cors_origins: tuple[str, ...] = setting((), CORS_ORIGIN)
    tls: ServerTls = nested(ServerTls, allow_identity=())
    experts_tls: ExpertsTls = nested(ExpertsTls)
    max_body_bytes: int = setting(4 * 2**20, MAX_BODY)
    max_response_bytes: int = setting(64 * 2**20, MAX_RESPONSE)
    keep_alive_seconds: float = setting(75.0, KEEP_ALIVE)
    max_connections: int = setting(1000, MAX_CONNECTIONS)
    backend: str = servers.backend()
    device: str = servers.device()
    isa: str = servers.isa()
    dtype: str = setting("auto", DTYPE)
    threads: int = servers.threads()
    max_model_len: int | None = setting(None, MAX_MODEL_LEN)
    kv_cache_bytes: int | None = setting(None, KV_CACHE)
    reuses_prefixes: bool = setting(True, NO_PREFIX_CACHE)
    shares_prefixes: bool = setting(False, SHARED_PREFIX_CACHE)
    num_micro_batches: int = setting(1, MICRO_BATCHES)
    cuda_graphs: int = servers.cuda_graphs()
    num_api_processes: int = setting(1, API_PROCESSES)
    scheduler: SchedulerConfig = nested(SchedulerConfig)
    dispatch: DispatchConfig = nested(DispatchConfig)
    drain_seconds: float = servers.drain_seconds()
    log_level: str = servers.log_level()
    metrics: MetricsConfig = nested(MetricsConfig)
    trace: TraceConfig = nested(TraceConfig)
