// Where the numbers come from. Knows the gateway's route, not what is shown.
const PATIENCE_MS = 10_000;
const LEAVING = new Set(["REPLICA_STATE_RETIRED"]);

// What happened in the last second; an answer takes as long.
async function readLoad() {
  const reply = await ask("dashboard/load", { signal: AbortSignal.timeout(PATIENCE_MS) });
  return toUpdate(await reply.json());
}

// One entry per expert with its counts and rates together; int64 are strings in proto3's JSON.
function toUpdate({ load, rates }) {
  return {
    gateway: load.gateway,
    generated: rates.generation_tokens_per_second,
    prompt: rates.prompt_tokens_per_second,
    balancedness: rates.balancedness,
    hasReplicas: load.replicas.length > 0,
    experts: load.experts.map((expert, index) => toExpert(expert, rates.experts[index])),
  };
}

function toExpert(load, rates) {
  return {
    expert: load.expert,
    rate: rates.tokens_per_second,
    layers: rates.tokens_per_second_by_layer,
    shareNow: rates.share,
    share: load.share,
    inflight: load.inflight_rows,
    queue: load.queue_rows,
    p50: Number(load.latency_p50_ns),
    p99: Number(load.latency_p99_ns),
    ready: load.ready_replicas,
    replicas: load.replicas.reduce((sum, { state, replicas }) => sum + (LEAVING.has(state) ? 0 : replicas), 0),
  };
}
