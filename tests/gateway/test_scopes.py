"""Every route and every rpc has a scope of its own choice, and the table in the docs is that of the code."""

import re
from pathlib import Path

import pytest

from expertmesh.gateway.http.app import KEYED_ROUTERS, OPEN_ROUTERS
from expertmesh.gateway.http.pages.chat import routes as chat
from expertmesh.gateway.http.pages.dashboard import routes as dashboard
from expertmesh.gateway.keys import Scope
from expertmesh.gateway.scopes import scope_of_route, scope_of_rpc
from expertmesh.v1 import generation_pb2, load_pb2

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "api.md"


def routes(*routers):
    return [(method, route.path) for router in routers for route in router.routes for method in route.methods]


def rpcs(file):
    services = file.DESCRIPTOR.services_by_name.values()
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


def test_what_tells_of_nobody_is_open():
    assert {scope_of_route(*route) for route in routes(*OPEN_ROUTERS)} == {None}
    for path in ("/", "/dashboard", "/metrics", "/openapi.json"):
        assert scope_of_route("GET", path) is None
        assert scope_of_route("POST", path) is not None


def test_every_route_asks_for_a_scope():
    keyed = routes(*KEYED_ROUTERS)
    assert len(keyed) > 10
    assert {scope_of_route(*route) for route in keyed} == {Scope.GENERATE}
    pages = routes(chat.make_router(), dashboard.make_router(lambda: None))
    asked = {path: scope_of_route(method, path) for method, path in pages}
    assert asked == {"/": None, "/dashboard": None, "/dashboard/load": Scope.LOAD}


def test_every_rpc_asks_for_a_scope():
    assert {scope_of_rpc(name) for name in rpcs(generation_pb2)} == {Scope.GENERATE}
    assert {scope_of_rpc(name) for name in rpcs(load_pb2)} == {Scope.LOAD}


@pytest.mark.parametrize("path", ["/new", "/v2/chat", "/v10", "/dashboard/loads", "/health/x"])
def test_what_is_in_no_table_is_for_those_who_may_do_everything(path):
    assert scope_of_route("POST", path) == Scope.ADMIN
    assert scope_of_rpc(f"{path}/Method") == Scope.ADMIN


def test_the_table_of_the_docs_is_true():
    rows = re.findall(r"^\| `(generate|load)` \| (.*) \| (.*) \|$", DOCUMENTATION.read_text(), re.MULTILINE)
    assert [scope for scope, _, _ in rows] == ["generate", "load"]
    for scope, paths, services in rows:
        for method, path in re.findall(r"`(?:(POST) )?(/[^`]*)`", paths):
            assert scope_of_route(method or "GET", path.replace("*", "x")) == scope
        for service in re.findall(r"`(\w+Service)`", services):
            assert scope_of_rpc(f"/expertmesh.v1.{service}/Any") == scope
