import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from certificates import DAY, Authority

from expertmesh.errors import ConfigError
from expertmesh.rpc.pem_files import MAX_READS, PemFiles, Reloading
from expertmesh.rpc.tls import TlsClient, TlsServer
from expertmesh.settings.tls import ClientTls, ServerTls

NOW = datetime.now(UTC)


def serve(cert, key, client_ca=None):
    return TlsServer(ServerTls(cert, key, client_ca))


def test_a_file_that_is_not_there_is_named(tmp_path):
    one, missing = Authority(tmp_path).issue("one"), tmp_path / "missing.pem"
    for files in ((missing, one.key), (one.cert, missing), (one.cert, one.key, missing)):
        with pytest.raises(ConfigError, match=f"{missing}"):
            serve(*files)
    with pytest.raises(ConfigError, match=f"cannot read {missing}: No such file"):
        TlsClient(ClientTls(missing))


def test_what_cannot_be_read_is_named(tmp_path):
    one = Authority(tmp_path).issue("one")
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}: Is a directory"):
        serve(one.cert, tmp_path)


def test_a_key_of_another_certificate_is_named(tmp_path):
    authority = Authority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(ConfigError, match=f"the key in {other.key} is not that of the certificate in {one.cert}"):
        serve(one.cert, other.key)


def test_a_key_with_a_password_is_named_and_nobody_is_asked_for_it(tmp_path):
    one = Authority(tmp_path).issue("one", password=b"secret")
    with pytest.raises(ConfigError, match=f"the key in {one.key} has a password"):
        serve(one.cert, one.key)


@pytest.mark.parametrize(
    "validity", [{"end": NOW - DAY, "begin": NOW - 2 * DAY}, {"begin": NOW + DAY, "end": NOW + 2 * DAY}]
)
def test_a_certificate_that_is_not_valid_now_is_named_with_its_dates(validity, tmp_path):
    one = Authority(tmp_path).issue("one", **validity)
    with pytest.raises(ConfigError, match=f"{one.cert} is valid from {validity['begin']:%F %T} to .* UTC, not now"):
        serve(one.cert, one.key)


def test_authorities_may_be_old_but_not_all_of_them(tmp_path):
    old = Authority(tmp_path, "old", begin=NOW - 2 * DAY, end=NOW - DAY).ca
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(old.read_bytes() + Authority(tmp_path, "new").ca.read_bytes())
    TlsClient(ClientTls(bundle))
    with pytest.raises(ConfigError, match=f"{old} is valid"):
        TlsClient(ClientTls(old))


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_named(content, tmp_path):
    one, junk = Authority(tmp_path).issue("one"), tmp_path / "junk.pem"
    junk.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{junk}"):
        serve(junk, one.key)
    with pytest.raises(ConfigError, match=f"{junk}"):
        serve(one.cert, one.key, junk)
    if content != b"":
        return
    with pytest.raises(ConfigError, match=f"{junk} are no certificate and its key"):
        serve(one.cert, junk)


def make_reloading(file: Path, make=lambda files, pem: pem.authorities):
    return Reloading(PemFiles(None, None, file), make)


def test_what_was_made_stays_until_the_file_changes_and_where_the_new_one_is_wrong(tmp_path, caplog):
    authority = Authority(tmp_path)
    before = authority.ca.read_bytes()
    reloading = make_reloading(authority.ca)
    assert reloading.get() is reloading.get() and reloading.get() == before
    authority.ca.write_bytes(b"half of a")
    with caplog.at_level(logging.ERROR):
        assert [reloading.get() for _ in range(3)] == [before] * 3
    assert [record.message for record in caplog.records] == [
        f"keeping the certificate from before: {authority.ca} holds no certificate in PEM"
    ]
    authority.ca.unlink()
    assert reloading.get() == before
    after = Authority(tmp_path, "another").ca.read_bytes()
    authority.ca.write_bytes(after)
    assert reloading.get() == after


def test_files_that_change_while_they_are_read_are_read_again(tmp_path):
    file, reads = Authority(tmp_path).ca, []

    def make(files, pem):
        reads.append(pem.authorities)
        if len(reads) == 1:
            file.write_bytes(pem.authorities + b"# more\n")
        return pem.authorities

    assert make_reloading(file, make).get() == file.read_bytes() == reads[1]
    assert len(reads) == 2


def test_files_that_never_come_to_rest_are_refused(tmp_path):
    file = Authority(tmp_path).ca

    def make(files, pem):
        file.write_bytes(pem.authorities + b"#")

    with pytest.raises(ConfigError, match="change while they are read"):
        make_reloading(file, make)
    assert file.read_bytes().endswith(b"#" * MAX_READS)
