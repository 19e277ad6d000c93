"""Keys of a file at both doors: what each is good for, and what is told of callers who were sent away."""

import asyncio
import logging

import pytest
from exposition import Samples
from http_serving import MODEL, serving
from waiting import wait_until

from expertmesh.client import AsyncClient, Sampling
from expertmesh.errors import ApiKeyError
from expertmesh.gateway import key_ring
from expertmesh.rpc.forwarded import parse_proxies

LINES = """
sesame name=root
generates name=anna scopes=generate
watches name=bert scopes=load
over name=carl expires=2020-01-31
"""
TEXT = {"prompt": "Hello", "max_tokens": 1}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(LINES)
    return path


@pytest.fixture(scope="module")
def guarded(keys):
    with serving(api_key_file=keys, proxies=parse_proxies("127.0.0.1")) as mesh:
        yield mesh


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def refused(mesh) -> dict[str, float]:
    samples = Samples(mesh.http.get("/metrics").text)
    reasons = ("no_key", "unknown_key", "expired_key", "missing_scope")
    return {reason: samples["expertmesh_refused_callers_total", reason] for reason in reasons}


@pytest.mark.parametrize(
    ("key", "generates", "watches"), [("sesame", 200, 200), ("generates", 200, 403), ("watches", 403, 200)]
)
def test_a_key_opens_over_http_what_it_is_good_for(guarded, key, generates, watches):
    assert guarded.http.post("/v1/completions", json=TEXT, headers=bearer(key)).status_code == generates
    assert guarded.http.post("/generate", json={"inputs": "a"}, headers=bearer(key)).status_code == generates
    assert guarded.http.get("/v1/models", headers=bearer(key)).status_code == generates
    assert guarded.http.get("/dashboard/load", headers=bearer(key)).status_code == watches


def test_who_asks_for_more_hears_what_the_key_is_good_for(guarded):
    reply = guarded.http.post("/v1/completions", json=TEXT, headers=bearer("watches"))
    assert reply.json()["error"]["code"] == "insufficient_scope"
    assert reply.json()["error"]["message"] == "the API key bert is good for load; /v1/completions asks for generate"
    reply = guarded.http.post("/generate", json={"inputs": "a"}, headers=bearer("watches"))
    assert reply.json()["error_type"] == "permission"
    assert guarded.http.get("/v1/nothing", headers=bearer("generates")).status_code == 404
    assert guarded.http.get("/nothing", headers=bearer("generates")).status_code == 403
    assert guarded.http.get("/nothing", headers=bearer("sesame")).status_code == 404


def test_who_has_an_expired_key_hears_so(guarded):
    reply = guarded.http.post("/v1/completions", json=TEXT, headers=bearer("over"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    assert reply.json()["error"]["message"].startswith("the API key carl has expired: 2020-01-31")


@pytest.mark.parametrize(
    ("key", "generates", "watches"),
    [("sesame", None, None), ("generates", None, "PERMISSION_DENIED"), ("watches", "PERMISSION_DENIED", None)]
    + [("over", *["UNAUTHENTICATED: the API key carl has expired"] * 2), ("wrong", *["UNAUTHENTICATED"] * 2)],
)
def test_a_key_opens_over_grpc_what_it_is_good_for(guarded, key, generates, watches):
    async def ask() -> None:
        async with AsyncClient(guarded.mesh.client.endpoint, api_key=key) as client:
            for call, error in (
                (lambda: client.chat_answers("Hello", Sampling(max_tokens=1)), generates),
                (client.model_info, generates),
                (client.load, watches),
            ):
                if error is None:
                    await call()
                    continue
                with pytest.raises(ApiKeyError, match=error):
                    await call()

    asyncio.run(ask())


def test_callers_who_are_sent_away_are_counted_at_both_doors(guarded):
    before = refused(guarded)
    for headers in ({}, bearer("wrong"), bearer("wrong"), bearer("over"), bearer("watches")):
        guarded.http.post("/v1/completions", json=TEXT, headers=headers)

    async def ask() -> None:
        async with AsyncClient(guarded.mesh.client.endpoint, api_key="wrong") as client:
            with pytest.raises(ApiKeyError):
                await client.model_info()

    asyncio.run(ask())
    more = {"no_key": 1, "unknown_key": 3, "expired_key": 1, "missing_scope": 1}
    wait_until(lambda: refused(guarded) == {reason: count + more[reason] for reason, count in before.items()})


def test_the_log_names_who_is_behind_the_proxy(guarded, caplog):
    with caplog.at_level(logging.WARNING):
        for address in ("198.51.100.7", "198.51.100.7", "203.0.113.5"):
            guarded.http.get("/v1/models", headers={"X-Forwarded-For": address})
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("refused ")]
    assert [line.split()[1] for line in lines] == ["198.51.100.7:", "203.0.113.5:"]


def test_a_changed_file_counts_at_both_doors(tmp_path, monkeypatch):
    monkeypatch.setattr(key_ring, "WATCH_SECONDS", 0.001)
    path = tmp_path / "keys"
    path.write_text("old\n")

    async def may_ask(endpoint: str, key: str) -> bool:
        async with AsyncClient(endpoint, api_key=key) as client:
            try:
                await client.model_info()
            except ApiKeyError:
                return False
        return True

    with serving(MODEL, api_key_file=path) as mesh:

        def may(key: str) -> tuple[bool, bool]:
            over_http = mesh.http.get("/v1/models", headers=bearer(key)).status_code == 200
            return over_http, asyncio.run(may_ask(mesh.mesh.client.endpoint, key))

        assert (may("old"), may("new")) == ((True, True), (False, False))
        path.write_text("new\n")
        wait_until(lambda: may("new") == (True, True))
        assert may("old") == (False, False)
        path.write_text("")
        path.write_text("newest scopes=nothing\n")
        assert may("new") == (True, True)
