"""Which scope of a key each route and each rpc asks for. Knows names, neither keys nor what is behind the names."""

from expertmesh.gateway.keys import Scope

# What probes, tools and browsers get before they have a key; none of it says what anybody asked or was answered.
OPEN_PATHS = frozenset({"/health", "/ready", "/version", "/metrics", "/openapi.json", "/dashboard", "/"})
_OF_PATHS = {
    **dict.fromkeys(("/", "/generate", "/generate_stream", "/info", "/tokenize", "/detokenize"), Scope.GENERATE),
    "/dashboard/load": Scope.LOAD,
}
_OF_PREFIXES = {
    "/v1/": Scope.GENERATE,
    "/expertmesh.v1.GenerationService/": Scope.GENERATE,
    "/expertmesh.v1.LoadService/": Scope.LOAD,
}


def scope_of_route(method: str, path: str) -> Scope | None:
    """Return what a request over HTTP asks for, None if that is open to everybody."""
    if method == "GET" and path in OPEN_PATHS:  # what is posted to / is a request to generate
        return None
    return _OF_PATHS.get(path) or _of_prefix(f"{path}/")


def scope_of_rpc(name: str) -> Scope:
    """Return what an rpc asks for, named as /SERVICE/METHOD."""
    return _of_prefix(name)


def _of_prefix(name: str) -> Scope:
    """What is in no table is for those who may do everything: nobody forgets to close a door."""
    return next((scope for prefix, scope in _OF_PREFIXES.items() if name.startswith(prefix)), Scope.ADMIN)
