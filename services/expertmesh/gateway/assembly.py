"""The parts of an engine, put together. Knows what depends on what; starts and serves nothing."""

import logging
import time
from dataclasses import dataclass
from importlib.metadata import version

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.door import Door
from expertmesh.engine.inbox import Inbox
from expertmesh.engine.loop import Engine
from expertmesh.engine.request import Constraint, Limits
from expertmesh.engine.runner import ModelRunner
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.sizing import BLOCK_SIZE, CachePlan, cache_budget, plan_cache
from expertmesh.engine.stats import EngineStats
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.grammars.compiler import BoundedCompiler
from expertmesh.gateway.grammars.verdict import TrialSettings
from expertmesh.gateway.loaded_model import LoadedModel
from expertmesh.gateway.state import GatewayState
from expertmesh.kernels import cuda_devices
from expertmesh.mesh.counted_experts import CountedDeviceExperts, CountedExperts
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.model.cuda_graphs import CudaGraphs, log_recording, needing_memory
from expertmesh.model.experts import DeviceExperts, Experts
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.recording import buckets
from expertmesh.model.static_steps import StaticSteps
from expertmesh.model.step_memory import plan_steps
from expertmesh.rpc.tls import open_client
from expertmesh.text.constraint import GrammarCompiler
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.tracing.tracer import Tracer
from expertmesh.wire.model_info import ModelInfo

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Core:
    """A model that generates for those at ``door`` once ``engine`` runs (and ``state.pool``, where there is one).

    What is wanted of the door goes through the engine's ``inbox``.
    """

    engine: Engine
    door: Door
    inbox: Inbox
    compiler: BoundedCompiler
    info: ModelInfo
    state: GatewayState


def assemble(config: GatewayConfig, model: LoadedModel, tracer: Tracer) -> Core:
    """Put the parts together; ConfigError when the KV cache does not fit."""
    scheduling = config.scheduler.fitted_to(model.backend.device.type)
    plan = _plan_cache(config, model, scheduling)
    state = _make_state(config, model, scheduling, plan)
    cache = KVCache(model.config, plan.num_blocks, plan.block_size, model.dtype, model.backend.device)
    experts = _make_experts(config, model, state, tracer)
    runner = ModelRunner(
        model.decoder,
        cache,
        experts,
        model.backend.device,
        model.eos_ids,
        config.num_micro_batches,
        _record_steps(config, model, scheduling, cache, plan, experts),
        tracer,
    )
    limits = Limits(plan.max_model_len, model.config.vocab_size, scheduling.max_held)
    door = Door(state.scheduler, limits, state.stats)
    inbox = Inbox()
    engine = Engine(runner, state.scheduler, door, inbox, model.eos_ids, state.stats, tracer)
    return Core(engine, door, inbox, _make_compiler(config, model), _describe(model, plan), state)


def _make_compiler(config: GatewayConfig, model: LoadedModel) -> BoundedCompiler:
    settings = TrialSettings(str(config.model), sorted(model.eos_ids), model.config.vocab_size)
    compiler = GrammarCompiler(model.tokenizer, settings.eos_ids, settings.vocab_size)

    def construct(kind: str, source: str) -> Constraint:
        return compiler.compile(Grammar(GrammarKind(kind), source))

    return BoundedCompiler(construct, settings)


def _plan_cache(config: GatewayConfig, model: LoadedModel, scheduling: SchedulerConfig) -> CachePlan:
    budget = config.kv_cache_bytes
    if budget is None:
        budget = cache_budget(model.backend.device, _reserve_for_steps(config, model, scheduling))
    return plan_cache(model.config, model.dtype, budget, config.max_model_len, scheduling.max_num_seqs)


