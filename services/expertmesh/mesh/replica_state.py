"""Whether a replica can be called, in one word. Knows the words, not what they are said of."""

from enum import Enum


class ReplicaState(Enum):
    """Whether a replica can be called; names as in ``load.proto``, which says what each means."""

    READY = "ready"
    CONNECTING = "connecting"
    EJECTED = "ejected"
    RETIRED = "retired"
