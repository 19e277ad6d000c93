from pathlib import Path

import pytest

from expertmesh.errors import ConfigError
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.gateway.config import GatewayConfig
from expertmesh.settings.flags import fill, flags_of
from expertmesh.settings.tls import ClientTls, ExpertsTls, ServerTls

A, B, C = Path("a.pem"), Path("b.pem"), Path("c.pem")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (lambda: ServerTls(A), "--tls-cert is a.pem, but there is no --tls-key"),
        (lambda: ServerTls(key=B), "--tls-key is b.pem, but there is no --tls-cert"),
        (lambda: ServerTls(client_ca=C), "--tls-client-ca is c.pem, but there is no --tls-cert"),
        (lambda: ServerTls(A, B, None, ("x",)), "--allow-identity is x; without --tls-client-ca"),
        (lambda: ServerTls(A, B, C, ("*.x",)), r"'\*.x'; a whole DNS name or a URI"),
        (lambda: ServerTls(A, B, C, ("10.0.0.1",)), "'10.0.0.1'; a whole"),
        (lambda: ServerTls(A, B, C, ("",)), "''; a whole"),
        (lambda: ClientTls(C, A), "--cert is a.pem, but there is no --key"),
        (lambda: ClientTls(None, A, B), "--cert is a.pem, but there is no --ca"),
        (lambda: ClientTls(server_name="x"), "--server-name is x, but there is no --ca"),
        (lambda: ExpertsTls(C, None, B), "--experts-key is b.pem, but there is no --experts-cert"),
        (lambda: ExpertsTls(None, A, B), "--experts-cert is a.pem, but there is no --experts-ca"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        settings()


def test_flags_fill_them():
    values = {"tls_cert": A, "tls_key": B, "tls_client_ca": C, "allow_identity": ["x", "spiffe://y/z"], "model": C}
    server = fill(ExpertServerConfig, {name: values.get(name) for name in flags_of(ServerTls)} | {"model": C})
    assert server.tls == ServerTls(A, B, C, ("x", "spiffe://y/z"))
    experts = {"experts_ca": C, "experts_cert": A, "experts_key": B, "experts_server_name": "x"}
    gateway = fill(GatewayConfig, {"model": C, "tls_cert": A, "tls_key": B, **experts})
    assert gateway.experts_tls == ExpertsTls(C, A, B, "x")
    assert gateway.tls == ServerTls(A, B)


def test_a_gateway_asks_for_no_names():
    assert "allow_identity" in flags_of(ExpertServerConfig) and "allow_identity" not in flags_of(GatewayConfig)
