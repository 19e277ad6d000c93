"""Asking the Kubernetes API for EndpointSlices. Knows HTTP and the official client, not what slices are for.

Source: "Kubernetes API Concepts": paged lists, watches, bookmarks, status 410.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration, DiscoveryV1Api
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from expertmesh.discovery.slices import Slice
from expertmesh.errors import ExpertmeshError

PAGE_SIZE = 500
GONE = 410

Event = dict[str, Any]
"""One line of a watch: ``type`` and ``object``."""

LoadConfiguration = Callable[[Configuration], Awaitable[None]]


class ApiServerError(ExpertmeshError):
    """The API server refused, failed or broke off."""


class ExpiredError(ApiServerError):
    """The version that a list or a watch was to continue from is too old; list again."""


@dataclass(frozen=True)
class SliceQuery:
    """Which slices: those of ``namespace`` whose labels match ``selector`` (as for ``kubectl get -l``)."""

    namespace: str
    selector: str


async def load_configuration(configuration: Configuration) -> None:
    """Fill in address and credentials: those of the pod, outside of a cluster those of the kubeconfig.

    Raises ConfigException.
    """
    try:
        load_incluster_config(configuration)
    except ConfigException as not_a_pod:
        try:
            await load_kube_config(client_configuration=configuration, persist_config=False)
        except ConfigException as error:
            raise ConfigException(f"no credentials of a pod ({not_a_pod}) and no kubeconfig ({error})") from error


class SliceApi:
    """Lists and watches over one client; nothing takes longer than ``timeout_seconds`` to begin to be answered."""

    def __init__(self, client: ApiClient, query: SliceQuery, timeout_seconds: float) -> None:
        self._api = DiscoveryV1Api(client)
        self._query = query
        self._timeout_seconds = timeout_seconds

    async def list(self) -> tuple[dict[str, Slice], str]:
        """Return all slices by name, and the version of the list; several requests where there are many."""
        slices: dict[str, Slice] = {}
        token: str | None = None
        while True:
            page = await self._list_page(token)
            slices.update((item["metadata"]["name"], item) for item in page.get("items") or ())
            token = page["metadata"].get("continue")
            if not token:
                return slices, page["metadata"]["resourceVersion"]

    @asynccontextmanager
    async def watch(self, version: str, num_seconds: int, quiet_seconds: float) -> AsyncIterator[AsyncIterator[Event]]:
        """Yield the events after ``version``, which the server ends after ``num_seconds``.

        TimeoutError comes when the server says nothing for ``quiet_seconds``, not even a bookmark.
        """
        async with asyncio.timeout(self._timeout_seconds):
            response = await self._request(
                watch=True,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=num_seconds,
                _request_timeout=num_seconds + self._timeout_seconds,
            )
        async with response:
            await _check_status(response)
            async with aclosing(_read_events(response, quiet_seconds)) as events:
                yield events

    async def _list_page(self, token: str | None) -> dict[str, Any]:
        async with asyncio.timeout(self._timeout_seconds):
            response = await self._request(limit=PAGE_SIZE, _continue=token, _request_timeout=self._timeout_seconds)
            async with response:
                await _check_status(response)
                page: dict[str, Any] = json.loads(await response.read())
                return page

    async def _request(self, **parameters: Any) -> aiohttp.ClientResponse:
        # Without the client's model classes: for a list they cost more than ten times what reading its JSON does.
        return await self._api.list_namespaced_endpoint_slice_without_preload_content(
            namespace=self._query.namespace, label_selector=self._query.selector, **parameters
        )


@asynccontextmanager
async def open_slice_api(query: SliceQuery, load: LoadConfiguration, timeout_seconds: float) -> AsyncIterator[SliceApi]:
    """Read the credentials, which expire, and hold a client inside the ``async with``."""
    configuration = Configuration()
    await load(configuration)
    configuration.client_session_kwargs = {"middlewares": (_ask_once,)}
    # Reading the certificates of the system takes long enough to hold up every request on this loop.
    async with await asyncio.to_thread(ApiClient, configuration) as client:
        yield SliceApi(client, query, timeout_seconds)


async def _ask_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from connecting a second time at once when a connection breaks: pauses are the caller's to make."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ApiServerError(f"no connection to the API server: {error}") from error


async def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status == GONE:
        raise ExpiredError("the API server no longer knows the version to continue from")
    if response.status != 200:
        message = _read_message(await response.text(errors="replace"))
        raise ApiServerError(f"the API server answered {response.status} {response.reason}: {message}")


def _read_message(text: str) -> str:
    """Take the message out of a Status object; whatever stands between may answer with something else."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        return text[:500]


async def _read_events(response: aiohttp.ClientResponse, quiet_seconds: float) -> AsyncGenerator[Event, None]:
    while True:
        async with asyncio.timeout(quiet_seconds):
            line = await response.content.readline()
        if not line:
            return
        yield _decode_event(line)


def _decode_event(line: bytes) -> Event:
    try:
        event: Event = json.loads(line)
    except ValueError as error:
        raise ApiServerError(f"the API server cut a line of the watch after {len(line)} bytes") from error
    if event["type"] != "ERROR":
        return event
    status = event["object"]
    if status.get("code") == GONE:
        raise ExpiredError(f"the watch cannot continue: {status.get('message')}")
    raise ApiServerError(f"the watch failed: {status}")
