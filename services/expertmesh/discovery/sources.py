"""What ``--experts`` may say. Knows the forms of the text, not how each source works."""

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from expertmesh.discovery.dns import DnsDiscovery, Name
from expertmesh.discovery.endpoints import Discovery, StaticDiscovery
from expertmesh.errors import ConfigError

DNS_SCHEME = "dns://"
KUBERNETES_SCHEME = "kubernetes://"
DEFAULT_PORT_NAME = "grpc"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(rf"{_KEY}(=|==|!=)([A-Za-z0-9]([-\w.]*[A-Za-z0-9])?)?", re.ASCII)


def parse_experts(text: str, namespace_file: Path = NAMESPACE_FILE) -> Discovery:
    """Read one of the forms below; raise ConfigError that names what is wrong.

    - ``host:port,host:port``: these, always
    - ``dns://name:port,name:port``: every address that the names resolve to
    - ``kubernetes://NAMESPACE/?selector=key=value,key=value&port=grpc``: the pods behind the Services whose
      EndpointSlices have these labels; NAMESPACE left out is that of this pod, ``port`` left out is grpc
    """
    if text.startswith(DNS_SCHEME):
        return DnsDiscovery(frozenset(map(_split_port, _split_list(text.removeprefix(DNS_SCHEME)))))
    if text.startswith(KUBERNETES_SCHEME):
        return _parse_kubernetes(text, namespace_file)
    if "://" in text:
        raise ConfigError(f"{text!r} is no source of experts; write host:port,..., dns://... or kubernetes://...")
    return StaticDiscovery(parse_addresses(text))


def parse_addresses(text: str) -> frozenset[str]:
    """Read a comma-separated list of ``host:port``; raise ConfigError that names the first wrong entry."""
    return frozenset(f"{host}:{port}" for host, port in map(_split_port, _split_list(text)))


def _split_list(text: str) -> list[str]:
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not entries:
        raise ConfigError("no expert endpoint given; write host:port,host:port,...")
    return entries


def _split_port(entry: str) -> Name:
    host, _, port = entry.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{entry!r} is not an endpoint; write host:port, for example 127.0.0.1:50052")
    return host, int(port)


def _parse_kubernetes(text: str, namespace_file: Path) -> Discovery:
    # The client takes most of a second to import.
    from expertmesh.discovery.kubernetes import KubernetesDiscovery
    from expertmesh.discovery.slice_api import SliceQuery

    url = urlsplit(text)
    parameters = _parse_parameters(text, url)
    query = SliceQuery(url.netloc or _own_namespace(text, namespace_file), parameters.get("selector", ""))
    port_name = parameters.get("port", DEFAULT_PORT_NAME)
    _check(text, "namespace", query.namespace, bool(_LABEL.fullmatch(query.namespace)), "a DNS label, such as default")
    are_requirements = all(_REQUIREMENT.fullmatch(part) for part in query.selector.split(","))
    _check(text, "selector", query.selector, are_requirements, "key=value,key!=value,...")
    _check(text, "port", port_name, bool(_LABEL.fullmatch(port_name)), "the name of a port, such as grpc")
    return KubernetesDiscovery(query, port_name)


def _parse_parameters(text: str, url: SplitResult) -> dict[str, str]:
    _check(text, "path", url.path + url.fragment, url.path in ("", "/") and not url.fragment, "none")
    pairs = parse_qsl(url.query, keep_blank_values=True)
    names = sorted(name for name, _ in pairs)
    _check(
        text, "parameters", str(names), names in (["selector"], ["port", "selector"]), "selector and, if wanted, port"
    )
    return dict(pairs)


def _own_namespace(text: str, namespace_file: Path) -> str:
    try:
        return namespace_file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{text!r} names no namespace, and this is no pod that has one: {error}") from error


def _check(text: str, part: str, found: str, is_right: bool, right: str) -> None:
    if not is_right:
        raise ConfigError(f"{part} of {text!r} is {found!r}; right would be {right}")
