import asyncio
import os
import signal

import pytest
from following import until

from expertmesh.rpc.signals import on_hangup, wait_for_shutdown


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


def test_each_hangup_is_heard():
    before, heard = signal.getsignal(signal.SIGHUP), []

    async def main():
        with on_hangup(lambda: heard.append(1)):
            for number in (1, 2):
                os.kill(os.getpid(), signal.SIGHUP)
                await until(lambda number=number: len(heard) == number)
        with on_hangup(None):
            assert signal.getsignal(signal.SIGHUP) == before

    asyncio.run(main())
    assert signal.getsignal(signal.SIGHUP) == before
