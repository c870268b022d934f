"""mlx-lm's BatchGenerator, as this engine wants it: the bare loop that benchmarks measure against."""

from typing import Any

import msgspec
from mlx_lm.generate import BatchGenerator, PromptProcessingBatch
from mlx_lm.tokenizer_utils import TokenizerWrapper

from workers import memory

STALL = 0.25  # seconds that reading prompts may hold up answers which are already streaming
CPU_STALL = 1.0  # the same where a step without any reading takes 0.1 s


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`options` of the manifest. Both are in tokens; 0 lets the device decide.

    `prefill_step` is read of one prompt in a step, `prefill_budget` of all prompts together; the
    device's own is as much as it has been seen to read in STALL (CPU_STALL) seconds.
    """

    prefill_step: int = 0
    prefill_budget: int = 0

    def settled(self) -> "Options":
        step = self.prefill_step or (512 if memory.compact() else 128)
        return Options(prefill_step=step, prefill_budget=self.prefill_budget)


def batch_generator(
    model: Any, tokenizer: TokenizerWrapper, slots: int, options: Options | None = None
) -> BatchGenerator:
    """A generator for `slots` rows that stops at the model's end tokens. In the engine thread."""
    return BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(tokenizer.eos_token_ids)],
        completion_batch_size=slots,
        prefill_batch_size=slots,
        prefill_step_size=(options or Options()).settled().prefill_step,
    )


class Prefill:
    """Which prompts are being read, and whether one more fits into a step's budget.

    mlx-lm pads the pieces that it reads together to the longest of them.
    """

    def __init__(self, options: Options) -> None:
        self._step = options.prefill_step
        self._fixed = options.prefill_budget
        self._stall = STALL if memory.compact() else CPU_STALL
        self._speed = 0.0  # tokens a second
        self._left: dict[int, int] = {}

    @property
    def budget(self) -> int:
        """Tokens of one step, padding among them."""
        return self._fixed or max(self._step, int(self._speed * self._stall))

    def fits(self, tokens: int) -> bool:
        """A prompt that is alone always does."""
        if not self._left:
            return True
        longest = min(max(tokens, *self._left.values()), self._step)
        return (len(self._left) + 1) * longest <= self.budget

    def begin(self, uid: int, tokens: int) -> None:
        self._left[uid] = tokens

    def advance(self, responses: list[PromptProcessingBatch.Response]) -> None:
        for response in responses:
            done, total = response.progress
            if response.end_of_prompt:
                self.end(response.uid)
            elif response.uid in self._left:
                self._left[response.uid] = total - done

    def measure(self, tokens: int, seconds: float) -> None:
        """What a step has read, and how long that took. Small steps are slow, and say nothing; one that
        took too long may have compiled something, so it halves the speed at most."""
        if not tokens:
            return
        speed = tokens / seconds
        if seconds > self._stall:
            self._speed = max(speed, self._speed / 2)
        else:
            self._speed = max(speed, self._speed)

    def end(self, uid: int) -> None:
        self._left.pop(uid, None)

    def clear(self) -> None:
        """Every prompt has gone; the speed is still true."""
        self._left.clear()
