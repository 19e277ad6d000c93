"""POST /v1/completions. Knows requests with many prompts and the replies to them, not how text is generated."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request, Response

from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.body_route import BodyRoute
from expertmesh.gateway.http.disconnect import unless_disconnected
from expertmesh.gateway.http.document import describe_stream
from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.long_json import Mapped, json_pieces
from expertmesh.gateway.http.long_response import long_response
from expertmesh.gateway.http.openai import replies
from expertmesh.gateway.http.openai.common import DONE, ERRORS, Header, StreamUsage, by_answer, count_usage, make_header
from expertmesh.gateway.http.openai.prompts import Prompt, PromptWriter, encode_prompts
from expertmesh.gateway.http.openai.requests import MAX_PROMPTS, CompletionRequest
from expertmesh.gateway.http.openai.sampling import check_model, generation_request
from expertmesh.gateway.http.service import Service, ServiceDep
from expertmesh.gateway.http.sse import Event, event_stream
from expertmesh.gateway.merge import merge
from expertmesh.gateway.text_stream import TextDelta

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)

# OpenAI's own default, which clients of this endpoint count on.
DEFAULT_MAX_TOKENS = 16
_STREAM = describe_stream(replies.Completion, 'data: {"object": "text_completion", ...}\n\ndata: [DONE]\n\n', DONE)


@router.post(
    "/v1/completions",
    summary="Continue texts",
    response_model=replies.Completion,
    responses={200: {"description": "The texts, or with `stream` a stream of pieces.", "content": _STREAM}, **ERRORS},
)
async def create_completion(body: CompletionRequest, request: Request, service: ServiceDep) -> Response:
    """Continue one text or several; no template is applied."""
    check_model(body.model, service.names)
    _check_length(body)
    _check_size(body)
    prompts = await encode_prompts(body, service.generator)
    jobs = [_job(body, prompt, i, service) for i, prompt in enumerate(prompts)]
    service.generator.fit([job.generation for job in jobs])
    writer = _Writer(make_header("cmpl", service.model), jobs)
    if body.stream:
        return await event_stream(request, writer.stream(StreamUsage.of(body.stream_options)))
    return long_response(await unless_disconnected(request.receive, writer.complete()))


def _check_length(body: CompletionRequest) -> None:
    if body.max_tokens == 0 and not body.echo:
        raise ParameterError("max_tokens", "is 0; without echo it must be at least 1")


def _check_size(body: CompletionRequest) -> None:
    num_prompts, num_each = len(body.prompts()), body.best_of or body.n or 1
    if num_prompts * num_each > MAX_PROMPTS:
        raise ParameterError("n", f"{num_each} texts for each of {num_prompts} prompts; at most {MAX_PROMPTS} in all")


@dataclass(frozen=True)
class _Job:
    """A prompt to continue, and who writes about it."""

    generator: TextGenerator
    generation: GenerationRequest
    writer: PromptWriter
    is_scoring: bool

    async def run(self) -> AsyncGenerator[tuple["_Job", TextDelta]]:
        """Generate, naming the job with every delta."""
        async with aclosing(self.generator.generate(self.generation)) as deltas:
            async for delta in deltas:
                yield self, replace(delta, text="", num_output_tokens=0) if self.is_scoring else delta


def _job(body: CompletionRequest, prompt: Prompt, position: int, service: Service) -> _Job:
    writer = PromptWriter(service.generator, prompt, position * (body.n or 1), body)
    return _Job(service.generator, _generation(body, prompt, service), writer, body.max_tokens == 0)


def _generation(body: CompletionRequest, prompt: Prompt, service: Service) -> GenerationRequest:
    continues_text = service.generator.has_text(prompt.ids)
    request = generation_request(body, prompt.ids, service.defaults, continues_text)
    sampling = replace(request.sampling, logprobs=body.logprobs)
    if body.max_tokens is None:
        sampling = replace(sampling, max_tokens=DEFAULT_MAX_TOKENS)
    if body.echo and body.logprobs is not None:
        sampling = replace(sampling, prompt_logprobs=max(body.logprobs, sampling.prompt_logprobs or 0))
    request = replace(request, sampling=sampling, num_prompts=len(body.prompts()), echoes=bool(body.echo))
    return _scoring(request) if body.max_tokens == 0 else request


def _scoring(request: GenerationRequest) -> GenerationRequest:
    """Only the prompt is wanted: of the one token that is produced in any case, nobody hears."""
    sampling = replace(request.sampling, max_tokens=1, ignore_eos=True, stop_ids=())
    return replace(request, sampling=sampling, stop=(), grammar=None)


class _Writer:
    """Writes the replies to one request."""

    def __init__(self, header: Header, jobs: list[_Job]) -> None:
        self._header = header
        self._jobs = jobs

    async def complete(self) -> replies.Completion:
        """Generate and describe all continuations."""
        deltas: dict[_Job, list[TextDelta]] = {job: [] for job in self._jobs}
        async with aclosing(merge([job.run() for job in self._jobs])) as pieces:
            async for job, delta in pieces:
                deltas[job].append(delta)
        answers = {job: by_answer(deltas[job]) for job in self._jobs}
        told = [(job.writer, answer) for job in self._jobs for answer in answers[job]]
        return replies.Completion(
            **self._header,
            choices=Mapped(lambda one: one[0].write(one[1]), told),
            usage=count_usage([answer[-1] for answer in answers[job]] for job in self._jobs),
        )

    async def stream(self, usage: StreamUsage) -> AsyncGenerator[Event]:
        """Generate and describe each piece as it comes."""
        last: dict[_Job, dict[int, TextDelta]] = {job: {} for job in self._jobs}
        async with aclosing(merge([job.run() for job in self._jobs])) as pieces:
            async for job, delta in pieces:
                is_first = delta.index not in last[job]
                last[job][delta.index] = delta
                so_far = usage.so_far(deltas.values() for deltas in last.values())
                chunk = self._chunk([job.writer.write([delta])], so_far)
                yield json_pieces(chunk) if is_first else chunk.model_dump_json()
        if usage.is_wanted:
            yield self._chunk([], count_usage(deltas.values() for deltas in last.values())).model_dump_json()
        yield DONE

    def _chunk(self, choices: list[replies.CompletionChoice], usage: replies.Usage | None = None) -> replies.Completion:
        return replies.Completion(**self._header, choices=choices, usage=usage)
