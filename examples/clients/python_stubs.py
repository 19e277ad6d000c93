"""Stream an answer with nothing but grpcio and the generated stubs.

Usage: PYTHONPATH=protos/gen python examples/clients/python_stubs.py [ADDRESS] [QUESTION]

ADDRESS is 127.0.0.1:50051 unless given. EXPERTMESH_API_KEY is sent along where it is set.
"""

import os
import sys

import grpc

from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc


def main(address: str = "127.0.0.1:50051", question: str = "What is 291 - 150?") -> None:
    """Ask, and print the pieces as they come."""
    request = pb.ChatRequest(
        messages=[pb.ChatMessage(role="user", content=question)],
        sampling=pb.SamplingParams(max_tokens=48),
        output=pb.OutputParams(stop=["\n"]),
    )
    key = os.environ.get("EXPERTMESH_API_KEY")
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    with grpc.insecure_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        for response in stub.Chat(request, metadata=metadata, timeout=60):
            print(response.delta.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
