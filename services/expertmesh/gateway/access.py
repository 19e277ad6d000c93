"""Who may do what, for every door of a gateway. Knows keys and scopes, no transport."""

from expertmesh.errors import ForbiddenError, UnauthenticatedError
from expertmesh.gateway.key_ring import KeyRing
from expertmesh.gateway.keys import Key, Scope
from expertmesh.gateway.refusals import Refusal, Refusals
from expertmesh.rpc.metadata import API_KEY_KEY


class Access:
    """Lets those in who present a key of ``ring`` that is good for what they ask; everybody, where that is open.

    Doors tell ``note`` of each whom ``check`` refuses, and where from.
    """

    def __init__(self, ring: KeyRing, refusals: Refusals) -> None:
        self._ring = ring
        self.note = refusals.note

    def check(self, authorization: str | None, scope: Scope, what: str) -> Key | None:
        """Return the key in the value of an authorization header, None where none is asked for.

        UnauthenticatedError or ForbiddenError for a caller who may not have ``what``, which asks for ``scope``.
        """
        if self._ring.is_open:
            return None
        key = self._find(authorization)
        if not key.may(scope):
            held = ", ".join(sorted(key.scopes))
            what_is_wrong = f"the API key {key.id} is good for {held}; {what} asks for {scope}"
            raise ForbiddenError(what_is_wrong, Refusal.MISSING_SCOPE)
        return key

    def identify(self, authorization: str | None) -> str | None:
        """Return the id of the key in the value of an authorization header, None where it holds none that is known."""
        key = self._ring.find(_secret(authorization))
        return key.id if key else None

    def _find(self, authorization: str | None) -> Key:
        secret = _secret(authorization)
        key = self._ring.find(secret)
        if key is None:
            reason = Refusal.UNKNOWN_KEY if secret else Refusal.NO_KEY
            raise UnauthenticatedError(f"an API key is missing or wrong; send it as {API_KEY_KEY}: Bearer KEY", reason)
        if key.has_expired():
            raise UnauthenticatedError(f"the API key {key.id} has expired: {key.expires}", Refusal.EXPIRED_KEY)
        return key


def _secret(authorization: str | None) -> str:
    scheme, _, presented = (authorization or "").partition(" ")
    return presented.strip() if scheme.lower() == "bearer" else ""
