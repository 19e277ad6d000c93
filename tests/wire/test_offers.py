import pytest

from expertmesh.v1 import expert_pb2
from expertmesh.wire.failures import WireError
from expertmesh.wire.offers import LinkOffer, SocketKind, decode_kind, decode_offer, encode_kind, encode_offer


@pytest.mark.parametrize("address", ["/tmp/somewhere", 50051])
def test_an_offer_arrives_as_it_was_sent_and_hides_its_token(address):
    offer = LinkOffer(address, b"secret", 2.5)
    assert decode_offer(encode_offer(offer)) == offer
    assert "secret" not in repr(offer)


@pytest.mark.parametrize("kind", SocketKind)
def test_a_kind_arrives_as_it_was_sent(kind):
    assert decode_kind(encode_kind(kind)) is kind


def test_what_names_no_address_or_no_kind_is_refused():
    with pytest.raises(WireError, match="names no address"):
        decode_offer(expert_pb2.OpenLinkResponse(token=b"secret"))
    with pytest.raises(WireError, match="transport 0 is unknown"):
        decode_kind(expert_pb2.OpenLinkRequest())
