from datetime import UTC, datetime, timedelta

import pytest

from expertmesh.gateway.keys import Key, Keys, Scope, digest_of

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


def test_a_key_is_found_by_its_secret_alone():
    first, second = (Key(digest_of(secret)) for secret in ("first", "sécond"))
    keys = Keys([first, second])
    assert keys.find("first") is first
    assert keys.find("sécond") is second
    for other in ("", "firs", "first2", "First", first.digest.hex()):
        assert keys.find(other) is None
    assert len(keys) == 2


def test_a_key_is_called_by_its_name_or_by_the_beginning_of_its_hash():
    assert Key(digest_of("secret"), "anna").id == "anna"
    assert Key(digest_of("secret")).id == "2bb80d537b1d"  # printf secret | sha256sum
    assert "2bb8" not in repr(Key(digest_of("secret"), "anna"))


@pytest.mark.parametrize(
    ("scopes", "reach"),
    [
        ({Scope.GENERATE}, {Scope.GENERATE}),
        ({Scope.LOAD}, {Scope.LOAD}),
        ({Scope.GENERATE, Scope.LOAD}, {Scope.GENERATE, Scope.LOAD}),
        ({Scope.ADMIN}, set(Scope)),
    ],
)
def test_a_key_reaches_as_far_as_its_scopes(scopes, reach):
    key = Key(digest_of("secret"), scopes=frozenset(scopes))
    assert {scope for scope in Scope if key.may(scope)} == reach


def test_a_key_expires_at_its_time():
    key = Key(digest_of("secret"), expires=NOON)
    assert not key.has_expired(NOON - timedelta(microseconds=1))
    assert key.has_expired(NOON)
    assert not Key(digest_of("secret")).has_expired(NOON)
