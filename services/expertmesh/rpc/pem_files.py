"""PEM files of a certificate, its key and authorities: read, checked, and read again once they change.

Knows files and dates, not who connects.
"""

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, NamedTuple, NoReturn, TypeVar

from expertmesh.errors import ConfigError
from expertmesh.rpc.x509 import validities

_log = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]

_MISMATCH = "KEY_VALUES_MISMATCH"
# Files that change while they are read are read again; whoever writes them is done by then.
MAX_READS = 5


class Pem(NamedTuple):
    """What files hold; None where there is no such file."""

    chain: bytes | None
    key: bytes | None
    authorities: bytes | None


@dataclass(frozen=True)
class PemFiles:
    """A certificate with those between it and its authority, its key, and the authorities whose certificates count."""

    chain: Path | None
    key: Path | None
    authorities: Path | None

    def read(self) -> Pem:
        """Read and check them; ConfigError names the file that cannot be used."""
        pem = Pem(*(_read(path) if path else None for path in (self.chain, self.key, self.authorities)))
        if self.chain and pem.chain is not None:
            _check_dates(self.chain, pem.chain, all)
        if self.authorities and pem.authorities is not None:
            # Bundles keep some that are too old.
            _check_dates(self.authorities, pem.authorities, any)
        return pem

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have ``context`` use them; ConfigError when they cannot be used, or not together."""
        if self.chain and self.key:
            try:
                context.load_cert_chain(self.chain, self.key, password=self._refuse_password)
            except (OSError, ValueError) as error:
                raise ConfigError(self._explain(error)) from error
        if self.authorities:
            try:
                context.load_verify_locations(self.authorities)
            except OSError as error:
                raise ConfigError(f"{self.authorities} holds no certificates in PEM: {error}") from error

    def stamp(self) -> Stamp:
        """Return what changes when one of them is replaced or written."""
        return tuple(_stamp(path) if path else None for path in (self.chain, self.key, self.authorities))

    def _refuse_password(self) -> NoReturn:
        raise ConfigError(f"the key in {self.key} has a password; one without would be right")

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLError) and error.reason == _MISMATCH:
            return f"the key in {self.key} is not that of the certificate in {self.chain}"
        return f"{self.chain} and {self.key} are no certificate and its key in PEM: {error}"


class Reloading(Generic[T]):
    """What ``make`` makes of files, made anew once they have changed. Any thread may ask.

    ConfigError at first when they cannot be used; later what was made before stays, and the log says why.
    """

    def __init__(self, files: PemFiles, make: Callable[[PemFiles, Pem], T]) -> None:
        self._files = files
        self._make = make
        self._lock = threading.Lock()
        self._stamp, self._made = self._read()

    def get(self) -> T:
        """Return what the files are now."""
        with self._lock:
            if (stamp := self._files.stamp()) != self._stamp:
                try:
                    self._stamp, self._made = self._read()
                except ConfigError as error:
                    self._stamp = stamp  # said once
                    _log.error("keeping the certificate from before: %s", error)
                else:
                    _log.info("read anew: %s", self._files)
            return self._made

    def _read(self) -> tuple[Stamp, T]:
        """Read files that do not change meanwhile, as bytes and by OpenSSL, which takes paths alone."""
        for attempt in range(MAX_READS):
            stamp = self._files.stamp()
            try:
                made = self._make(self._files, self._files.read())
            except ConfigError:
                if self._files.stamp() == stamp or attempt == MAX_READS - 1:
                    raise
            else:
                if self._files.stamp() == stamp:
                    return stamp, made
        raise ConfigError(f"{self._files} change while they are read; files that stay as they are would be right")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _check_dates(path: Path, pem: bytes, suffice: Callable[[list[bool]], bool]) -> None:
    try:
        found = validities(pem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not found:
        raise ConfigError(f"{path} holds no certificate in PEM")
    now = datetime.now(UTC)
    if not suffice([begin <= now <= end for begin, end in found]):
        begin, end = next(one for one in found if not one.begin <= now <= one.end)
        raise ConfigError(f"the certificate in {path} is valid from {begin:%F %T} to {end:%F %T} UTC, not now")
