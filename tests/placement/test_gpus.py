import pytest

from expertmesh.errors import ConfigError
from expertmesh.placement.gpus import KNOWN, UNLIMITED, Offer, find_known, offer_found, parse_offer


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


@pytest.mark.parametrize(
    ("name", "mebibytes", "known"),
    [
        ("Tesla T4", 15360, "t4"),
        ("NVIDIA L4", 23034, "l4"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", 81559, "h100"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9984, "h100-mig-1g.10gb"),
        ("NVIDIA H200", 143771, "h200"),
        ("AMD Instinct MI300X", 196592, "mi300x"),
    ],
)
def test_a_gpu_is_known_by_what_its_driver_says(name: str, mebibytes: int, known: str):
    assert find_known(name, mebibytes * 2**20) == KNOWN[known]


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [("NVIDIA A10G", 23028), ("NVIDIA H100 80GB HBM3 MIG 4g.40gb", 40448), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4864)],
)
def test_one_of_another_name_or_size_is_not(name: str, mebibytes: int):
    assert find_known(name, mebibytes * 2**20) is None


def test_gpus_that_were_found_are_offered_by_kind():
    card, piece = ("NVIDIA L4", 24 * 10**9), ("Tesla T4", 16 * 10**9)
    assert offer_found([card, piece, card]) == [Offer(KNOWN["l4"], 2, 1.0), Offer(KNOWN["t4"], 1, 1.0)]
    with pytest.raises(ConfigError, match="no GPU is found here; --gpu says what there is"):
        offer_found([])
    with pytest.raises(ConfigError, match="'NVIDIA A10G', which is in this machine, is not known; --gpu NAME:24:BAND"):
        offer_found([card, ("NVIDIA A10G", 24 * 10**9)])
