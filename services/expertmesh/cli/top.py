"""``expertmesh top``: how busy experts and replicas are, live. Knows terminals and keys; top_view.py draws."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.live import Live

from expertmesh.cli import options
from expertmesh.cli.top_view import Frame
from expertmesh.errors import GatewayError
from expertmesh.settings.tls import ClientTls

if TYPE_CHECKING:
    from expertmesh.client import AsyncClient, LoadUpdate

DISPLAY = "Display"
QUIT_KEYS = frozenset("qQ\x03\x04")
RECONNECT_SECONDS = 1.0
PIPE_WIDTH = 120


def top(
    endpoint: options.Endpoint = options.DEFAULT_GATEWAY,
    api_key: options.ClientKey = None,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    interval: Annotated[
        float, options.flag(DISPLAY, "INTERVAL", "Seconds between two updates.", min=0.1, max=60.0)
    ] = 1.0,
    once: Annotated[
        bool, options.flag(DISPLAY, "ONCE", "Print one picture, of one interval, and end.", "--once")
    ] = False,
) -> None:
    """Watch which experts are hot: rows per second, share, layers, queue, latency, replicas. q ends.

    Into a pipe or a file it writes one picture after the other, as plain text.
    """
    from expertmesh.client import AsyncClient

    tls, console = ClientTls(ca, cert, key, server_name), Console()

    def ask() -> AsyncClient:
        return AsyncClient(endpoint, api_key=api_key, tls=tls)

    if once or not console.is_terminal:
        asyncio.run(_print(ask, interval, console, once))
    else:
        asyncio.run(_show(ask, interval))


async def _print(ask: Callable[[], "AsyncClient"], interval: float, console: Console, once: bool) -> None:
    """Write pictures as lines, as wide as they need to be."""
    # What reads a pipe has no width; 80 columns would hide some.
    width = console.width if console.is_terminal else PIPE_WIDTH
    async with ask() as client:
        title = f"{(await client.model_info()).name} at {client.endpoint}"
        async with aclosing(client.watch_load(interval)) as updates:
            await anext(updates)  # the first one has no rates
            async for update in updates:
                console.print(Frame(title, update), width=width)
                sys.stdout.flush()
                if once:
                    return
                console.print()


async def _show(ask: Callable[[], "AsyncClient"], interval: float) -> None:
    """Draw until a key ends it; errors before the first picture are raised, later ones are shown."""
    async with ask() as client:
        title = f"{(await client.model_info()).name} at {client.endpoint}"
        with Live(screen=True, auto_refresh=True, refresh_per_second=4) as live, _quit_key() as quitting:
            drawing = asyncio.create_task(_draw(client, title, interval, live))
            await asyncio.wait((drawing, quitting), return_when=asyncio.FIRST_COMPLETED)
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)
    if not drawing.cancelled():
        drawing.result()


async def _draw(client: "AsyncClient", title: str, interval: float, live: Live) -> None:
    async for update, error in _updates(client, interval):
        live.update(Frame(title, update, error, is_live=True))


async def _updates(
    client: "AsyncClient", interval: float
) -> AsyncGenerator[tuple["LoadUpdate | None", GatewayError | None]]:
    """Yield loads, and the last one with an error while the gateway does not answer."""
    update: LoadUpdate | None = None
    while True:
        try:
            async with aclosing(client.watch_load(interval)) as updates:
                async for update in updates:
                    yield update, None
        except GatewayError as error:
            yield update, error
        await asyncio.sleep(RECONNECT_SECONDS)


@contextmanager
def _quit_key() -> Iterator[asyncio.Future[None]]:
    """Read keys without Enter and without echo; the future is done once one of them means to leave."""
    quitting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if not sys.stdin.isatty():
        yield quitting
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    loop = asyncio.get_running_loop()
    tty.setcbreak(sys.stdin)
    loop.add_reader(sys.stdin, _read_key, quitting)
    try:
        yield quitting
    finally:
        loop.remove_reader(sys.stdin)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _read_key(quitting: asyncio.Future[None]) -> None:
    import os

    keys = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
    if (not keys or QUIT_KEYS & set(keys)) and not quitting.done():
        quitting.set_result(None)
