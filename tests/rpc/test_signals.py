import asyncio
import os
import signal

import pytest

from expertmesh.rpc.signals import wait_for_shutdown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_the_wait(number):
    before = signal.getsignal(number)

    async def main():
        waiting = asyncio.ensure_future(wait_for_shutdown())
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        return await asyncio.wait_for(waiting, 30)

    assert asyncio.run(main()) == number
    assert signal.getsignal(number) == before
