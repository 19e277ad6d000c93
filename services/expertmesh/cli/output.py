"""What ``up`` prints: the lines of its processes, how far they are, and what to try once they are ready."""

from contextlib import ExitStack

from expertmesh.cli.progress import progress_bar

READY = "ready: "
GATEWAY_READY = READY + "gateway on "
QUESTION = "What is 291 - 150?"


class MeshOutput:
    """Prints the lines of all processes, with a progress bar below them until every process is ready."""

    def __init__(self, num_programs: int, starting: ExitStack) -> None:
        self._num_programs = num_programs
        self._ready: set[str] = set()
        self._starting = starting
        self._report = starting.enter_context(progress_bar("starting"))
        self._report(0, num_programs)

    def show(self, name: str, line: str) -> None:
        """Print a line of the program ``name``."""
        print(f"[{name}] {line}", flush=True)
        if line.startswith(READY):
            self._ready.add(line)
            self._report(len(self._ready), self._num_programs)
            if len(self._ready) == self._num_programs:
                self._starting.close()
                self._suggest()

    def _suggest(self) -> None:
        """Print commands that work as they stand, where the gateway wants no key."""
        addresses = next(line for line in self._ready if line.startswith(GATEWAY_READY)).removeprefix(GATEWAY_READY)
        for suggestion in suggestions(addresses.split(", ")):
            print(suggestion, flush=True)


def suggestions(addresses: list[str]) -> list[str]:
    """Say how to ask a gateway at ``addresses``: host:port, and the URL of its HTTP API if it has one."""
    grpc, *http = addresses
    return [
        f'[up] try: expertmesh generate "{QUESTION}" --endpoint {grpc}',
        *(f"[up] or:  {_curl(url)}" for url in http),
    ]


def _curl(url: str) -> str:
    body = f'{{"model": "dummy", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    return f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
