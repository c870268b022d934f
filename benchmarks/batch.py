"""The engine's own batch beside mlx-lm's BatchGenerator, in one process, on the same prompts.

    python -m benchmarks.batch FOLDER --rows 64
    python -m benchmarks.batch FOLDER --rows 64 --sampled

No HTTP, no queue, no text: tokens a second from the first to the last, prompts among them. With --sampled
every row has a seed of its own, as requests with a seed have; to mlx-lm that is a sampler a row.
"""

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.load import Plan
from shared.jobs import JobSpec
from shared.manifest import ModelEntry
from workers import memory

SAMPLED = {"temperature": 0.8, "top_p": 0.95}


def ours(engine: Any, prompts: list[str], tokens: int, sampled: bool) -> float:
    prepared = [engine.prepare(_spec(n, each, tokens, sampled), None) for n, each in enumerate(prompts)]
    began, told = time.perf_counter(), 0
    for each in prepared:
        engine.add(each)
    running = len(prepared)
    while running:
        for job_id, output in engine.step():
            if output.error:
                raise output.error
            told += 1
            if output.last:
                running -= 1
                engine.forget(job_id)
    return told / (time.perf_counter() - began)


def theirs(generator: Any, tokenizer: Any, prompts: list[str], tokens: int, sampled: bool) -> float:
    asked = [
        list(tokenizer.apply_chat_template([{"role": "user", "content": each}], add_generation_prompt=True))
        for each in prompts
    ]
    samplers = [_sampler(seed) if sampled else None for seed in range(len(asked))]
    began, told = time.perf_counter(), 0
    generator.insert(asked, [tokens] * len(asked), samplers=samplers)
    running = len(asked)
    while running:
        _, said = generator.next()
        told += len(said)
        running -= sum(1 for each in said if each.finish_reason)
    return told / (time.perf_counter() - began)


def _spec(number: int, prompt: str, tokens: int, sampled: bool) -> JobSpec:
    params: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    params |= {"max_tokens": tokens} | ({"seed": number} | SAMPLED if sampled else {"temperature": 0})
    return JobSpec(id=f"{number}", task="chat", model="m", params=params, created=0, timeout=600)


def _sampler(seed: int) -> Any:
    """What a row with a seed needs there: its own key at every position."""
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_top_p

    position = iter(range(10**9))

    def sample(logprobs: Any) -> Any:
        narrowed = apply_top_p(logprobs, SAMPLED["top_p"])
        key = mx.random.key(seed * 1_000_003 + next(position))
        return mx.random.categorical(narrowed * (1 / SAMPLED["temperature"]), key=key)

    return sample


def main(
    model: Annotated[Path, typer.Argument(help="The model's folder.")],
    rows: Annotated[int, typer.Option(help="Rows of the batch.")] = 64,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 128,
    rounds: Annotated[int, typer.Option(help="Measured rounds of each.")] = 5,
    warmup: Annotated[int, typer.Option(help="Rounds before them, which do not count.")] = 3,
    sampled: Annotated[bool, typer.Option(help="Sample, each row with a seed.")] = False,
) -> None:
    """Measure both in turn."""
    memory.preload_blas()
    from mlx_lm.generate import BatchGenerator

    from workers.engines import llm

    entry = ModelEntry(id="m", engine="llm", source=f"{model}", max_concurrency=rows)
    engine = llm.load(entry, model.expanduser())
    weights, tokenizer, _ = llm.load_model(model.expanduser())
    generator = BatchGenerator(
        weights,
        stop_tokens=[[token] for token in sorted(tokenizer.eos_token_ids)],
        completion_batch_size=rows,
        prefill_batch_size=rows,
        prefill_step_size=llm.Options().settled().prefill_step,
    )
    pairs = []
    for turn in range(warmup + rounds):
        prompts = [each[0] for each in Plan(streams=rows).prompts(turn)]
        bare = theirs(generator, tokenizer, prompts, tokens, sampled)
        pairs.append((ours(engine, prompts, tokens, sampled), bare))
    engine.close()
    pairs = pairs[warmup:]
    ratios = [mine / other for mine, other in pairs]
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    Console(width=110).print(
        f"{rows} rows × {tokens} tokens, {'sampled' if sampled else 'greedy'}: engine "
        f"{median(mine for mine, _ in pairs):.0f} tokens/s, BatchGenerator "
        f"{median(bare for _, bare in pairs):.0f}; ratio {median(ratios):.3f} (of {each})"
    )


if __name__ == "__main__":
    typer.run(main)
