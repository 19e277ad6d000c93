"""The errors of expertmesh. Each message names the value that was found and what would be right."""

# What a client reads of an error, characters: messages quote what was sent, which may be long.
MAX_TOLD = 1000


def shortened(text: str, most: int = MAX_TOLD) -> str:
    """Cut a text to ``most`` characters and a mark, by default to what a client is told."""
    return text if len(text) <= most else f"{text[:most]}..."


class ExpertmeshError(Exception):
    """Anything that went wrong and that expertmesh has words for."""


class CheckpointError(ExpertmeshError):
    """A model directory is missing something, is damaged or is of a kind that is not supported."""


class InvalidRequestError(ExpertmeshError):
    """A request asks for something that cannot be done; it names the field and the value.

    ``param`` is the field where a single one is to blame.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLongError(InvalidRequestError):
    """A prompt does not fit the context of the served model."""


class QueueFullError(ExpertmeshError):
    """So many requests wait already that one more is refused; it may be sent again later."""


class ConfigError(ExpertmeshError):
    """A flag or a combination of flags cannot be right."""


class FingerprintMismatchError(ExpertmeshError):
    """A replica serves another model than this gateway."""


class ExpertUnavailableError(ExpertmeshError):
    """No replica of an expert could answer in time."""


class ShuttingDownError(ExpertmeshError):
    """The server ends, and the time that it gave to running requests is over; another may answer."""


class StillLoadingError(ExpertUnavailableError):
    """The model is not loaded yet; the request may be sent again later."""


class ComputeError(ExpertmeshError):
    """A kernel failed or produced a value that is not finite; the message names layer and expert."""


class AccessDeniedError(ExpertmeshError):
    """A caller may not have what it asks for; ``reason`` says why in one word, where that is known."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class UnauthenticatedError(AccessDeniedError):
    """A caller has no key, or one that is wrong or expired."""


class ForbiddenError(AccessDeniedError):
    """A caller's key is not good for what it asks for."""


class GatewayError(ExpertmeshError):
    """A gateway cannot be reached or failed to answer."""


class GatewayBusyError(GatewayError):
    """A gateway has so many requests waiting that it refuses one more for now."""


class GatewayTimeoutError(GatewayError):
    """A gateway did not finish within the time that its caller gave it."""


class ApiKeyError(GatewayError):
    """A gateway wants an API key, or another one, or one that is good for more."""
