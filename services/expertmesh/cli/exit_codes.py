"""What each exit code says, and which error has which."""

from expertmesh.errors import CheckpointError, ConfigError, ExpertmeshError, GatewayError, InvalidRequestError

FAILED = 1
USAGE = 2
MODEL = 3
GATEWAY = 4
INTERRUPTED = 130

TEXT = (
    "Exit codes: 0 success, 1 failed while running or lacks a package, 2 wrong flag or value, 3 the model cannot be "
    "served, 4 the gateway cannot be reached or failed, 130 interrupted."
)


def exit_code(error: ExpertmeshError) -> int:
    """Choose the exit code for an error."""
    if isinstance(error, ConfigError | InvalidRequestError):
        return USAGE
    if isinstance(error, CheckpointError):
        return MODEL
    return GATEWAY if isinstance(error, GatewayError) else FAILED


def child_error(message: str, code: int) -> ExpertmeshError:
    """Make the error of a process whose child ended with ``code``: what was wrong for the child is wrong for it."""
    kind = {USAGE: ConfigError, MODEL: CheckpointError}.get(code, ExpertmeshError)
    return kind(message)
