from expertmesh.engine.request import Caller
from expertmesh.gateway.access import Access
from expertmesh.gateway.callers import Callers
from expertmesh.gateway.key_ring import KeyRing
from expertmesh.gateway.refusals import Refusals

REFUSALS = Refusals(lambda reason: None)
KEYS = Access(KeyRing(["sesame", "other"]), REFUSALS)
SESAME = KEYS.identify("Bearer sesame")


def test_a_caller_with_a_key_is_that_key_wherever_it_calls_from():
    callers = Callers(KEYS.identify)
    assert SESAME is not None
    assert callers.caller_of("Bearer sesame", "10.0.0.7") == callers.caller_of("bearer sesame", "10.0.0.8")
    assert callers.caller_of("Bearer sesame", "10.0.0.7") == Caller(SESAME, has_key=True, cache_salt=SESAME)
    assert callers.caller_of("Bearer other", "10.0.0.7") != callers.caller_of("Bearer sesame", "10.0.0.7")


def test_callers_without_a_key_are_their_addresses_and_share_prefixes():
    callers = Callers(Access(KeyRing(), REFUSALS).identify)
    for shown in (None, "", "Bearer anything"):
        assert callers.caller_of(shown, "10.0.0.7") == Caller("10.0.0.7")


def test_keys_share_prefixes_where_that_is_wanted():
    callers = Callers(KEYS.identify, shares_prefixes=True)
    assert [callers.caller_of(f"Bearer {key}", "").cache_salt for key in ("sesame", "other")] == ["", ""]


def test_no_address_is_taken_for_a_key():
    assert Callers(KEYS.identify).caller_of(None, str(SESAME)) != Callers(KEYS.identify, True).caller_of(
        "Bearer sesame", ""
    )
