"""The keys that a gateway takes at a time: those of its flags, and those of a file that may change under it.

Knows files and when to read them, not what a line means.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from expertmesh.errors import ConfigError
from expertmesh.gateway.key_lines import count_plain, parse_lines, parse_words
from expertmesh.gateway.keys import Key, Keys

_log = logging.getLogger(__name__)

# Secrets of Kubernetes are replaced by links and may look untouched: it is the text that is compared, so often.
WATCH_SECONDS = 1.0


class KeyRing:
    """Reads ``path`` at once, and again in ``reload`` and while ``run`` runs; a broken file changes nothing then.

    ConfigError for a file or ``secrets`` that cannot be right at the start.
    """

    def __init__(self, secrets: Sequence[str] = (), path: Path | None = None) -> None:
        self._fixed = parse_words(secrets)
        self._path = path
        self._text: str | None = None
        self._complaint = ""
        self._keys = Keys(self._fixed)
        if path is not None:
            self._take(path, *_read(path))

    @property
    def is_open(self) -> bool:
        """Whether everybody may call: nobody has asked for keys."""
        return not self._keys

    def find(self, secret: str) -> Key | None:
        """Return the key that ``secret`` is, expired or not."""
        return self._keys.find(secret)

    def reload(self) -> None:
        """Read the file again, if there is one; where it is broken, keep the keys and log what is wrong, once."""
        if self._path is None:
            return
        try:
            text, is_shown = _read(self._path)
            self._complaint = ""
            if text != self._text:
                self._take(self._path, text, is_shown)
                _log.info("read %s again: %d API keys are taken", self._path, len(self._keys))
        except ConfigError as error:
            if str(error) != self._complaint:
                _log.error("%s; the keys from before go on being taken", error)
            self._complaint = str(error)

    async def run(self) -> None:
        """Take each change of the file until cancelled."""
        while self._path is not None:
            await asyncio.sleep(WATCH_SECONDS)
            await asyncio.to_thread(self.reload)

    def _take(self, path: Path, text: str, is_shown: bool) -> None:
        self._text = text
        self._keys = Keys((*self._fixed, *parse_lines(text, str(path))))
        if is_shown:
            _log.warning("%s can be read by every user of this machine; chmod 600 would be right", path)
        if num_plain := count_plain(text):
            _log.warning("%s holds %d keys as they are; sha256: and what sha256sum says would do", path, num_plain)


def _read(path: Path) -> tuple[str, bool]:
    """Return the text, and whether every user may read it though that could be changed, unlike on a Secret's mount."""
    try:
        with path.open() as file:
            is_read_only = os.fstatvfs(file.fileno()).f_flag & os.ST_RDONLY
            is_shown = os.fstat(file.fileno()).st_mode & stat.S_IROTH and not is_read_only
            return file.read(), bool(is_shown)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the API keys in {path}: {error}") from error
