"""Runs inside a gateway's pod: asks over ever new connections until COUNT processes have answered.

python ask_processes.py HTTP_PORT COUNT prints the texts of each process, by its id, as JSON.
"""

import json
import sys
from collections import defaultdict
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path

# Each process gets a random part of the connections: that one of two gets none of so many does not happen.
MAX_CONNECTIONS = 60
TIMEOUT_SECONDS = 60
BODY = {"prompt": "What is 291 - 150?", "max_tokens": 6, "temperature": 0}


def ask(connection):
    """One answer."""
    connection.request("POST", "/v1/completions", json.dumps(BODY), {"Content-Type": "application/json"})
    return json.loads(connection.getresponse().read())["choices"][0]["text"]


def find_server(connection):
    """The id of the process at the other end of a connection inside this pod."""
    inode = find_inode(local=connection.port, remote=connection.sock.getsockname()[1])
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(descriptor.readlink()) == f"socket:[{inode}]":
                return int(descriptor.parts[2])
    raise LookupError(f"no process has the socket {inode}")


def find_inode(local, remote):
    """The number of the socket with these ports."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(address.rpartition(":")[2], 16) for address in fields[1:3]] == [local, remote]:
            return fields[9]
    raise LookupError(f"no connection from port {remote} to port {local}")


def main(port, count):
    """Ask and print."""
    texts = defaultdict(list)
    for _ in range(MAX_CONNECTIONS):
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)) as connection:
            text = ask(connection)
            texts[find_server(connection)].append(text)
        if len(texts) == count:
            break
    print(json.dumps(texts))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
