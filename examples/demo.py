"""The demo: a mesh of processes on this machine answers questions over gRPC, and shows which experts worked.

Usage: make demo

Exit code 0 only if every answer is right.
"""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from expertmesh.client import AsyncClient, Load, Sampling
from expertmesh.rpc.sockets import free_port

MODEL = Path(__file__).parent / "tiny-mixtral" / "awq"
NUM_EXPERT_SERVERS = 4
START_SECONDS = 120
BAR_WIDTH = 18

# Each conversation is asked turn by turn; what the model answered stays in the history.
CONVERSATIONS = (
    (("What is 291 - 150?", "141"),),
    (("Add 123 and 45.", "168"),),
    (("Translate 'red' from English to French.", "rouge"),),
    (("Translate the German word 'Montag' into Spanish.", "lunes"),),
    (("Spell 'tiger'.", "t-i-g-e-r"),),
    (
        ("Hello!", "Hello! How can I help you?"),
        ("My name is Anna.", "Nice to meet you, Anna!"),
        ("What is my name?", "Your name is Anna."),
    ),
)

console = Console(highlight=False)


def main() -> None:
    """Start the mesh, ask, show the load, stop the mesh."""
    endpoint = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "expertmesh.cli.main", "up", "--model", str(MODEL), "--listen", endpoint]
    mesh = subprocess.Popen([*command, "--http-listen", "127.0.0.1:0", "--expert-servers", str(NUM_EXPERT_SERVERS)])
    try:
        num_wrong = asyncio.run(show(endpoint, mesh))
    finally:
        mesh.send_signal(signal.SIGINT)
        code = mesh.wait()
    if num_wrong or code:
        sys.exit(f"demo failed: {num_wrong} wrong answers, the mesh ended with exit code {code}")


async def show(endpoint: str, mesh: subprocess.Popen[bytes]) -> int:
    """Ask everything and print it; returns the number of wrong answers."""
    async with AsyncClient(endpoint) as client:
        await wait_until_serving(client, mesh)
        info = await client.model_info()
        console.print(
            f"\n[bold]{info.architecture}[/], {info.num_experts} experts, {info.weight_format}, at {endpoint}\n"
        )
        num_wrong = sum([await ask(client, conversation) for conversation in CONVERSATIONS])
        console.print(load_table(await client.load()))
    return num_wrong


async def wait_until_serving(client: AsyncClient, mesh: subprocess.Popen[bytes]) -> None:
    """Wait for the gateway and all its experts; end the demo if the mesh cannot start."""
    deadline = time.monotonic() + START_SECONDS
    while not await client.is_serving():
        if mesh.poll() is not None or time.monotonic() > deadline:
            sys.exit("the mesh did not start")
        await asyncio.sleep(0.2)


async def ask(client: AsyncClient, conversation: tuple[tuple[str, str], ...]) -> int:
    """Ask the turns of a conversation, streaming the answers; returns the number of wrong ones."""
    history: list[tuple[str, str]] = []
    num_wrong = 0
    for question, expected in conversation:
        history.append(("user", question))
        console.print(f"[cyan]>[/] {question}\n  ", end="")
        answer = ""
        async for piece in client.chat(history, Sampling(max_tokens=48)):
            console.print(piece.text, end="", markup=False)
            answer += piece.text
        is_right = answer == expected
        console.print("  [green]✓[/]" if is_right else f"  [red]✗ expected {expected}[/]")
        history.append(("assistant", answer))
        num_wrong += not is_right
    console.print()
    return num_wrong


def load_table(load: Load) -> Table:
    """Show how the gate spread the tokens over the experts, and who hosts them."""
    table = Table(
        "expert", "rows", "share", "", "hosted by", "p50 of a call", title="expert load", title_justify="left"
    )
    greatest = max(expert.share for expert in load.experts)
    for expert in load.experts:
        hosts = [replica for replica in load.replicas if expert.expert in replica.experts]
        table.add_row(
            str(expert.expert),
            str(expert.tokens),
            f"{expert.share:.1%}",
            "█" * round(BAR_WIDTH * expert.share / greatest),
            ", ".join(replica.endpoint for replica in hosts),
            ", ".join(f"{replica.latency_p50_ns / 1e6:.2f} ms" for replica in hosts),
        )
    table.caption = f"balancedness {load.balancedness:.2f} (mean / max)"
    return table


if __name__ == "__main__":
    main()
