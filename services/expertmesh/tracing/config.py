"""Where spans go and how many requests have some. Imports no OpenTelemetry unless there is somewhere to send them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from expertmesh.errors import ConfigError
from expertmesh.settings.flags import LOGGING, Flag, setting
from expertmesh.tracing.tracer import NullTracer, Tracer

SCHEMES = ("http://", "https://", "grpc://", "grpcs://")
_ENDPOINT = Flag(
    LOGGING,
    "TRACE_ENDPOINT",
    "Send traces to this OTLP collector: http://HOST:4318 or grpc://HOST:4317 (https://, grpcs://). Default: none.",
)
_SAMPLE = Flag(
    LOGGING,
    "TRACE_SAMPLE",
    "Share of requests to trace, 0 to 1; a request that comes with a traceparent follows its caller instead.",
    min=0,
    max=1,
)


@dataclass(frozen=True)
class TraceConfig:
    """An OTLP ``endpoint``, empty = no tracing, and the share of requests to trace that come without a decision.

    ``http://`` and ``https://`` speak OTLP over HTTP, ``grpc://`` and ``grpcs://`` over gRPC.
    """

    endpoint: str = setting("", _ENDPOINT)
    # A token of a large model has hundreds of spans.
    sample_ratio: float = setting(0.01, _SAMPLE)

    def __post_init__(self) -> None:
        if self.endpoint and not (self.endpoint.startswith(SCHEMES) and self.endpoint.partition("://")[2].strip("/")):
            raise ConfigError(
                f"the trace endpoint is {self.endpoint!r}; http://HOST:4318 or grpc://HOST:4317 would be right"
            )
        if not 0 <= self.sample_ratio <= 1:
            raise ConfigError(f"the share of traced requests is {self.sample_ratio}; from 0 to 1 would be right")


@contextmanager
def open_tracer(config: TraceConfig, service: str) -> Iterator[Tracer]:
    """Make the tracer of the process ``service``; after the body, send what is left.

    ConfigError when there is an endpoint and OpenTelemetry is not installed.
    """
    if not config.endpoint:
        yield NullTracer()
        return
    try:
        from expertmesh.tracing.export import exporting
    except ImportError as error:
        raise ConfigError(f"tracing needs OpenTelemetry: pip install 'expertmesh[tracing]' ({error})") from error
    with exporting(config.endpoint, config.sample_ratio, service) as tracer:
        yield tracer
