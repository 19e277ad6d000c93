"""From the chunks of a step to its sampled tokens. Knows tensors and the decoder, not requests waiting or clients.

Alphabet: S' rows whose logits are wanted, V vocabulary, L layers, A experts chosen per row.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import chain, islice

import torch

from expertmesh.engine.noise import noise
from expertmesh.engine.patience import NOTHING, Dropped, PatientExperts
from expertmesh.engine.request import Route
from expertmesh.engine.routes import RecordedDeviceExperts, RecordedExperts, RouteNotes
from expertmesh.engine.scheduler import Chunk
from expertmesh.engine.step_batch import WantedRows, build_batch, split_chunks, wanted_rows
from expertmesh.engine.step_spans import TracedExperts
from expertmesh.model.adjust import SamplingRow
from expertmesh.model.batch import StepBatch
from expertmesh.model.choice import Choice
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import DeviceExperts, Experts, PartOnDevice
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.rows import select, to_device
from expertmesh.model.sampler import Sampler, score
from expertmesh.model.static_steps import StaticSteps
from expertmesh.model.turns import Part, in_turns
from expertmesh.tracing.tracer import NullTracer, Tracer


@dataclass(frozen=True)
class ChunkOutput:
    """What came of a chunk: the tokens that follow it, and scores of the prompt tokens in it that want them.

    Where the chunk was the last of its sequence, ``tokens`` are the part of its draft that was right and one more;
    ``routes`` are the experts that the rows before them went to, empty where no request asks. ``dropped`` are those
    that it was computed without.
    """

    tokens: tuple[Choice, ...] = ()
    routes: tuple[Route, ...] = ()
    prompt_logprobs: tuple[Choice, ...] = ()
    dropped: Dropped = field(default_factory=dict)


class ModelRunner:
    """Runs the decoder over chunks and samples for every sequence whose last chunk it was.

    ``num_micro_batches`` parts of a step take turns: while the experts of one are asked, another attends. Those that
    are among the ``static_steps`` use these.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        experts: Experts | DeviceExperts,
        device: torch.device,
        eos_ids: frozenset[int],
        num_micro_batches: int = 1,
        static_steps: StaticSteps | None = None,
        tracer: Tracer = NullTracer(),
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._experts = experts
        self._device = device
        self._eos_ids = tuple(sorted(eos_ids))
        self._num_micro_batches = num_micro_batches
        self._static_steps = static_steps
        self._tracer = tracer
        self._sampler = Sampler()

    def run(self, chunks: Seq[Chunk], traceparent: str = "") -> list[ChunkOutput]:
        """Compute ``chunks`` and return what came of each; ``traceparent`` names the span of the step, if any."""
        wants_routes = any(chunk.sequence.request.return_routed_experts for chunk in chunks)
        parts = split_chunks(chunks, self._num_micro_batches)
        computed = in_turns([self._part(part, traceparent, wants_routes) for part in parts])
        found = [logits for logits, _, _ in computed]
        logits = found[0] if len(found) == 1 else torch.cat(found)  # [S', V]
        routes = list(chain.from_iterable(routes for _, routes, _ in computed))
        dropped = list(chain.from_iterable(dropped for _, _, dropped in computed))
        return self._conclude(chunks, logits, routes, dropped)

    def _part(
        self, chunks: Seq[Chunk], traceparent: str, wants_routes: bool
    ) -> "Part[tuple[torch.Tensor, list[Route], list[Dropped]]]":
        """Return the logits [S', V] of the rows that want them, their routes if wanted, and what each chunk lacked."""
        batch = build_batch(chunks, self._cache.block_size)
        notes = RouteNotes(batch.sample_rows) if wants_routes else None
        dropped = [NOTHING] * len(chunks)
        if isinstance(self._experts, DeviceExperts):
            logits = yield from self._compute_on_device(batch, traceparent, notes)
        else:
            experts = PatientExperts(self._traced(self._experts, traceparent), chunks)
            logits = yield from self._compute(batch, experts, notes)
            dropped = experts.dropped()
        return logits, notes.routes() if notes else [], dropped

    def _compute(self, batch: StepBatch, asked: Experts, notes: RouteNotes | None) -> "Part[torch.Tensor]":
        """Return the logits [S', V] of a batch whose experts are asked on the host."""
        experts = RecordedExperts(asked, notes) if notes else asked
        if self._static_steps is not None and self._static_steps.fits(batch):
            return (yield from self._static_steps.part(batch, experts))
        return (yield from self._decoder.part(batch.to(self._device), self._cache, experts))

    def _compute_on_device(self, batch: StepBatch, traceparent: str, notes: RouteNotes | None) -> "Part[torch.Tensor]":
        """Return the logits [S', V] of a batch whose experts are on the device, too."""
        assert isinstance(self._experts, DeviceExperts)
        experts = RecordedDeviceExperts(self._experts, notes) if notes else self._experts
        # A span for each layer cannot be told from what is one piece of work.
        if self._static_steps is not None and self._static_steps.fits(batch) and not traceparent:
            return (yield from self._static_steps.part(batch, experts))
        asked = self._traced(PartOnDevice(experts, self._decoder.config.num_layers), traceparent)
        return (yield from self._decoder.part(batch.to(self._device), self._cache, asked))

    def _traced(self, experts: Experts, traceparent: str) -> Experts:
        return TracedExperts(experts, self._tracer, traceparent) if traceparent else experts

    def _conclude(
        self, chunks: Seq[Chunk], logits: torch.Tensor, routes: Seq[Route], dropped: Seq[Dropped]
    ) -> list[ChunkOutput]:
        """Score and sample; ``logits`` and ``routes`` hold the wanted rows of all chunks, one after the other."""
        wanted = [wanted_rows(chunk) for chunk in chunks]
        choices = self._sample(chunks, logits, wanted)
        outputs = []
        start = 0
        for chunk, rows, lacked in zip(chunks, wanted, dropped, strict=True):
            end_scored, end = start + len(rows.scored), start + len(rows)
            tokens = _accept(chunk.draft, list(islice(choices, len(rows.sampled))))
            scored = _score(chunk, rows.scored, logits[start:end_scored])
            outputs.append(ChunkOutput(tokens, tuple(routes[end_scored:end][: len(tokens)]), scored, lacked))
            start = end
        return outputs

    def _sample(self, chunks: Seq[Chunk], logits: torch.Tensor, wanted: Seq[WantedRows]) -> Iterator[Choice]:
        """Sample all rows of the step that are to be sampled, together."""
        rows = [row for chunk in chunks for row in self._sampling_rows(chunk)]
        if len(rows) < len(logits):
            flags = [flag for rows in wanted for flag in (*[False] * len(rows.scored), *[True] * len(rows.sampled))]
            sampled = [index for index, flag in enumerate(flags) if flag]
            logits = select(logits, to_device(sampled, torch.int64, logits.device))
        return iter(self._sampler.sample(logits, rows) if rows else ())

    def _sampling_rows(self, chunk: Chunk) -> Iterator[SamplingRow]:
        """Yield a row for the next token of a chunk, and one for each token of its draft as if those before held."""
        if not chunk.is_last:
            return
        sequence, request = chunk.sequence, chunk.sequence.request
        produced = sequence.output_ids
        for num_drafted in range(len(chunk.draft) + 1):
            output_ids = [*produced, *chunk.draft[:num_drafted]] if num_drafted else produced
            is_short = len(output_ids) < request.sampling.min_tokens
            yield SamplingRow(
                params=request.sampling,
                prompt_ids=request.prompt_ids,
                output_ids=output_ids,
                noise=noise(sequence.seed, len(sequence.tokens) + num_drafted),
                banned_ids=(*self._eos_ids, *request.sampling.stop_ids) if is_short else (),
                allowed=sequence.constraint.allowed() if sequence.constraint else None,
            )


def _accept(draft: Seq[int], choices: Seq[Choice]) -> tuple[Choice, ...]:
    """Keep choices up to the first that differs from the draft: what comes after it was computed for nothing.

    Each choice is drawn as it would be without a draft, so the text does not depend on drafts.
    """
    num_right = 0
    while num_right < len(draft) and choices[num_right].token_id == draft[num_right]:
        num_right += 1
    return tuple(choices[: num_right + 1])


def _score(chunk: Chunk, rows: range, logits: torch.Tensor) -> tuple[Choice, ...]:
    if not rows:
        return ()
    sequence = chunk.sequence
    first = sequence.num_computed + rows.start + 1
    num_top = sequence.request.sampling.prompt_logprobs or 0
    return tuple(score(logits, sequence.tokens[first : first + len(rows)], num_top))
