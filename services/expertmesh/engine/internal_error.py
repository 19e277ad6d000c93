"""What a caller is told of an error that nobody foresaw. Knows no request and no step."""

import logging

from expertmesh.engine.messages import EngineError
from expertmesh.errors import ExpertmeshError

_log = logging.getLogger(__name__)


def as_told(error: Exception, what: str) -> ExpertmeshError:
    """Return an error of ours as it is; log any other, with its traceback, as the failure of ``what``."""
    if isinstance(error, ExpertmeshError):
        return error
    _log.error("%s failed", what, exc_info=error)
    return EngineError(f"internal error ({type(error).__name__}); the gateway's log says more")
