"""What a JSON schema costs: decoding with one in every row, beside decoding without, in one process.

    python -m benchmarks.constrained FOLDER --rows 8

The engine itself, without HTTP and queue. Rounds of the two alternate; a rate counts the tokens and the time
while all rows are answered, so prompts are not in it. Speed does not depend on what weights say: a folder of
`benchmarks/random_model.py` will do.
"""

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from shared.jobs import JobSpec
from shared.manifest import ModelEntry
from workers import memory

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 4},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string", "maxLength": 40}, "zip": {"type": "integer"}},
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {"people": {"type": "array", "items": PERSON, "minItems": 1000}},
    "required": ["people"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "people", "schema": SCHEMA}}


def spec(number: int, tokens: int, constrained: bool) -> JobSpec:
    asked = f"{number}: list people with their addresses."
    params: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": asked}],
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": number,
    }
    params |= {"response_format": FORMAT} if constrained else {}
    return JobSpec(id=f"{number}", task="chat", model="m", params=params, created=0, timeout=600)


def rate(engine: Any, first: int, rows: int, tokens: int, constrained: bool) -> float:
    """Tokens a second of so many rows together."""
    prepared = [engine.prepare(spec(first + row, tokens, constrained), None) for row in range(rows)]
    for each in prepared:
        engine.add(each)
    running = {each.spec.id for each in prepared}
    told, began, ended = 0, 0.0, 0.0
    while running:
        outputs = engine.step()
        if not began and len({job_id for job_id, _ in outputs}) == rows:
            began = time.perf_counter()  # all prompts are read
        elif began and len(running) == rows:
            told += len(outputs)
            ended = time.perf_counter()
        for job_id, output in outputs:
            if output.error:
                raise output.error
            if output.last:
                running.discard(job_id)
                engine.forget(job_id)
    if not told:
        raise RuntimeError("an answer ended before all had begun: ask for more tokens")
    return told / (ended - began)


def main(
    model: Annotated[Path, typer.Argument(help="The model's folder.")],
    rows: Annotated[int, typer.Option(help="Rows of the batch.")] = 8,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 64,
    rounds: Annotated[int, typer.Option(help="Measured rounds of each.")] = 5,
    warmup: Annotated[int, typer.Option(help="Rounds before them, which do not count.")] = 1,
) -> None:
    """Measure decoding with and without a schema."""
    memory.preload_blas()
    from workers.engines import llm

    entry = ModelEntry(id="m", engine="llm", source=f"{model}", max_concurrency=rows)
    engine = llm.load(entry, model.expanduser())
    rates: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(warmup + rounds):
        for constrained in rates:
            first = (2 * turn + constrained) * rows
            rates[constrained].append(rate(engine, first, rows, tokens, constrained))
    engine.close()
    free, bound = rates[False][warmup:], rates[True][warmup:]
    ratios = [ours / theirs for ours, theirs in zip(bound, free, strict=True)]
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    Console(width=110).print(
        f"{rows} rows × {tokens} tokens: free {median(free):.1f} tokens/s, with a schema "
        f"{median(bound):.1f}; ratio {median(ratios):.3f} (of {each})"
    )


if __name__ == "__main__":
    typer.run(main)
