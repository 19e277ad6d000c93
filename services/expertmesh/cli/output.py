"""What ``up`` prints: the lines of its processes, how far they are, and what to try once they are ready."""

import json
import shlex
from contextlib import ExitStack
from dataclasses import dataclass

from expertmesh.cli.line_writer import open_output
from expertmesh.cli.printable import printable
from expertmesh.cli.progress import progress_bar

QUESTION = "What is 291 - 150?"
KEY = "EXPERTMESH_API_KEY"
CA = "EXPERTMESH_CA"


class MeshOutput:
    """Prints the lines of all processes, with a progress bar below them until every process is ready."""

    def __init__(self, gateway: str, asking: "Asking", num_programs: int, starting: ExitStack) -> None:
        """``gateway`` is the name of the one program that users talk to, by ``asking`` as that says."""
        self._gateway = gateway
        self._asking = asking
        self._num_programs = num_programs
        self._addresses: dict[str, str] = {}
        self._starting = starting
        self._write = open_output()
        self._report = starting.enter_context(progress_bar("starting"))
        self._report(0, num_programs)

    def show(self, name: str, line: str) -> None:
        """Print a line of the program ``name``."""
        self._write(f"[{name}] {printable(line)}")

    def ready(self, name: str, addresses: str) -> None:
        """Note that the program ``name`` serves, and where; one that was started again is no news."""
        if name in self._addresses:
            return
        self._addresses[name] = addresses
        self._report(len(self._addresses), self._num_programs)
        if len(self._addresses) == self._num_programs:
            self._starting.close()
            self._suggest()

    def _suggest(self) -> None:
        """Print commands that work as they stand."""
        for suggestion in suggestions(self._addresses[self._gateway].split(), self._asking):
            self._write(suggestion)


@dataclass(frozen=True)
class Asking:
    """What a request has to say: the name of the model, and whether it needs a key and goes over TLS."""

    model: str
    needs_key: bool = False
    has_tls: bool = False


def suggestions(addresses: list[str], asking: Asking) -> list[str]:
    """Say how to ask a gateway at ``addresses``: host:port, and the URL of its HTTP API if it has one.

    A key is where no screen shows it: in the variable that ``expertmesh generate`` reads, too.
    """
    grpc, *http = addresses
    return [
        *([f"[up] first: export {KEY}=...  # one of the keys, if it is not there already"] if asking.needs_key else []),
        *([f"[up] first: export {CA}=...  # PEM file of the certificate's authority"] if asking.has_tls else []),
        f'[up] try: expertmesh generate "{QUESTION}" --endpoint {grpc}',
        *(f"[up] or:  {_curl(url, asking)}" for url in http),
        *(f"[up] chat: {url}/" for url in http),
    ]


def _curl(url: str, asking: Asking) -> str:
    body = json.dumps({"model": asking.model, "messages": [{"role": "user", "content": QUESTION}]})
    # The variable may hold several, of which one is shown.
    key = f'-H "authorization: Bearer ${{{KEY}%% *}}" ' if asking.needs_key else ""
    authority = f'--cacert "${CA}" ' if asking.has_tls else ""
    return f"curl {authority}{url}/v1/chat/completions {key}-H 'content-type: application/json' -d {shlex.quote(body)}"
