"""A mesh whose every connection is encrypted, against one in the clear."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from certificates import GATEWAY, Authority, Issued, replace_file
from following import until
from integration_mesh import QUARTERS, run_mesh
from link_server import have_no_unix_sockets

from expertmesh.client import AsyncClient, Sampling
from expertmesh.errors import GatewayError
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.rpc.tls import open_client
from expertmesh.settings.tls import ClientTls, ExpertsTls, ServerTls

NUM_TOKENS = 12


@dataclass(frozen=True)
class Certificates:
    """Of all parts of a mesh: files of the gateway, the experts and a user, and of the authorities that count."""

    authorities: Path
    gateway: Issued
    experts: Issued
    user: Issued

    @property
    def settings(self):
        """Arguments of ``run_mesh``."""
        return {
            "tls": ServerTls(self.gateway.cert, self.gateway.key, self.authorities),
            "experts_tls": ExpertsTls(self.authorities, self.gateway.cert, self.gateway.key),
            "expert_tls": ServerTls(self.experts.cert, self.experts.key, self.authorities, (GATEWAY,)),
            "client_tls": self.client,
            "http_listen": "127.0.0.1:0",
        }

    @property
    def client(self):
        """What a user calls with."""
        return ClientTls(self.authorities, self.user.cert, self.user.key)


def issue(authority, authorities):
    gateway = authority.issue("gateway", [GATEWAY, "127.0.0.1"])
    return Certificates(authorities, gateway, authority.issue("experts"), authority.issue("user", ["user.test"]))


async def ask_over_http(url, client, prompt):
    body = {"model": "tiny", "prompt": prompt, "max_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 0}
    tls = open_client(client) if client.ca else None
    context = tls.http_context() if tls else True
    async with httpx.AsyncClient(base_url=url, verify=context, timeout=60, trust_env=False) as http:
        return (await http.post("/v1/completions", json=body)).raise_for_status().json()["choices"][0]["text"]


async def answers(mesh, prompts, client):
    """Ids over gRPC, and text over HTTP."""
    ids = [await mesh.ids(prompt, max_tokens=NUM_TOKENS, ignore_eos=True, temperature=0.0) for prompt in prompts]
    return ids, [await ask_over_http(mesh.gateway.http.url, client, prompt) for prompt in prompts]


@pytest.mark.parametrize("transport", ["grpc", "TCP"])
def test_what_is_answered_over_tls_is_what_is_answered_in_the_clear(
    transport, make_mixtral, prompts, tmp_path, monkeypatch
):
    directory = make_mixtral(group_size=64).directory
    authority = Authority(tmp_path)
    certificates = issue(authority, authority.ca)
    if transport == "TCP":
        have_no_unix_sockets(monkeypatch)
    dispatch = DispatchConfig(transport="direct" if transport == "TCP" else transport)

    async def run(client=ClientTls(), **config):
        async with run_mesh(directory, served_model_names=("tiny",), dispatch=dispatch, **config) as mesh:
            return await answers(mesh, prompts[:3], client)

    in_the_clear = asyncio.run(run(http_listen="127.0.0.1:0"))
    assert asyncio.run(run(certificates.client, **certificates.settings)) == in_the_clear
    assert all(len(ids) == NUM_TOKENS for ids in in_the_clear[0])


def test_every_certificate_is_replaced_under_load_and_no_request_fails(make_mixtral, prompts, tmp_path):
    """Each request is made over a new connection; those of the engine are in test_tls_links.py."""
    directory = make_mixtral(group_size=64).directory
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(old.ca.read_bytes())
    certificates = issue(old, authorities)
    stale = old.client("stale", ["user.test"])

    async def run():
        async with run_mesh(directory, QUARTERS, served_model_names=("tiny",), **certificates.settings) as mesh:
            grpc, http, texts, is_over = mesh.gateway.server.address, mesh.gateway.http.url, [], False

            async def load():
                while not is_over:
                    texts.append(await ask_over_http(http, certificates.client, prompts[0]))
                    async with AsyncClient(grpc, tls=certificates.client) as client:
                        pieces = client.generate(prompts[0], Sampling(NUM_TOKENS, 0.0))
                        assert [piece async for piece in pieces]

            async def some_requests():
                wanted = len(texts) + 2
                await until(lambda: len(texts) >= wanted)

            async with asyncio.TaskGroup() as group:
                group.create_task(load())
                await some_requests()
                replace_file(authorities, old.ca.read_bytes() + new.ca.read_bytes())
                await some_requests()
                issue(new, authorities)
                await some_requests()
                replace_file(authorities, new.ca.read_bytes())
                await some_requests()
                is_over = True
            assert len(set(texts)) == 1
            for client in (stale, ClientTls(new.ca, stale.cert, stale.key)):
                with pytest.raises(httpx.TransportError):
                    await ask_over_http(http, client, prompts[0])
                async with AsyncClient(grpc, tls=client) as refused:
                    with pytest.raises(GatewayError, match="not of an authority|wants a certificate"):
                        await refused.model_info()

    asyncio.run(run())