def _reserve_for_steps(config: GatewayConfig, model: LoadedModel, scheduling: SchedulerConfig) -> int:
    """Return how many bytes are to be left for recorded steps, and log what they are for."""
    max_blocks = -(-(config.max_model_len or model.config.max_position_embeddings) // BLOCK_SIZE)
    has_experts = model.local_experts is not None and model.local_experts.is_on_device
    sizes = buckets(_max_recorded_rows(config, model, scheduling))
    memory = plan_steps(model.config, model.dtype, sizes, max_blocks, config.num_micro_batches, has_experts)
    if memory.total:
        _log.info(
            "keeping %.0f MiB for decode steps: buffers %.0f, scratch %.0f, CUDA graphs %.0f",
            *(num_bytes / 2**20 for num_bytes in (memory.total, memory.buffers, memory.scratch, memory.recordings)),
        )
    return memory.total


def _max_recorded_rows(config: GatewayConfig, model: LoadedModel, scheduling: SchedulerConfig) -> int:
    """Return the rows of the greatest decode step to record; 0 where there is no GPU with kernels for it."""
    can_record = model.backend.device.type == "cuda" and model.backend.can_be_recorded
    return min(config.cuda_graphs, scheduling.max_num_seqs) if can_record else 0


def _make_state(
    config: GatewayConfig, model: LoadedModel, scheduling: SchedulerConfig, plan: CachePlan
) -> GatewayState:
    stats = EngineStats()
    blocks = BlockPool(plan.num_blocks, plan.block_size, config.reuses_prefixes)
    pool = None
    if config.discovery is not None:
        pool = ReplicaPool(
            config.discovery,
            model.fingerprint,
            config.dispatch.transport,
            config.dispatch.mixes_numerics,
            open_client(config.experts_tls),
        )
    expert_load = ExpertLoadCounter(model.config.num_layers, model.config.num_experts)
    return GatewayState(stats, expert_load, Scheduler(scheduling, blocks, stats), blocks, pool)


def _make_experts(
    config: GatewayConfig, model: LoadedModel, state: GatewayState, tracer: Tracer
) -> Experts | DeviceExperts:
    if state.pool is not None:
        return RemoteExperts(state.pool.roster, config.dispatch, state.expert_load, tracer=tracer)
    assert model.local_experts is not None
    if model.local_experts.is_on_device:
        return CountedDeviceExperts(model.local_experts, state.expert_load)
    return CountedExperts(model.local_experts, state.expert_load)


def _record_steps(
    config: GatewayConfig,
    model: LoadedModel,
    scheduling: SchedulerConfig,
    cache: KVCache,
    plan: CachePlan,
    experts: Experts | DeviceExperts,
) -> StaticSteps | None:
    """Record decode steps as CUDA graphs, where there is a GPU with kernels for it and it is wanted."""
    device, max_rows = model.backend.device, _max_recorded_rows(config, model, scheduling)
    if not max_rows:
        return None
    started, num_free = time.monotonic(), cuda_devices.free_bytes(device)
    max_blocks = -(-plan.max_model_len // plan.block_size)
    with needing_memory("a smaller --kv-cache-gib or --cuda-graphs"):
        steps = StaticSteps(
            model.decoder,
            cache,
            max_blocks,
            max_rows,
            config.num_micro_batches,
            experts if isinstance(experts, DeviceExperts) else None,
            CudaGraphs(device),
            log_recording,
        )
    taken = (num_free - cuda_devices.free_bytes(device)) / 2**20
    _log.info("recorded CUDA graphs in %.1f s; they take %.0f MiB", time.monotonic() - started, taken)
    return steps


def _describe(model: LoadedModel, plan: CachePlan) -> ModelInfo:
    config = model.config
    return ModelInfo(
        name=model.name,
        architecture=config.architecture,
        fingerprint=model.fingerprint,
        weight_format=model.weight_format,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        num_experts_per_token=config.num_experts_per_token,
        vocab_size=config.vocab_size,
        max_model_len=plan.max_model_len,
        version=version("expertmesh"),
        isa=model.backend.isa,
        deterministic=model.backend.is_deterministic,
    )
