"""Completions of prompts, in the shapes of `openai.types.Completion` (OpenAI's legacy endpoint)."""

from typing import Annotated, Any

from msgspec import Meta

from shared import generation
from shared.completion import answer
from shared.errors import BadRequest
from shared.generation import Generation, Natural, Positive
from shared.validation import validate as convert

ENDPOINT = "/v1/completions"
FILE = False
RESUMES = False
STREAM_END = "[DONE]"

MAX_TOKENS = 16  # of an answer whose request does not say, as OpenAI has it
MAX_CHOICES = 2048  # of all prompts together

Prompt = str | list[int]


class Request(Generation, kw_only=True, omit_defaults=True):
    """A completion request. `prompt` is a text, token ids, or a list of the one or of the other;
    `response_format` is what chat has."""

    prompt: str | Annotated[list[str | Natural | list[Natural]], Meta(min_length=1)]
    max_tokens: Natural | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    best_of: Positive | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """Every prompt; choice c belongs to prompt c // `choices`."""
        single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if single else self.prompt

    @property
    def token_limit(self) -> int:
        return MAX_TOKENS if self.max_tokens is None else self.max_tokens


UNSUPPORTED: dict[str, tuple] = {
    "suffix": ("",),
    "webhook_url": (),
}


def validate(raw: Any, strict: bool = True) -> Request:
    generation.check_depth(raw, "response_format")
    request = convert(raw, Request, UNSUPPORTED, strict=strict)
    generation.check(request)
    _check_prompt(request.prompt)
    if len(request.prompts) * request.choices > MAX_CHOICES:
        raise BadRequest(
            f"{len(request.prompts)} prompts times 'n' {request.choices} is more than {MAX_CHOICES} "
            "answers; send several requests.",
            param="n" if len(request.prompts) <= MAX_CHOICES else "prompt",
        )
    if request.best_of not in (None, 1, request.choices):
        raise BadRequest(
            "'best_of' is not supported by this server unless it is 'n'; leave it out.",
            param="best_of",
            code="unsupported_value",
        )
    if request.max_tokens == 0 and not request.echo:
        raise BadRequest("'max_tokens' may be 0 only with 'echo': true.", param="max_tokens")
    return request


def _check_prompt(prompt: str | list) -> None:
    if isinstance(prompt, str):
        return
    if len({type(each) for each in prompt}) > 1:
        raise BadRequest("'prompt' mixes texts and token ids.", param="prompt")
    for index, each in enumerate(prompt):
        if each == []:
            raise BadRequest(f"'prompt[{index}]' has no tokens.", param=f"prompt[{index}]")


lane = generation.lane
body = answer.body
Stream = answer.Stream
