from pathlib import Path

import pytest

from expertmesh.discovery.dns import DnsDiscovery
from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.discovery.kubernetes import KubernetesDiscovery
from expertmesh.discovery.sources import parse_addresses, parse_experts
from expertmesh.errors import ConfigError

SELECTOR = "app.kubernetes.io/component=expert,app.kubernetes.io/instance!=demo"


def test_list_is_read_with_spaces_and_without_doubles():
    assert parse_addresses("a:1, [::1]:65535,a:1") == {"a:1", "[::1]:65535"}


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:0", "a:65536", "a:x", "a/b:1", "a:1,b"])
@pytest.mark.parametrize("scheme", ["", "dns://"])
def test_wrong_entry_is_named(scheme: str, text: str):
    with pytest.raises(ConfigError, match=repr(text.split(",")[-1])):
        parse_experts(scheme + text)


@pytest.mark.parametrize("text", [" ,", "", "dns://"])
def test_empty_list_is_refused(text: str):
    with pytest.raises(ConfigError, match="no expert endpoint"):
        parse_experts(text)


def test_scheme_chooses_the_source():
    assert isinstance(parse_experts("a:1"), StaticDiscovery)
    assert isinstance(parse_experts("dns://experts.demo.svc:50051,b:2"), DnsDiscovery)
    assert isinstance(parse_experts(f"kubernetes://demo/?selector={SELECTOR}&port=grpc"), KubernetesDiscovery)
    assert isinstance(parse_experts(f"kubernetes://demo?selector={SELECTOR}"), KubernetesDiscovery)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("http://a:1", "is no source of experts"),
        ("kubernetes://demo/", "parameters .* is '\\[\\]'"),
        ("kubernetes://demo/?port=grpc", "parameters"),
        ("kubernetes://demo/?selector=a=b&prot=grpc", "prot"),
        ("kubernetes://demo/?selector=a=b&selector=a=b", "parameters"),
        ("kubernetes://demo/path?selector=a=b", "path .* is '/path'"),
        ("kubernetes://demo/?selector=a=b#c", "path .* is '/c'"),
        ("kubernetes://Demo/?selector=a=b", "namespace .* is 'Demo'"),
        ("kubernetes://user@demo/?selector=a=b", "namespace"),
        ("kubernetes://demo:1/?selector=a=b", "namespace"),
        ("kubernetes://demo/?selector=", "selector .* is ''"),
        ("kubernetes://demo/?selector=a=b,", "selector"),
        ("kubernetes://demo/?selector=a in (b)", "selector"),
        ("kubernetes://demo/?selector=-a=b", "selector"),
        ("kubernetes://demo/?selector=a=b&port=50051:", "port .* is '50051:'"),
        ("kubernetes://demo/?selector=a=b&port=", "port .* is ''"),
    ],
)
def test_wrong_part_of_a_kubernetes_source_is_named(text: str, named: str):
    with pytest.raises(ConfigError, match=named):
        parse_experts(text)


def test_no_namespace_is_that_of_the_pod(tmp_path: Path):
    text = f"kubernetes:///?selector={SELECTOR}"
    with pytest.raises(ConfigError, match="names no namespace"):
        parse_experts(text, tmp_path / "namespace")
    (tmp_path / "namespace").write_text("Not-a-label\n")
    with pytest.raises(ConfigError, match="namespace .* is 'Not-a-label'"):
        parse_experts(text, tmp_path / "namespace")
    (tmp_path / "namespace").write_text("demo\n")
    assert isinstance(parse_experts(text, tmp_path / "namespace"), KubernetesDiscovery)
