"""What is said about generated text in TGI's shape. Knows deltas of answers, not endpoints."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from expertmesh.engine.request import FinishReason
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.long_json import mapped
from expertmesh.gateway.http.openai.common import by_answer, token_text
from expertmesh.gateway.http.tgi import models
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.sampling import MAX_SEED

FINISH_REASONS: Mapping[FinishReason | None, models.FinishReason] = {
    FinishReason.STOP: "eos_token",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
    FinishReason.LENGTH: "length",
}

Answer = Sequence[TextDelta]


@dataclass(frozen=True)
class Writer:
    """Writes the replies to one request."""

    generator: TextGenerator
    generation: GenerationRequest
    inputs: str
    parameters: models.Parameters

    async def complete(self) -> models.Generation:
        """Generate all texts and describe the best one."""
        async with aclosing(self.generator.generate(self.generation)) as deltas:
            answers = by_answer([delta async for delta in deltas])
        best, *others = sorted(answers, key=_mean_logprob, reverse=True)
        return models.Generation(generated_text=self._text(best), details=self._details(best, others))

    async def stream(self) -> AsyncGenerator[str]:
        """Generate and describe each token as it comes."""
        answer: list[TextDelta] = []
        async with aclosing(self.generator.generate(self.generation)) as deltas:
            async for delta in deltas:
                answer.append(delta)
                yield self._event(answer).model_dump_json()

    def _event(self, answer: Answer) -> models.StreamEvent:
        """Describe the newest token, and the whole text with the last one."""
        delta = answer[-1]
        is_last = delta.finish_reason is not None
        return models.StreamEvent(
            index=delta.num_output_tokens,
            token=self._token(delta),
            top_tokens=self._top_tokens(delta) if self.parameters.top_n_tokens else None,
            generated_text=self._text(answer) if is_last else None,
            details=self._stream_details(delta) if is_last else None,
        )

    def _stream_details(self, last: TextDelta) -> models.StreamDetails:
        return models.StreamDetails(
            finish_reason=FINISH_REASONS[last.finish_reason],
            generated_tokens=last.num_output_tokens,
            input_length=last.num_prompt_tokens,
            seed=self._seed(last),
        )

    def _details(self, best: Answer, others: Sequence[Answer]) -> models.Details | None:
        if not self.parameters.details:
            return None
        named = [models.NamedSequence(generated_text=self._text(one), **self._sequence(one)) for one in others]
        return models.Details(**self._sequence(best), best_of_sequences=named or None)

    def _sequence(self, answer: Answer) -> dict[str, Any]:
        """Return the fields of ``models.BestOfSequence``."""
        last = answer[-1]
        return {
            "finish_reason": FINISH_REASONS[last.finish_reason],
            "generated_tokens": last.num_output_tokens,
            "seed": self._seed(last),
            "prefill": self._prefill(answer[0]),
            "tokens": mapped(self._token, answer),
            "top_tokens": mapped(self._top_tokens, answer) if self.parameters.top_n_tokens else None,
        }

    def _prefill(self, delta: TextDelta) -> Sequence[models.PrefillToken]:
        if delta.prompt_logprobs is None:
            return []
        logprobs = (None, *(choice.logprob for choice in delta.prompt_logprobs))
        return mapped(self._prefill_token, list(zip(self.generation.prompt_ids, logprobs, strict=True)))

    def _prefill_token(self, known: tuple[int, float | None]) -> models.PrefillToken:
        token_id, logprob = known
        return models.PrefillToken(id=token_id, text=token_text(self.generator, token_id), logprob=logprob)

    def _token(self, delta: TextDelta) -> models.Token:
        token_id = delta.token.token_id
        special = not self.generator.token_bytes(token_id)
        return models.Token(id=token_id, text=delta.text, logprob=delta.token.logprob or 0.0, special=special)

    def _top_tokens(self, delta: TextDelta) -> list[models.Token]:
        return [
            models.Token(
                id=token_id,
                text=token_text(self.generator, token_id),
                logprob=logprob,
                special=not self.generator.token_bytes(token_id),
            )
            for token_id, logprob in delta.token.top_logprobs
        ]

    def _text(self, answer: Answer) -> str:
        prompt = self.inputs if self.parameters.return_full_text else ""
        return prompt + "".join(delta.text for delta in answer)

    def _seed(self, delta: TextDelta) -> int | None:
        seed = self.generation.sampling.seed
        return None if seed is None else (seed + delta.index) % (MAX_SEED + 1)


def _mean_logprob(answer: Answer) -> float:
    return fmean(delta.token.logprob or 0.0 for delta in answer)
