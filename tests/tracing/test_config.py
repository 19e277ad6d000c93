import subprocess
import sys

import pytest

from expertmesh.errors import ConfigError
from expertmesh.tracing.config import TraceConfig, open_tracer


@pytest.mark.parametrize("endpoint", ["collector:4317", "ftp://collector", "http://", "grpc:///"])
def test_an_endpoint_of_another_form_is_refused(endpoint):
    with pytest.raises(ConfigError, match=r"http://HOST:4318 or grpc://HOST:4317"):
        TraceConfig(endpoint)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(ratio):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        TraceConfig(sample_ratio=ratio)


def test_without_an_endpoint_nothing_is_traced():
    with open_tracer(TraceConfig(sample_ratio=1.0), "test") as tracer:
        assert not tracer.is_on
        assert tracer.start("work", "", {}).traceparent == ""


@pytest.mark.parametrize(
    ("process", "unwanted"),
    [
        ("expertmesh.expert.process", ["opentelemetry"]),
        # FastAPI imports OpenTelemetry's API by itself.
        ("expertmesh.gateway.process", ["opentelemetry.sdk", "opentelemetry.exporter", "expertmesh.tracing.otel"]),
    ],
)
def test_opentelemetry_is_imported_only_to_trace(process, unwanted):
    code = f"""
import sys
import expertmesh.cli.main, {process}
from expertmesh.tracing.config import TraceConfig, open_tracer
with open_tracer(TraceConfig(), "test"):
    assert sys.modules.keys().isdisjoint({unwanted})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_tracing_without_the_extra_says_what_to_install():
    code = """
import sys
sys.modules["opentelemetry"] = None
from expertmesh.errors import ConfigError
from expertmesh.tracing.config import TraceConfig, open_tracer
try:
    with open_tracer(TraceConfig("http://127.0.0.1:1"), "test"):
        pass
except ConfigError as error:
    assert "expertmesh[tracing]" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
