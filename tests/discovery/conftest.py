import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fake_api_server import SELECTOR, FakeApiServer
from following import Follower
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config

from expertmesh.discovery.kubernetes import KubernetesDiscovery
from expertmesh.discovery.reflector import Timing
from expertmesh.discovery.slice_api import SliceQuery


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a kubeconfig that names a server and a token."""

    def write(url: str, token: str) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        return path

    return write


@pytest.fixture
def follow(kubeconfig):
    """Follow a fake API server with the official client, as ``async with follow(server, relist=...)``."""

    @asynccontextmanager
    async def following(server: FakeApiServer, **timing: Any) -> AsyncIterator[Follower]:
        path = kubeconfig(server.url, server.token)

        async def load(configuration: Configuration) -> None:
            await load_kube_config(str(path), client_configuration=configuration)

        query = SliceQuery("mesh", SELECTOR)
        follower = Follower(KubernetesDiscovery(query, "grpc", load, Timing(**timing), random.Random(0)))
        task = asyncio.create_task(follower.run())
        try:
            yield follower
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return following
