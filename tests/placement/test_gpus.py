import pytest

from expertmesh.errors import ConfigError
from expertmesh.placement.gpus import KNOWN, UNLIMITED, parse_offer


def test_a_known_kind():
    offer = parse_offer("l4=4@0.80")
    assert (offer.gpu, offer.count, offer.price) == (KNOWN["l4"], 4, 0.8)


def test_count_and_price_may_be_left_out():
    assert (parse_offer("t4").count, parse_offer("t4").price) == (UNLIMITED, 1.0)
    assert parse_offer("h100-mig-1g.10gb@2").price == 2


def test_another_kind_says_its_numbers():
    gpu = parse_offer("mine:32:900:200=2").gpu
    assert (gpu.name, gpu.memory_bytes, gpu.bandwidth, gpu.flops) == ("mine", 32e9, 900e9, 200e12)


@pytest.mark.parametrize("text", ["", "l4=", "l4=x", "l4@", "=4", "l4=4@-1", "mine:1:2=3", "l4 =4"])
def test_what_is_no_offer_is_refused(text: str):
    with pytest.raises(ConfigError, match="l4=4@0.80"):
        parse_offer(text)


def test_an_unknown_kind_is_named_with_those_known():
    with pytest.raises(ConfigError, match="'rtx9000' is unknown; one of t4, l4"):
        parse_offer("rtx9000=1")
