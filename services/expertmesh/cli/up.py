"""``expertmesh up``: a whole mesh on this machine, one process per server."""

import asyncio
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.cli import options
from expertmesh.cli.exit_codes import child_error
from expertmesh.cli.local_servers import default_servers, default_threads, parse_replicas, place_experts, spread
from expertmesh.cli.logs import configure_logging
from expertmesh.cli.output import Asking, MeshOutput
from expertmesh.cli.places import Place, choose_places, count_kinds
from expertmesh.cli.ranges import format_ranges
from expertmesh.cli.supervisor import ChildFailedError, Program, Supervisor
from expertmesh.expert.config import ExpertServerConfig
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.key_lines import parse_words
from expertmesh.gateway.served_names import served_names
from expertmesh.rpc.signals import wait_for_shutdown
from expertmesh.rpc.sockets import free_port
from expertmesh.settings.flags import MODEL, TLS, Flag, fill, flags_of, setting
from expertmesh.settings.tls import ExpertsTls

MODULE = "expertmesh.cli.main"


@dataclass(frozen=True)
class UpConfig:
    """How experts are spread over processes: how many there are (0 = as suits this machine), and EXPERT=COUNT."""

    expert_servers: int = setting(
        0,
        Flag(
            MODEL,
            "EXPERT_SERVERS",
            "Expert processes to spread the experts over; 0 = one per GPU, or without GPUs one for every two cores, at "
            "most 4.",
            min=0,
        ),
    )
    replicas: tuple[str, ...] = setting(
        (), Flag(MODEL, "REPLICAS", "EXPERT=COUNT: so many processes host this expert; may be repeated.")
    )


GATEWAY_FLAGS, EXPERT_FLAGS = flags_of(GatewayConfig), flags_of(ExpertServerConfig)
# Where experts are is said here; the others are for those who watch more than one machine.
LEFT_OUT = ("experts", "local_experts", "metrics_by_layer", "vllm_metrics", *flags_of(ExpertsTls))
# Expert servers answer the gateway beside them and nobody else.
OF_CLIENTS = {name: flag for name, flag in EXPERT_FLAGS.items() if flag.panel == TLS or name == "health_listen"}
DEVICE = (
    "Where kernels run: auto (all GPUs, else the CPU), cpu, cuda (all GPUs) or cuda:N. The gateway is on the first one."
)
THREADS = (
    "CPU threads of each process; 0 = one per core for the gateway, and for expert servers so many that those "
    "busy at a time fill the cores."
)
FLAGS = {
    "model": GATEWAY_FLAGS["model"],
    **flags_of(UpConfig),
    **{name: flag for name, flag in GATEWAY_FLAGS.items() if name not in LEFT_OUT},
    "device": replace(GATEWAY_FLAGS["device"], text=DEVICE),
    "threads": replace(GATEWAY_FLAGS["threads"], text=THREADS),
    "log_level": replace(GATEWAY_FLAGS["log_level"], default="warning"),
    "chaos_delay": EXPERT_FLAGS["chaos_delay"],
}


@dataclass(frozen=True)
class ExpertServer:
    """An expert server to run, the address that it will have, and where it computes."""

    program: Program
    address: str
    place: Place


@options.takes(FLAGS)
def up(**flags: Any) -> None:
    """Serve a model on this machine: a gateway and expert servers, each in a process of its own.

    An expert process that dies is started again, and requests wait for it. Ctrl-C stops everything in order.
    """
    from expertmesh.gateway.servable import check_servable

    configure_logging(flags["log_level"])
    # Threads that wait for work by spinning would take the cores from the process whose turn it is.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    hide_tls(os.environ)
    config = fill(GatewayConfig, flags)
    parse_words(config.api_keys)  # those that are none would be cut in two on their way
    _check_text(config)
    model = check_servable(config.model, config.round_to_bits).model
    places = choose_places(config.device, config.backend)
    servers = plan_servers(model, fill(UpConfig, flags), flags, places)
    gateway = plan_gateway(servers, flags, places[0])
    gateway = replace(gateway, environment=gateway.environment + _key_environment(config.api_keys))
    where = count_kinds(place.kind for place in places)
    name = served_names(config.model, config.served_model_names)[0]
    asking = Asking(name, bool(config.api_keys or config.api_key_file), bool(config.tls.cert))
    asyncio.run(_supervise([server.program for server in servers], gateway, asking, where, config.drain_seconds))


