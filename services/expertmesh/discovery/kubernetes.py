"""Endpoints by following EndpointSlices of Kubernetes. Knows when to ask the API server again, not how.

Needs the verbs list and watch on endpointslices (discovery.k8s.io) in one namespace. All of it runs on the event loop.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import aiohttp
from kubernetes.aio.client import ApiException, Configuration
from kubernetes.aio.config import ConfigException

from expertmesh.discovery.backoff import Backoff
from expertmesh.discovery.endpoints import Endpoints
from expertmesh.discovery.reflector import SliceReflector, Timing
from expertmesh.discovery.slice_api import (
    ApiServerError,
    LoadConfiguration,
    SliceQuery,
    load_configuration,
    open_slice_api,
)
from expertmesh.discovery.slices import merge_slices
from expertmesh.errors import ConfigError

_log = logging.getLogger(__name__)

# What a request can end with and another one may not: refused, cut off, timed out, not JSON, credentials replaced.
PASSING = (ApiServerError, ApiException, ConfigException, aiohttp.ClientError, OSError, ValueError, LookupError)


class KubernetesDiscovery:
    """Follows the pods behind the Services whose slices match ``query``, at their port named ``port_name``.

    While the API server is away, the last known endpoints stay, and ``age_seconds`` grows.
    """

    def __init__(
        self,
        query: SliceQuery,
        port_name: str,
        load: LoadConfiguration = load_configuration,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._query = query
        self._port_name = port_name
        self._load = load
        self._timing = timing or Timing()
        self._rng = rng or random.Random()
        self._reflector = SliceReflector(self._timing, self._rng)

    @property
    def age_seconds(self) -> float:
        """How long ago the API server last said anything; a quiet watch brings a bookmark every minute or so."""
        return time.monotonic() - self._reflector.heard_at

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the endpoints of all slices whenever they change; ConfigError when there is no API server to ask."""
        await self._check_configuration()
        last = None
        async with aclosing(self._changes()) as changes:
            async for _ in changes:
                endpoints = merge_slices(self._reflector.slices.values(), self._port_name)
                if endpoints != last:
                    yield endpoints
                    last = endpoints

    async def _check_configuration(self) -> None:
        try:
            await self._load(Configuration())
        except ConfigException as error:
            raise ConfigError(f"cannot follow EndpointSlices of Kubernetes: {error}") from error

    async def _changes(self) -> AsyncGenerator[None, None]:
        """Follow the API server, again and again, with pauses that grow as long as it does not answer."""
        backoff = Backoff()
        while True:
            started = time.monotonic()
            try:
                async with (
                    open_slice_api(self._query, self._load, self._timing.request) as api,
                    aclosing(self._reflector.follow(api)) as changes,
                ):
                    async for change in changes:
                        yield change
            except PASSING as error:
                backoff = backoff.after(self._reflector.heard_at - started)
                pause = backoff.seconds(self._rng)
                _log.warning("EndpointSlices: %s; asking again in %.1f s", str(error) or repr(error), pause)
            await asyncio.sleep(pause)
