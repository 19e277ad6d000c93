"""Every message between an API process and the engine process. Knows what is said, not how it travels."""

import msgspec

from expertmesh.engine.messages import Cancel, ErrorInfo, Failed, Submit, Tokens
from expertmesh.gateway.snapshot import Snapshot
from expertmesh.wire.model_info import ModelInfo


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """So many steps of the loading are done, of so many."""

    done: int
    total: int


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is there, and requests may come."""

    model: ModelInfo


class Missing(msgspec.Struct, frozen=True, tag="missing"):
    """The experts that no replica hosts now; there may be none."""

    experts: tuple[int, ...]


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The model cannot be loaded; the engine process ends."""

    error: ErrorInfo


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """So many callers were sent away before they could put a request."""

    reason: str
    number: int


class AskSnapshot(msgspec.Struct, frozen=True, tag="ask_snapshot"):
    """Want to know what is counted."""


class SnapshotTaken(msgspec.Struct, frozen=True, tag="snapshot"):
    """What is counted now."""

    snapshot: Snapshot


ToEngine = Submit | Cancel | Refused | AskSnapshot
FromEngine = Loading | Loaded | Missing | Broken | Tokens | Failed | SnapshotTaken
