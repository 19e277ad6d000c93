from dataclasses import replace

import pytest
from link_server import INFO

from expertmesh.mesh.identity import WeightsMismatchError, check_weights, digests_of
from expertmesh.mesh.replica import Replica

HASHED = replace(INFO, expert_digests=("aa", "bb", "cc", "dd"))


def replica_of(info):
    replica = Replica("one")
    replica.connect(object(), frozenset(info.experts), digests=digests_of(info))
    return replica


@pytest.mark.parametrize(
    "info",
    [INFO, HASHED, replace(HASHED, experts=(1, 2), expert_digests=("bb", "cc"))],
    ids=["not hashed", "the same", "a part"],
)
def test_replicas_with_the_same_digests_or_none_agree(info):
    check_weights(Replica("two"), info, [replica_of(HASHED)])
    check_weights(Replica("two"), HASHED, [replica_of(info)])


def test_one_that_differs_in_an_expert_that_both_host_is_refused():
    other = replace(HASHED, experts=(2, 3), expert_digests=("cc", "ee"))
    with pytest.raises(WeightsMismatchError, match="two holds expert 3 of SHA-256 ee, one of dd"):
        check_weights(Replica("two"), other, [replica_of(HASHED)])


def test_one_that_is_gone_does_not_matter():
    gone = replica_of(HASHED)
    gone.retire()
    check_weights(Replica("two"), replace(HASHED, expert_digests=("xx",) * 4), [gone])
