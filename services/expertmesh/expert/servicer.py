"""ExpertService: the rpcs of an expert server. Knows messages and metadata, not kernels."""

import asyncio
from collections.abc import AsyncIterable
from dataclasses import replace

import grpc.aio

from expertmesh.errors import FingerprintMismatchError
from expertmesh.expert.budget import CallBudget
from expertmesh.expert.job import CallJob, CallRunner, Outcome
from expertmesh.expert.link_host import LinkHost
from expertmesh.expert.stream import DispatchStream
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.rpc.status import report_errors
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, ExpertResult, decode_call, write_result
from expertmesh.wire.failures import CallFailure, FailureCode
from expertmesh.wire.info import ServerInfo, encode_info
from expertmesh.wire.offers import decode_kind, encode_offer

# A gateway has one. gRPC keeps a message of a stream before anybody can refuse it.
MAX_STREAMS = 64

SERVICE_NAME = expert_pb2.DESCRIPTOR.services_by_name["ExpertService"].full_name

DispatchContext = grpc.aio.ServicerContext[expert_pb2.DispatchRequest, expert_pb2.DispatchResponse]
OpenLinkContext = grpc.aio.ServicerContext[expert_pb2.OpenLinkRequest, expert_pb2.OpenLinkResponse]
ForwardContext = grpc.aio.ServicerContext[expert_pb2.ForwardRequest, expert_pb2.ForwardResponse]
GetInfoContext = grpc.aio.ServicerContext[expert_pb2.GetInfoRequest, expert_pb2.GetInfoResponse]


class ExpertService(expert_pb2_grpc.ExpertServiceServicer):
    """Reads calls, has them run by ``executor`` and answers; what they take meanwhile is of ``budget``."""

    def __init__(self, executor: CallRunner, budget: CallBudget, links: LinkHost, info: ServerInfo) -> None:
        self._executor = executor
        self._budget = budget
        self._links = links
        self._info = info
        self._streams: set[DispatchStream] = set()
        self._is_draining = False

    async def Dispatch(self, requests: AsyncIterable[expert_pb2.DispatchRequest], context: DispatchContext) -> None:
        """Run many calls over one stream, of a caller that serves the same model."""
        async with report_errors(context):
            self._check_not_draining()
            self._check_fingerprint(context)
            self._check_number()
            stream = DispatchStream(self._executor, self._submit, self._budget)
            self._streams.add(stream)
            try:
                await stream.run(requests, context.write)
            finally:
                self._streams.discard(stream)

    async def Forward(self, request: expert_pb2.ForwardRequest, context: ForwardContext) -> expert_pb2.ForwardResponse:
        """Run one call."""
        async with report_errors(context):
            call = _within(decode_call(request.call), context.time_remaining())
            num_bytes = self._budget.take_call(call)
            try:
                response = expert_pb2.ForwardResponse()
                write_result(await self._run(call), response.result)
                return response
            finally:
                self._budget.give_back(num_bytes)

    async def OpenLink(self, request: expert_pb2.OpenLinkRequest, context: OpenLinkContext) -> None:
        """Offer a link and stay for as long as it is there; when the caller goes, so does the link."""
        async with report_errors(context):
            self._check_not_draining()
            self._check_fingerprint(context)
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            link = self._links.open(decode_kind(request), lambda: loop.call_soon_threadsafe(ended.set))
            try:
                await context.write(encode_offer(link.offer))
                await ended.wait()
            finally:
                link.close()

    async def GetInfo(self, request: expert_pb2.GetInfoRequest, context: GetInfoContext) -> expert_pb2.GetInfoResponse:
        """State model and hosted experts; refused while draining, so that nobody starts to rely on this server."""
        async with report_errors(context):
            self._check_not_draining()
            return encode_info(self._info)

    def drain(self) -> None:
        """Refuse new calls; each stream and link ends once its calls are answered."""
        self._is_draining = True
        self._executor.drain()
        self._links.drain()
        for stream in self._streams:
            stream.end()

    def _submit(self, job: CallJob) -> None:
        """Have a job run; its outcome arrives in this loop, whichever thread has it first."""
        loop, on_done = asyncio.get_running_loop(), job.on_done
        job.on_done = lambda outcome: loop.call_soon_threadsafe(on_done, outcome)
        self._executor.submit(job)

    async def _run(self, call: ExpertCall) -> ExpertResult:
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        job = CallJob(call, lambda outcome: None if done.done() else done.set_result(outcome))
        self._submit(job)
        try:
            outcome = await done
        finally:
            self._executor.cancel(job)
        if isinstance(outcome, ExpertResult):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # its traceback knows this frame

    def _check_not_draining(self) -> None:
        if self._is_draining:
            raise CallFailure(FailureCode.DRAINING, "this server is shutting down; another replica will answer")

    def _check_number(self) -> None:
        if len(self._streams) >= MAX_STREAMS:
            raise CallFailure(FailureCode.BUSY, f"{MAX_STREAMS} streams are open already, as many as there may be")

    def _check_fingerprint(self, context: DispatchContext | OpenLinkContext) -> None:
        metadata = dict(context.invocation_metadata() or ())
        found = metadata.get(FINGERPRINT_KEY)
        if found != self._info.fingerprint:
            raise FingerprintMismatchError(
                f"metadata {FINGERPRINT_KEY} is {found!r}; this server serves {self._info.fingerprint!r}"
            )


def _within(call: ExpertCall, time_remaining: float | None) -> ExpertCall:
    """Shorten the time of a call to what is left of its rpc."""
    limits = [limit for limit in (call.timeout_seconds, time_remaining) if limit is not None]
    return replace(call, timeout_seconds=min(limits, default=None))
