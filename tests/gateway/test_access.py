import pytest

from expertmesh.errors import ForbiddenError, UnauthenticatedError
from expertmesh.gateway.access import Access
from expertmesh.gateway.key_ring import KeyRing
from expertmesh.gateway.keys import Scope
from expertmesh.gateway.refusals import Refusal, Refusals

LINES = """
plain
generates name=anna scopes=generate
watches name=bert scopes=load
expired name=carl expires=2020-01-31
"""


def unheard(reason: str) -> None:
    raise AssertionError(reason)


@pytest.fixture
def access(tmp_path) -> Access:
    path = tmp_path / "keys"
    path.write_text(LINES)
    return Access(KeyRing(["sécond"], path), Refusals(unheard))


def test_without_keys_everybody_may_do_everything():
    access = Access(KeyRing(), Refusals(unheard))
    for scope in Scope:
        assert access.check(None, scope, "it") is None
        assert access.check("Bearer anything", scope, "it") is None


@pytest.mark.parametrize("authorization", ["Bearer plain", "bearer plain", "Bearer  plain ", "Bearer sécond"])
def test_a_key_without_scopes_may_do_everything(access, authorization):
    assert all(access.check(authorization, scope, "it") for scope in Scope)


@pytest.mark.parametrize(("secret", "own"), [("generates", Scope.GENERATE), ("watches", Scope.LOAD)])
def test_a_key_with_scopes_may_do_what_they_say(access, secret, own):
    assert access.check(f"Bearer {secret}", own, "it").id in ("anna", "bert")
    for scope in set(Scope) - {own}:
        with pytest.raises(ForbiddenError, match=rf"good for {own}; /it asks for {scope}$") as error:
            access.check(f"Bearer {secret}", scope, "/it")
        assert error.value.reason == Refusal.MISSING_SCOPE


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, Refusal.NO_KEY),
        ("", Refusal.NO_KEY),
        ("Bearer", Refusal.NO_KEY),
        ("Bearer ", Refusal.NO_KEY),
        ("plain", Refusal.NO_KEY),
        ("Basic plain", Refusal.NO_KEY),
        ("Bearer plai", Refusal.UNKNOWN_KEY),
        ("Bearer plain2", Refusal.UNKNOWN_KEY),
        ("Bearer expired", Refusal.EXPIRED_KEY),
    ],
)
def test_others_are_refused(access, authorization, reason):
    with pytest.raises(UnauthenticatedError) as error:
        access.check(authorization, Scope.GENERATE, "it")
    assert error.value.reason == reason


def test_who_has_an_expired_key_hears_since_when(access):
    with pytest.raises(UnauthenticatedError, match="API key carl has expired: 2020-01-31 00:00:00"):
        access.check("Bearer expired", Scope.GENERATE, "it")
