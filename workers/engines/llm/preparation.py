"""From a job to the sequences that answer it, and the voice that tells them. Any thread, no MLX."""

import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest
from shared.jobs import JobSpec
from shared.tasks import chat, completion
from workers.answer import token_budget
from workers.engines.llm.grammar import Grammars
from workers.engines.llm.prompt import ChatTemplate, Prompt, completion_prompts
from workers.engines.llm.sampling import Defaults, sampling_of
from workers.engines.llm.sequence import Sample, Sequence
from workers.engines.llm.voice import Voice

Request = chat.Request | completion.Request


class Work(msgspec.Struct):
    """A prepared job."""

    sequences: list[Sequence]
    voice: Voice

    @property
    def choices(self) -> int:
        return sum(len(sequence.samples) for sequence in self.sequences)

    @property
    def size(self) -> int:
        """Tokens of cache at most."""
        return sum(len(each.tokens) + each.max_tokens * len(each.samples) for each in self.sequences)


class Preparation:
    """`boundaries`: whether the prompt cache needs to know where prompts may part."""

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        *,
        slots: int,
        context_length: int,
        vocabulary: int,
        defaults: Defaults,
        boundaries: bool,
    ) -> None:
        self._tokenizer, self._slots, self._boundaries = tokenizer, slots, boundaries
        self._context_length, self._vocabulary, self._defaults = context_length, vocabulary, defaults
        self._template = ChatTemplate(tokenizer)
        self._grammars = Grammars(tokenizer, vocabulary)

    def work(self, spec: JobSpec) -> Work:
        """Raises BadRequest."""
        if spec.task == "completion":
            return self._completion(spec, msgspec.convert(spec.params, completion.Request))
        return self._chat(spec, msgspec.convert(spec.params, chat.Request))

    def _chat(self, spec: JobSpec, request: chat.Request) -> Work:
        prompt = self._template.prompt(request, boundaries=self._boundaries)
        top = (request.top_logprobs or 0) if request.logprobs else None
        sequences = self._sequences(spec, request, [prompt], top, scored=False)
        return Work(sequences, Voice.chat(self._tokenizer, spec.id, request, prompt))

    def _completion(self, spec: JobSpec, request: completion.Request) -> Work:
        prompts = completion_prompts(request, self._tokenizer, self._vocabulary)
        whole = [Prompt(tokens, [], False) for tokens in prompts]
        scored = bool(request.echo and request.logprobs is not None)
        sequences = self._sequences(spec, request, whole, request.logprobs, scored)
        return Work(sequences, Voice.completion(self._tokenizer, spec.id, request, prompts))

    def _sequences(
        self, spec: JobSpec, request: Request, prompts: list[Prompt], top: int | None, scored: bool
    ) -> list[Sequence]:
        """One a prompt, or several if its choices are more than the slots: the prompt is then known."""
        samples = self._samples(request, prompts[0].reasoning)
        return [
            Sequence(
                job_id=spec.id,
                prompt=index,
                tokens=prompt.tokens,
                samples=[
                    _forked(sample, index * len(samples), seeded=request.seed is not None)
                    for sample in samples[first : first + self._slots]
                ],
                max_tokens=self._budget(spec, request, prompt),
                top=top,
                score_prompt=scored and first == 0,
                again=first > 0,
                boundaries=prompt.boundaries,
                lane=spec.lane,
            )
            for index, prompt in enumerate(prompts)
            for first in range(0, len(samples), self._slots)
        ]

    def _samples(self, request: Request, reasoning: bool) -> list[Sample]:
        """The choices of one prompt."""
        constraint = self._grammars.constraint(request, reasoning)
        return [
            Sample(choice, sampling_of(request, self._defaults, self._vocabulary, choice), constraint)
            for choice in range(request.choices)
        ]

    def _budget(self, spec: JobSpec, request: Request, prompt: Prompt) -> int:
        param = "messages" if spec.task == "chat" else "prompt"
        if (last := max(prompt.tokens, default=0)) >= self._vocabulary:
            raise BadRequest(
                f"'{param}' has token {last}, which the tokenizer knows and the model does not: it has 0 to "
                f"{self._vocabulary - 1}.",
                param=param,
            )
        return token_budget(len(prompt.tokens), request.token_limit, self._context_length, param)


def _forked(sample: Sample, first: int, seeded: bool) -> Sample:
    """For a prompt whose choices are counted from `first`; with a constraint, and a chance, of its own."""
    sampling = sample.sampling if seeded else sample.sampling.reseeded()
    return Sample(first + sample.choice, sampling, sample.constraint and sample.constraint.fork())
