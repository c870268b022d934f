"""A closed loop: each stream sends its next request when its last answer is complete."""

import asyncio
import random
import time

import msgspec

from benchmarks.streaming import Answer, Target, ask

WORDS = (
    "river lantern copper violin harbour meadow thunder carpet glacier window saffron engine marble "
    "whisper orchard compass velvet canyon pepper anchor mirror cactus ribbon planet basket falcon "
    "ginger tunnel feather bronze island pocket comet barrel willow magnet dagger blossom ladder coral"
).split()


class Plan(msgspec.Struct, frozen=True):
    """`streams` in parallel, each asking `each` times for `tokens` tokens after `words` words."""

    streams: int = 64
    tokens: int = 128
    each: int = 1
    words: int = 32
    greedy: bool = True

    def prompts(self, seed: int) -> list[list[str]]:
        """[stream][turn]. No two share a beginning, so that no prompt cache can help."""
        draw = random.Random(seed)
        return [[self._prompt(draw) for _ in range(self.each)] for _ in range(self.streams)]

    def _prompt(self, draw: random.Random) -> str:
        opening = f"{draw.getrandbits(40):x} "
        return opening + "Write a long story with these words: " + " ".join(draw.choices(WORDS, k=self.words))

    def fields(self, prompt: str) -> dict:
        """The request's fields beside the model and streaming."""
        fields = {"messages": [{"role": "user", "content": prompt}], "max_tokens": self.tokens}
        return fields | ({"temperature": 0} if self.greedy else {"temperature": 1.0})


class Round(msgspec.Struct):
    """What one round gave. `seconds` is from the first request to the last answer's end;
    `client` the share of one core that the measuring client itself took."""

    answers: list[Answer]
    seconds: float
    client: float = 0.0

    @property
    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.error]

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.good)

    @property
    def rate(self) -> float:
        """Tokens a second of all streams together."""
        return self.tokens / self.seconds

    @property
    def errors(self) -> list[str]:
        return [answer.error for answer in self.answers if answer.error]


async def run(target: Target, plan: Plan, seed: int, timeout: float = 600.0) -> Round:
    """One round over HTTP, with the prompts of `seed`."""

    async def stream(prompts: list[str]) -> list[Answer]:
        return [await ask(target, plan.fields(prompt), timeout) for prompt in prompts]

    wall, cpu = time.perf_counter(), time.process_time()
    told = await asyncio.gather(*(stream(prompts) for prompts in plan.prompts(seed)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Round([answer for answers in told for answer in answers], wall, cpu / wall)
