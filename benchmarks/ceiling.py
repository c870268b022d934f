"""The ceiling: mlx-lm's bare BatchGenerator, with nothing around it.

The same model folder, prompts, lengths, closed loop and pieces of prompts as the engine has, but prompts
are tokenised before the clock starts and tokens are never turned into text. It runs in a child process: MLX
keeps to one thread for life, and the client's event loop to another.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.load import Plan, Round
from benchmarks.streaming import Answer, Usage
from workers import memory

Ceiling = Callable[[Plan, int], Round]  # one round with the prompts of a seed


def bare_generator(path: Path, slots: int) -> Ceiling:
    """In the child process. `slots` is the batch's size, as max_concurrency is."""
    from mlx_lm.generate import BatchGenerator

    from workers.engines.llm import Options, load_model

    memory.set_wired_limit()
    model, tokenizer, _ = load_model(path)
    generator = BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(tokenizer.eos_token_ids)],
        completion_batch_size=slots,
        prefill_batch_size=slots,
        prefill_step_size=Options().settled().prefill_step,
    )
    return lambda plan, seed: _round(generator, plan, _tokenise(tokenizer, plan, seed))


def _tokenise(tokenizer: Any, plan: Plan, seed: int) -> list[list[list[int]]]:
    """[stream][turn][token], through the model's chat template."""

    def tokens(prompt: str) -> list[int]:
        messages = plan.fields(prompt)["messages"]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True))

    return [[tokens(prompt) for prompt in prompts] for prompts in plan.prompts(seed)]


def _round(generator: Any, plan: Plan, prompts: list[list[list[int]]]) -> Round:
    """The closed loop: a stream's next prompt goes in when its last answer is complete."""
    running: dict[int, tuple[Answer, list[list[int]]]] = {}
    answers: list[Answer] = []

    def begin(turns: list[list[int]]) -> None:
        answer = Answer(time.perf_counter(), usage=Usage(len(turns[0])))
        [uid] = generator.insert([turns[0]], [plan.tokens])
        running[uid] = answer, turns[1:]
        answers.append(answer)

    began = time.perf_counter()
    for turns in prompts:
        begin(turns)
    while running:
        _, said = generator.next()
        now = time.perf_counter()
        for token in said:
            answer, turns = running[token.uid]
            if token.finish_reason != "stop":
                answer.arrivals.append(now)
            if token.finish_reason:
                del running[token.uid]
                answer.ended, answer.finish_reason = now, token.finish_reason
                answer.usage.completion_tokens = len(answer.arrivals)
                if turns:
                    begin(turns)
    return Round(answers, time.perf_counter() - began)
