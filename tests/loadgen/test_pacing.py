import asyncio
from itertools import count

import pytest

from expertmesh.loadgen.client import Answer
from expertmesh.loadgen.lengths import Uniform
from expertmesh.loadgen.load import Load, Question
from expertmesh.loadgen.pacing import Recorder, at_times, in_closed_loop
from expertmesh.loadgen.prompts import GivenPrompts

ASKED = [Question([index], index + 1) for index in range(12)]
LOAD = Load(GivenPrompts(("a",)), Uniform(1, 40), num_requests=12, num_clients=3)


class Server:
    """Answers after some turns of the event loop, longer questions later; notes how many are in flight."""

    def __init__(self, max_answers=None):
        self.in_flight = 0
        self.most = 0
        self.asked = []
        self.max_answers = max_answers

    async def send(self, question):
        await self.ask(question)

    async def ask(self, question):
        self.asked.append(question.num_tokens)
        if self.max_answers is not None and len(self.asked) > self.max_answers:
            await asyncio.Event().wait()
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        for _ in range(3 + question.num_tokens % 5):
            await asyncio.sleep(0)
        self.in_flight -= 1
        return Answer(sent=0.0, output_tokens=question.num_tokens)


def test_a_closed_loop_keeps_its_clients_busy():
    server = Server()
    asyncio.run(in_closed_loop(ASKED, 3, server.send))
    assert sorted(server.asked) == [question.num_tokens for question in ASKED]
    assert server.most == 3


def test_arrivals_do_not_wait_for_answers():
    server = Server()
    asyncio.run(at_times(ASKED, [0.0] * len(ASKED), server.send))
    assert server.asked == [question.num_tokens for question in ASKED]
    assert server.most == len(ASKED)


@pytest.mark.parametrize("pacing", [{"num_clients": 3}, {"rate": 1e6}])
def test_a_run_has_the_answers_in_the_order_of_the_questions(pacing):
    server, reported = Server(), []
    recorder = Recorder(reported.append)
    asyncio.run(recorder.record(Load(LOAD.prompts, LOAD.output_tokens, num_requests=12, **pacing), server.ask))
    run = recorder.run("mesh")
    assert [answer.output_tokens for answer in run.answers] == server.asked
    assert (len(run.answers), run.num_unfinished, reported) == (12, 0, list(range(1, 13)))
    assert run.seconds > 0


@pytest.mark.parametrize("pacing", [{"num_clients": 3}, {"rate": 1000.0}])
def test_nothing_is_sent_after_the_seconds_and_what_was_sent_is_waited_for(pacing):
    server, recorder = Server(), Recorder()
    asyncio.run(recorder.record(Load(LOAD.prompts, LOAD.output_tokens, max_seconds=0.05, **pacing), server.ask))
    run = recorder.run("mesh")
    assert len(run.answers) == len(server.asked) > 0
    assert (run.num_unfinished, server.in_flight) == (0, 0)


def test_a_run_that_is_cancelled_has_what_came():
    async def interrupt():
        server, recorder = Server(max_answers=5), Recorder()
        assert not recorder.has_started
        running = asyncio.create_task(recorder.record(LOAD, server.ask))
        for _ in count():
            await asyncio.sleep(0)
            if len(server.asked) == 8:
                break
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert recorder.has_started
        return recorder.run("mesh")

    run = asyncio.run(interrupt())
    assert (len(run.answers), run.num_unfinished) == (5, 3)
