import asyncio

from live_snapshots import LiveSnapshots

from expertmesh.client import AsyncClient
from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.stats import EngineStats
from expertmesh.gateway.api.load_service import LoadServicer
from expertmesh.gateway.state import GatewayState
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.rpc.server import RpcServer
from expertmesh.v1 import load_pb2, load_pb2_grpc

LOAD = load_pb2.DESCRIPTOR.services_by_name["LoadService"].full_name


def make_source() -> LiveSnapshots:
    blocks = BlockPool(8, 16)
    scheduler = Scheduler(SchedulerConfig().fitted_to("cpu"), blocks)
    return LiveSnapshots(GatewayState(EngineStats(), ExpertLoadCounter(2, 8), scheduler, blocks, pool=None))


def test_who_watches_does_not_keep_a_gateway_that_ends():
    async def run() -> int:
        servicer = LoadServicer(make_source())
        server = RpcServer("127.0.0.1:0")
        server.register(LOAD, load_pb2_grpc.add_LoadServiceServicer_to_server, servicer)
        async with asyncio.timeout(20), server, AsyncClient(server.address) as client:
            updates = client.watch_load(60)
            await anext(updates)
            servicer.end()
            return len([update async for update in updates])

    assert asyncio.run(run()) == 0


def test_experts_of_the_gateway_itself_are_ready():
    async def run() -> None:
        servicer = LoadServicer(make_source())
        server = RpcServer("127.0.0.1:0")
        server.register(LOAD, load_pb2_grpc.add_LoadServiceServicer_to_server, servicer)
        async with server, AsyncClient(server.address) as client:
            load = await client.load()
            assert [(expert.ready_replicas, expert.replicas) for expert in load.experts] == [(1, {"ready": 1})] * 8
            assert load.replicas == ()

    asyncio.run(run())
