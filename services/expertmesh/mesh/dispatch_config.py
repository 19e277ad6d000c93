"""How replicas are called and within which bounds. Knows settings, not who keeps to them."""

from dataclasses import dataclass

from expertmesh.model.no_replica import WORDS, NoReplica
from expertmesh.settings.flags import LIMITS, NETWORK, Flag, setting
from expertmesh.wire.limits import MAX_CALL_ROWS

_WAIT = Flag(
    LIMITS,
    "WAIT_SECONDS",
    "How long a request waits for an expert without a replica; 0 = fail at once.",
    min=0,
)
_NO_REPLICA = Flag(
    LIMITS,
    "NO_REPLICA",
    "What becomes of a request that does not say, when an expert has no replica: wait (see --wait-seconds), fail at "
    "once, or drop: compute without that expert.",
    words=WORDS,
)
_CALL_TIMEOUT = Flag(
    LIMITS,
    "CALL_TIMEOUT_SECONDS",
    "How long one call to an expert server may take. Where another one could answer, a call is given up sooner: after "
    "20 times what such calls take, at least 0.5 s.",
    min=0.1,
)

TRANSPORTS = ("auto", "grpc", "direct")
_TRANSPORT = Flag(
    NETWORK,
    "TRANSPORT",
    "How to reach expert servers: auto, grpc or direct. direct = a Unix socket on one host and TCP elsewhere; "
    "auto = the Unix socket where there is one, else gRPC.",
    words={transport: transport for transport in TRANSPORTS},
)

_MIXED_NUMERICS = Flag(
    NETWORK,
    "ALLOW_MIXED_NUMERICS",
    "Take replicas of an expert whose kernels compute other bits, such as cpu-a8 beside cpu: the same request may then "
    "give another text.",
)


@dataclass(frozen=True)
class DispatchConfig:
    """How replicas are reached, how long an answer may take and how many rows are sent at once.

    ``transport`` is one of ``TRANSPORTS``, see ``open_link``. Replicas of an expert compute the same bits, unless one
    ``mixes_numerics``. ``no_replica`` is what requests want that do not say.
    ``call_timeout_seconds`` bounds one call to one replica; ``wait_seconds`` bounds a layer step over all attempts,
    waiting for a replica to come back included (0 = fail at the first failure). The rows of a step are cut into pieces
    of ``max_piece_rows``: servers compute one while another is gathered or added up. With two of eight experts a row,
    each expert still gets 256 of them, below which a GPU reads weights for longer than it multiplies. No call has more
    than ``max_call_rows``.
    """

    transport: str = setting("auto", _TRANSPORT)
    mixes_numerics: bool = setting(False, _MIXED_NUMERICS)
    call_timeout_seconds: float = setting(30.0, _CALL_TIMEOUT)
    wait_seconds: float = setting(120.0, _WAIT)
    no_replica: NoReplica = setting(NoReplica.WAIT, _NO_REPLICA)
    max_piece_rows: int = 1024
    max_call_rows: int = MAX_CALL_ROWS
