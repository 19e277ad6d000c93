"""expertmesh on one device, with experts in processes of their own and with all in the gateway's.

Usage: python -m peers.gpu_mesh CHECKPOINT DEVICE SERVERS CASE...; SERVERS are numbers of expert servers, such as 1,8.
Prints a line of JSON per way to run: its name, and tokens per second by case.
"""

import json
import sys
from functools import partial

from peers.cases import measure
from peers.mesh import rate_at, serving


def main() -> None:
    """Serve in each way, measure, print."""
    model, device, servers, cases = sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4:]
    where = ("--model", model, "--device", device)
    ways: dict[str, tuple[str, ...]] = {"expertmesh local": ("gateway", *where, "--local-experts")}
    ways |= {f"expertmesh {count} servers": ("up", *where, "--expert-servers", count) for count in servers}
    for name, command in ways.items():
        with serving(*command) as endpoint:
            rates = measure(partial(rate_at, endpoint), cases)
        print(json.dumps([name, rates]), flush=True)


if __name__ == "__main__":
    main()
