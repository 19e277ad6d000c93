import asyncio
import logging

import httpx
from fastapi import FastAPI

from expertmesh.errors import ComputeError
from expertmesh.gateway.http.errors import add_error_handlers
from expertmesh.gateway.http.request_ids import RequestIds


def make_app() -> RequestIds:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/broken")
    async def fail() -> None:
        raise KeyError("a secret")

    @app.get("/wrong")
    async def be_wrong() -> None:
        raise ComputeError("not finite")

    return RequestIds(app)


async def get(path: str) -> httpx.Response:
    transport = httpx.ASGITransport(make_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path, headers={"X-Request-Id": "job 7"})


def test_what_nobody_foresaw_is_found_in_the_log_by_its_request(caplog):
    reply = asyncio.run(get("/broken"))
    assert (reply.status_code, reply.headers["X-Request-Id"]) == (500, "job 7")
    assert "secret" not in reply.text
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "unexpected error in request job 7"


def test_every_request_is_in_the_log_of_those_who_want_all(caplog):
    with caplog.at_level(logging.DEBUG, "expertmesh.gateway.http.request_ids"):
        asyncio.run(get("/wrong"))
    assert "GET '/wrong': 500, request job 7" in [record.getMessage() for record in caplog.records]
