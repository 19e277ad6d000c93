import asyncio

from serving.client import Answer
from serving.load import Question
from serving.pacing import at_times, in_closed_loop

ASKED = [Question([index], index + 1) for index in range(12)]


class Server:
    """Answers after some turns of the event loop, longer questions later; notes how many are in flight."""

    def __init__(self):
        self.in_flight = 0
        self.most = 0

    async def ask(self, question):
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        for _ in range(3 + question.num_tokens % 5):
            await asyncio.sleep(0)
        self.in_flight -= 1
        return Answer(sent=0.0, output_tokens=question.num_tokens)


def test_a_closed_loop_keeps_its_clients_busy_and_the_order():
    server = Server()
    answers = asyncio.run(in_closed_loop(ASKED, 3, server.ask))
    assert [answer.output_tokens for answer in answers] == [question.num_tokens for question in ASKED]
    assert server.most == 3


def test_arrivals_do_not_wait_for_answers():
    server = Server()
    answers = asyncio.run(at_times(ASKED, [0.0] * len(ASKED), server.ask))
    assert [answer.output_tokens for answer in answers] == [question.num_tokens for question in ASKED]
    assert server.most == len(ASKED)
