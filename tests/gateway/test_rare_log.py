import logging

import pytest

from expertmesh.gateway.rare_log import RareLog


@pytest.mark.parametrize(("seconds", "expected"), [(3600.0, ["a 1"]), (0.0, ["a 1", "a 2", "b"])])
def test_what_happens_often_is_said_now_and_then(caplog, seconds: float, expected: list[str]):
    rare = RareLog(logging.getLogger("rare"), seconds)
    for text, *words in (("a %d", 1), ("a %d", 2), ("b",)):
        rare.warning(text, *words)
    assert caplog.messages == expected
