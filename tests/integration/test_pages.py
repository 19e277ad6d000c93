"""The routes of pages: these are open, the dashboard's data want a key and are those of LoadService."""

import pytest
from http_serving import serving

KEY = {"Authorization": "Bearer sesame"}


@pytest.fixture(scope="module")
def guarded():
    with serving(api_keys=("sesame",)) as mesh:
        yield mesh


@pytest.mark.parametrize("path", ["/", "/dashboard"])
def test_a_page_needs_no_key_and_holds_no_data(guarded, path):
    reply = guarded.http.get(path)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.text == guarded.http.get(path, headers=KEY).text


def test_the_data_need_a_key(guarded):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert guarded.http.get("/dashboard/load", headers=headers).status_code == 401


def test_the_data_are_the_load_of_the_gateway(guarded):
    asked = {"prompt": "Hello", "max_tokens": 4, "ignore_eos": True}
    guarded.http.post("/v1/completions", json=asked, headers=KEY).raise_for_status()
    reply = guarded.http.get("/dashboard/load", headers=KEY)
    assert reply.headers["Cache-Control"] == "no-store"
    load, rates = reply.json()["load"], reply.json()["rates"]
    assert load["gateway"]["generation_tokens"] == "4"
    assert [expert["expert"] for expert in load["experts"]] == list(range(8))
    assert rates["seconds"] >= 1
    assert sum(int(expert["tokens"]) for expert in load["experts"]) > 0
    assert [expert["tokens_per_second"] for expert in rates["experts"]] == [0] * 8
