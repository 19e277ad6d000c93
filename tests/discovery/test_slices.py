import pytest
from fake_api_server import make_slice, pod

from expertmesh.discovery.endpoints import Endpoints
from expertmesh.discovery.slices import merge_slices

A = frozenset({"10.0.0.1:50051"})


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"ready": True}, Endpoints(A)),
        ({"ready": None}, Endpoints(A)),
        ({"ready": True, "serving": True, "terminating": False}, Endpoints(A)),
        ({"ready": True, "serving": None, "terminating": None}, Endpoints(A)),
        ({"ready": False}, Endpoints()),
        ({"ready": False, "serving": True}, Endpoints()),
        ({"ready": False, "serving": True, "terminating": True}, Endpoints(terminating=A)),
        ({"ready": True, "serving": True, "terminating": True}, Endpoints(terminating=A)),
        ({"ready": True, "terminating": True}, Endpoints(terminating=A)),
        ({"ready": False, "serving": False, "terminating": True}, Endpoints()),
        ({"ready": False, "terminating": True}, Endpoints()),
    ],
)
def test_conditions(conditions, expected):
    assert merge_slices([make_slice("experts", pod("10.0.0.1", **conditions))], "grpc") == expected


def test_conditions_may_be_missing():
    assert merge_slices([make_slice("experts", {"addresses": ["10.0.0.1"]})], "grpc") == Endpoints(A)


def test_an_address_that_moves_between_slices_is_eligible_if_it_is_in_one():
    leaving = make_slice("experts-a", pod("10.0.0.1", False, serving=True, terminating=True))
    assert merge_slices([leaving, make_slice("experts-b", pod("10.0.0.1"))], "grpc") == Endpoints(A)


def test_each_slice_has_a_port_of_its_own():
    slices = [make_slice("a", pod("10.0.0.1")), make_slice("b", pod("10.0.0.1"), port=7000)]
    assert merge_slices(slices, "grpc").eligible == {"10.0.0.1:50051", "10.0.0.1:7000"}


def test_addresses_of_ipv6_are_bracketed():
    assert merge_slices([make_slice("a", pod("fd00::1"))], "grpc").eligible == {"[fd00::1]:50051"}


@pytest.mark.parametrize("empty", [None, []])
def test_no_endpoints(empty):
    assert merge_slices([make_slice("a", empty=empty)], "grpc") == Endpoints()


@pytest.mark.parametrize("ports", [None, [], [{"name": "grpc", "port": None}], [{"name": "other", "port": 1}], [{}]])
def test_a_slice_without_the_port_is_left_out(ports):
    assert merge_slices([{**make_slice("a", pod("10.0.0.1")), "ports": ports}], "grpc") == Endpoints()
