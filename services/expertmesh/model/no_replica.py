"""What to do where an expert has no replica, and the words for it. Plain Python: settings name it."""

from enum import IntEnum


class NoReplica(IntEnum):
    """What to do without an expert: wait for it, fail at once, or go on with the others that were chosen."""

    WAIT = 0
    FAIL = 1
    DROP = 2


WORDS = {policy.name.lower(): policy for policy in NoReplica}
# Of a request that does not say.
UNSAID = -1
