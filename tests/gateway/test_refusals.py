import logging

from expertmesh.errors import UnauthenticatedError
from expertmesh.gateway.refusals import LOG_SECONDS, MAX_ADDRESSES, Refusal, Refusals

NO_KEY = UnauthenticatedError("no key", Refusal.NO_KEY)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_is_counted_and_one_of_an_address_and_minute_is_logged(caplog):
    counted, clock = [], Clock()
    refusals = Refusals(counted.append, clock)
    for _ in range(3):
        refusals.note(NO_KEY, "10.0.0.1")
    refusals.note(UnauthenticatedError("wrong", Refusal.UNKNOWN_KEY), "10.0.0.2")
    clock.now = LOG_SECONDS - 1
    refusals.note(NO_KEY, "10.0.0.1")
    clock.now = LOG_SECONDS
    for _ in range(2):
        refusals.note(NO_KEY, "10.0.0.1")
    assert counted == ["no_key"] * 3 + ["unknown_key"] + ["no_key"] * 3
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "refused 10.0.0.1: no key",
        "refused 10.0.0.2: wrong",
        "refused 10.0.0.1: no key; 3 more since the line before",
    ]


def test_ever_so_many_addresses_are_counted_but_not_remembered(caplog):
    counted = []
    refusals = Refusals(counted.append, Clock())
    for number in range(MAX_ADDRESSES + 1):
        refusals.note(NO_KEY, str(number))
    assert (len(counted), len(caplog.records)) == (MAX_ADDRESSES + 1, MAX_ADDRESSES + 1)
    refusals.note(NO_KEY, str(MAX_ADDRESSES))
    assert len(caplog.records) == MAX_ADDRESSES + 1
    refusals.note(NO_KEY, "0")  # forgotten
    assert len(caplog.records) == MAX_ADDRESSES + 2