def plan_servers(
    model: ModelConfig, config: UpConfig, flags: Mapping[str, Any], places: Sequence[Place]
) -> list[ExpertServer]:
    """Say which expert servers to run, at which addresses, and where they compute."""
    num_cores = os.cpu_count() or 1
    num_gpus = sum(place.is_gpu for place in places)
    num_servers = config.expert_servers or default_servers(model.num_experts, num_cores, num_gpus)
    placed = place_experts(model.num_experts, num_servers, parse_replicas(config.replicas))
    threads = flags["threads"] or default_threads(len(placed), model.num_experts_per_token, num_cores)

    def server(experts: str, address: str, place: Place) -> ExpertServer:
        own = {"experts": experts, "listen": address, "threads": threads, "device": place.device}
        own |= dict.fromkeys(OF_CLIENTS)
        program = child_program(f"experts {experts}", "expert", EXPERT_FLAGS, flags, **own)
        return ExpertServer(replace(program, environment=place.environment), address, place)

    return [
        server(format_ranges(hosted), f"127.0.0.1:{free_port()}", places[number])
        for hosted, number in zip(placed, spread(placed, len(places)), strict=True)
    ]


def plan_gateway(servers: Sequence[ExpertServer], flags: Mapping[str, Any], place: Place) -> Program:
    """Say how the gateway of ``servers`` is run; its KV cache takes what the experts on its GPU leave."""
    addresses = ",".join(server.address for server in servers)
    own = {"experts": addresses, "api_key": None, "device": place.device}
    program = child_program("gateway", "gateway", GATEWAY_FLAGS, flags, **own)
    beside = tuple(server.program for server in servers if server.place == place)
    waits = place.is_gpu and flags["kv_cache_gib"] is None
    return replace(program, environment=place.environment, after=beside if waits else ())


def _check_text(config: GatewayConfig) -> None:
    """Refuse a tokenizer or a template before expert servers load what the gateway would refuse."""
    from expertmesh.gateway.text_files import read_text_files

    read_text_files(config)


def child_program(name: str, command: str, takes: Iterable[str], flags: Mapping[str, Any], **own: Any) -> Program:
    """Start a command with those of ``flags`` that it takes; its ``own`` take their place."""
    passed = {flag: flags[flag] for flag in takes if flag in flags} | own
    arguments = [part for flag, value in passed.items() for part in _argument(flag.replace("_", "-"), value)]
    return Program(name, (sys.executable, "-m", MODULE, command, "--with-parent", *arguments))


def _argument(flag: str, value: object) -> tuple[str, ...]:
    """Write a flag with its value, once for each value of a list; None and False leave it at its default."""
    if isinstance(value, list):
        return tuple(part for one in value for part in _argument(flag, one))
    if value is None or value is False:
        return ()
    return (f"--{flag}",) if value is True else (f"--{flag}", str(value))


def _key_environment(keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Hand keys to a child where no list of processes shows them."""
    return (("EXPERTMESH_API_KEY", " ".join(keys)),) if keys else ()


def hide_tls(environment: MutableMapping[str, str]) -> None:
    """Take out what children would read of TLS: the gateway gets its flags, between it and experts there is none."""
    for flag in (*OF_CLIENTS.values(), *flags_of(ExpertsTls).values()):
        environment.pop(f"EXPERTMESH_{flag.env}", None)


async def _supervise(
    experts: list[Program], gateway: Program, asking: Asking, where: str, drain_seconds: float
) -> None:
    with ExitStack() as starting:
        output = MeshOutput(gateway.name, asking, len(experts) + 1, starting)
        output.show("up", f"starting a gateway and {len(experts)} expert servers on {where} ...")
        supervisor = Supervisor([experts, [gateway]], output.show, output.ready)
        running = asyncio.create_task(supervisor.run())
        shutdown = asyncio.create_task(wait_for_shutdown())
        try:
            await asyncio.wait((running, shutdown), return_when=asyncio.FIRST_COMPLETED)
            if shutdown.done():
                output.show("up", "stopping ...")
                await supervisor.stop(drain_seconds + 5)
            await running
        except ChildFailedError as error:
            raise child_error(str(error), error.code) from None
        finally:
            shutdown.cancel()
