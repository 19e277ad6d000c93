"""Ask an expert server what it is, with one certificate or another; prints the status of each as JSON.

python ask_expert.py ENDPOINT SERVER_NAME DIRECTORY, where DIRECTORY has ca.crt, tls.crt and tls.key.
"""

import json
import sys
from pathlib import Path

import grpc

from expertmesh.rpc.channels import open_blocking_channel
from expertmesh.rpc.tls import open_client
from expertmesh.settings.tls import ClientTls
from expertmesh.v1 import expert_pb2, expert_pb2_grpc

SECONDS = 20


def ask(endpoint: str, tls: ClientTls) -> str:
    """Return the name of the status that the question ends with."""
    with open_blocking_channel(endpoint, open_client(tls)) as channel:
        try:
            expert_pb2_grpc.ExpertServiceStub(channel).GetInfo(expert_pb2.GetInfoRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def main() -> None:
    """Ask in every way."""
    endpoint, name, directory = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    ca, cert, key = (directory / file for file in ("ca.crt", "tls.crt", "tls.key"))
    ways = {
        "in the clear": ClientTls(),
        "without a certificate": ClientTls(ca, server_name=name),
        "with the one here": ClientTls(ca, cert, key, name),
    }
    print(json.dumps({way: ask(endpoint, tls) for way, tls in ways.items()}))


if __name__ == "__main__":
    main()
