"""What ``up`` prints: the lines of its processes, how far they are, and what to try once they are ready."""

from contextlib import ExitStack

from expertmesh.cli.progress import progress_bar

QUESTION = "What is 291 - 150?"


class MeshOutput:
    """Prints the lines of all processes, with a progress bar below them until every process is ready."""

    def __init__(self, gateway: str, num_programs: int, starting: ExitStack) -> None:
        """``gateway`` is the name of the one program that users talk to."""
        self._gateway = gateway
        self._num_programs = num_programs
        self._addresses: dict[str, str] = {}
        self._starting = starting
        self._report = starting.enter_context(progress_bar("starting"))
        self._report(0, num_programs)

    def show(self, name: str, line: str) -> None:
        """Print a line of the program ``name``."""
        print(f"[{name}] {line}", flush=True)

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
        """Print commands that work as they stand, where the gateway wants no key."""
        for suggestion in suggestions(self._addresses[self._gateway].split()):
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
