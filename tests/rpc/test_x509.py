from datetime import UTC, datetime

import pytest
from certificates import Authority
from cryptography import x509

from expertmesh.errors import ConfigError
from expertmesh.rpc.x509 import Validity, validities

DATES = [datetime(year, 2, 28, 23, 59, 58, tzinfo=UTC) for year in (1950, 1999, 2000, 2024, 2049, 2050, 9999)]


@pytest.mark.parametrize(("begin", "end"), list(zip(DATES, DATES[1:], strict=False)))
def test_dates_are_those_that_cryptography_reads(begin, end, tmp_path):
    pem = Authority(tmp_path).issue("one", begin=begin, end=end).cert.read_bytes()
    oracle = x509.load_pem_x509_certificate(pem)
    assert validities(pem) == [(oracle.not_valid_before_utc, oracle.not_valid_after_utc)] == [Validity(begin, end)]


def test_each_certificate_of_a_chain_is_read_and_what_lies_between_is_not(tmp_path):
    authority = Authority(tmp_path)
    leaf = authority.issue("leaf", begin=DATES[2], end=DATES[3])
    both = b"# leaf\n" + leaf.cert.read_bytes() + leaf.key.read_bytes() + authority.ca.read_bytes()
    found = validities(both)
    assert found == [
        (one.not_valid_before_utc, one.not_valid_after_utc) for one in x509.load_pem_x509_certificates(both)
    ]
    assert validities(leaf.key.read_bytes()) == []


@pytest.mark.parametrize("body", ["AAAA", "MAA=", "MAMCAQA=", "!!!!", "MIL/"])
def test_what_only_looks_like_a_certificate_is_refused(body):
    pem = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
    with pytest.raises(ConfigError, match="cannot be read"):
        validities(pem.encode())
