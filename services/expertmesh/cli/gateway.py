"""``expertmesh gateway``: a gateway process."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from expertmesh.cli import options
from expertmesh.cli.line_writer import open_output
from expertmesh.cli.logs import configure_logging
from expertmesh.cli.parent import end_with_parent
from expertmesh.cli.progress import progress_bar
from expertmesh.cli.readiness import TellReady, claim_ready_pipe
from expertmesh.errors import ConfigError
from expertmesh.gateway.config import GatewayConfig
from expertmesh.settings.flags import fill, flags_of


@options.takes(flags_of(GatewayConfig))
def gateway(
    *,
    experts: str,
    local_experts: bool,
    forwarded_allow_ips: str,
    with_parent: options.WithParent = False,
    **flags: Any,
) -> None:
    """Serve the public API: text, attention, KV cache, gate and sampling; experts are asked over gRPC."""
    configure_logging(flags["log_level"])
    tell_ready = claim_ready_pipe()
    if with_parent:
        end_with_parent()
    if local_experts == bool(experts):
        raise ConfigError("give either --experts, which says where expert servers are, or --local-experts")

    from expertmesh.cli import gateway_processes
    from expertmesh.cli.runtime import run_process
    from expertmesh.discovery.sources import parse_experts
    from expertmesh.gateway.process import serve
    from expertmesh.rpc.forwarded import parse_proxies

    config = fill(
        GatewayConfig,
        flags,
        proxies=parse_proxies(forwarded_allow_ips),
        discovery=None if local_experts else parse_experts(experts),
    )
    with progress_bar("loading the gateway") as report:
        run_process(serve(config, gateway_processes.Commands(), report, partial(_say_ready, tell_ready)))


def _say_ready(tell_ready: TellReady, addresses: Sequence[str]) -> None:
    open_output()(f"ready: gateway on {', '.join(addresses)}")
    tell_ready(" ".join(addresses))
