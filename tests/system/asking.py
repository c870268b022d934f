"""What the tests of language models ask, and how they listen."""

from typing import Any

LLM, THINKER = "smollm2-135m", "thinker"
NEVER_ENDING = {"0": -100, "2": -100}  # the end tokens of smollm2-135m
GREEDY = {"temperature": 0, "max_tokens": 16}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Heard:
    """A streamed answer, choice by choice."""

    def __init__(self, choices: int) -> None:
        self.texts = [""] * choices
        self.reasonings = [""] * choices
        self.finish_reasons: list[str | None] = [None] * choices
        self.pieces: list[str] = []
        self.logprobs: list[Any] = []
        self.usage: Any = None

    def add(self, chunk: Any) -> None:
        assert self.usage is None, "the usage comes last"
        self.usage = chunk.usage
        for choice in chunk.choices:
            delta = getattr(choice, "delta", None)
            text = (delta.content if delta else choice.text) or ""
            self.texts[choice.index] += text
            self.reasonings[choice.index] += getattr(delta, "reasoning_content", None) or ""
            self.pieces.append(text)
            if choice.logprobs and delta:
                self.logprobs += choice.logprobs.content
            if choice.finish_reason:
                assert self.finish_reasons[choice.index] is None
                self.finish_reasons[choice.index] = choice.finish_reason


async def hear(stream: Any, choices: int = 1) -> Heard:
    heard = Heard(choices)
    async for chunk in await stream:
        heard.add(chunk)
    return heard
