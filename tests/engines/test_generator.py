"""The engine's own batch: choices, seeds, scores, guesses, shared prompts, and who goes first.

On a tiny random model, whose answers say little but depend on every token.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.jobs import JobSpec
from tests.checkpoints import text
from tests.engines.drive import Drive, answer, chat, spec
from workers.engine import Engine, Output

pytestmark = pytest.mark.models

SLOTS = 8
GREEDY = {"temperature": 0, "max_tokens": 12}
HOT = {"temperature": 0.9, "top_p": 0.95, "max_tokens": 12}
LONG = " ".join(f"{n} foxes cross the river" for n in range(60))


class Tiny:
    """A loaded checkpoint."""

    def __init__(self, folder: Path) -> None:
        from workers.engines import llm

        self.model, self.tokenizer, _ = llm.load_model(folder)

    def engine(self, *, slots: int = SLOTS, draft: Any = None, **options: Any) -> Engine:
        from workers.engines import llm
        from workers.engines.llm.sampling import Defaults

        return llm.LlmEngine(
            self.model,
            self.tokenizer,
            slots=slots,
            context_length=2048,
            vocabulary=len(self.tokenizer),
            defaults=Defaults(),
            options=llm.Options(**{"prefill_step": 64, "prompt_cache_mb": 64} | options),
            draft=draft,
        )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(text.build(tmp_path_factory.mktemp("tiny") / "qwen3", "qwen3"))


@pytest.fixture
def engine(tiny: Tiny) -> Iterator[Engine]:
    engine = tiny.engine()
    yield engine
    engine.close()


def texts(engine: Engine, job: JobSpec) -> list[str]:
    return [choice["text"] for choice in answer(engine, job).result["choices"]]


def told(drive: Drive, job: JobSpec, kind: type) -> list[Any]:
    return [output.payload for output in drive.outputs[job.id] if isinstance(output.payload, kind)]


def test_a_seed_says_the_same_alone_and_among_sixteen_others(tiny: Tiny) -> None:
    engine = tiny.engine(slots=17)
    seeded = {"seed": 11, **HOT}
    [alone] = texts(engine, chat("Who is there?", **seeded))
    others = [
        chat(f"{n} of them?", seed=n, temperature=0.5 + n / 10, top_k=n, min_p=0.05 * (n % 3), max_tokens=15)
        for n in range(16)
    ]
    job, drive = chat("Who is there?", **seeded), Drive(engine)
    drive.add(*others[:9])
    drive.step()
    drive.add(job, *others[9:])
    drive.run()

    assert drive.text(job) == alone
    assert {tuple(texts(engine, chat("Who is there?", **seeded | {"seed": n}))) for n in range(4)} - {
        (alone,)
    }
    assert len({tuple(texts(engine, chat("Who is there?", **seeded | {"seed": n}))) for n in range(4)}) == 4


def test_the_choices_of_a_request_differ_and_the_first_is_that_of_a_single_one(engine: Engine) -> None:
    four = texts(engine, chat("Well?", n=4, seed=5, **HOT))
    assert len(set(four)) == 4
    assert texts(engine, chat("Well?", n=4, seed=5, **HOT)) == four
    assert texts(engine, chat("Well?", seed=5, **HOT)) == four[:1]


def test_more_choices_than_slots_all_come(tiny: Tiny) -> None:
    engine = tiny.engine(slots=3)
    job, drive = chat("Well?", n=8, seed=5, **HOT), Drive(engine)
    drive.add(job)
    drive.run()
    choices = drive.done(job).result["choices"]
    assert [choice["text"] for choice in choices[:3]] == texts(engine, chat("Well?", n=3, seed=5, **HOT))
    assert len({choice["text"] for choice in choices}) == 8


def test_a_choice_that_a_stop_string_has_ended_gives_its_slot_back(tiny: Tiny) -> None:
    engine = tiny.engine(slots=2)
    long = HOT | {"max_tokens": 60, "n": 2, "seed": 3}
    first, second = texts(engine, chat("Well?", **long))
    stop = next(first[at : at + 3] for at in range(4, 50) if first[at : at + 3] not in second)
    job, late, drive = chat("Well?", stop=stop, **long), chat("And?", **GREEDY), Drive(engine)
    drive.add(job)
    while not engine._generator.rows:
        drive.step()
    drive.add(late)
    while late.id in drive.running:
        drive.step()

    assert job.id in drive.running
    drive.run()
    assert [choice["text"] for choice in drive.done(job).result["choices"]] == [
        first[: first.index(stop)],
        second,
    ]


def test_scores_are_those_of_the_model_whatever_changes_its_choice(tiny: Tiny, engine: Engine) -> None:
    """Of every token of prompt and answer, beside a call of the model with all of them at once."""
    import mlx.core as mx

    from workers.engines.llm.said import PromptScores, Token

    bent = {"logit_bias": {"7": 5}, "repetition_penalty": 1.3, "temperature": 0.7, "seed": 1, "top_k": 9}
    job = spec("completion", prompt="The river " * 40, echo=True, logprobs=4, max_tokens=9, **bent)
    drive = Drive(engine)
    drive.add(job, chat("Somebody else", **GREEDY))
    drive.run()

    [prompt] = told(drive, job, PromptScores)
    said = told(drive, job, Token)
    tokens = tiny.tokenizer.encode("The river " * 40) + [token.id for token in said]
    logits = tiny.model(mx.array(tokens)[None])[0]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    scored = prompt.scored + [token.scored for token in said]
    assert scored[0].logprob is None and len(scored) == len(tokens)
    for at, (token, each) in enumerate(zip(tokens[1:], scored[1:], strict=True)):
        assert each.logprob == pytest.approx(logprobs[at, token].item(), abs=1e-4)
        best = mx.argsort(-logprobs[at])[:4].tolist()
        assert [token for token, _ in each.top] == best
        assert [value for _, value in each.top] == pytest.approx(
            logprobs[at][mx.array(best)].tolist(), abs=1e-4
        )


def test_reading_alone_says_nothing_but_the_scores(engine: Engine) -> None:
    job = spec("completion", prompt=["One fox.", "Two foxes."], echo=True, logprobs=1, max_tokens=0)
    done = answer(engine, job)
    assert [choice["text"] for choice in done.result["choices"]] == ["One fox.", "Two foxes."]
    assert [choice["finish_reason"] for choice in done.result["choices"]] == ["length", "length"]
    assert done.usage["completion_tokens"] == 0


class Wrong:
    """A draft whose first choice is the model's last."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        return -self._model(tokens, cache=cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.mark.parametrize("right", [True, False])
def test_a_draft_changes_how_many_steps_it_takes_and_not_the_text(
    tiny: Tiny, engine: Engine, right: bool
) -> None:
    drafted = tiny.engine(draft=tiny.model if right else Wrong(tiny.model), draft_tokens=3)
    jobs = [
        chat("Who?", temperature=0, max_tokens=20),
        chat(f"Who? {LONG}", temperature=0, max_tokens=17),
        chat("Who?", seed=9, logprobs=True, top_logprobs=2, **HOT),
        chat("Who?", response_format={"type": "json_object"}, **GREEDY),
        chat("Who?", frequency_penalty=1.5, **GREEDY),
    ]
    alone = {}
    for job in jobs:
        steps = {}
        for name, each in (("plain", engine), ("drafted", drafted)):
            drive = Drive(each)
            drive.add(job)
            steps[name] = 0
            while drive.running:
                drive.step()
                steps[name] += bool(each._generator.rows)
            alone.setdefault(job.id, []).append(drive.done(job).result)
        assert alone[job.id][0] == alone[job.id][1]
        if right and job in jobs[:3]:
            assert steps["drafted"] <= steps["plain"] / 2

    drive = Drive(drafted)
    drive.add(*jobs[:2])
    drive.step()
    drive.step()
    drive.add(*jobs[2:])  # more rows than leap, and some that never do
    drive.run()
    assert [drive.done(job).result for job in jobs] == [alone[job.id][0] for job in jobs]


def test_a_draft_needs_caches_that_can_be_cut_back(tmp_path: Path) -> None:
    sliding = Tiny(text.build(tmp_path / "gemma3", "gemma3_text"))
    with pytest.raises(ValueError, match="draft_model"):
        sliding.engine(draft=sliding.model)


def test_running_streams_say_a_token_in_every_step_while_a_long_prompt_is_read(engine: Engine) -> None:
    streams = [chat(f"{n}?", temperature=0, max_tokens=80, logit_bias={"2": -100}) for n in range(SLOTS - 1)]
    late, drive = chat(LONG, **GREEDY), Drive(engine)
    drive.add(*streams)
    while not all(drive.outputs[job.id] for job in streams):
        drive.step()
    drive.add(late)
    pieces = 0
    while not drive.outputs[late.id]:
        before = {job.id: len(drive.outputs[job.id]) for job in streams}
        drive.step()
        assert all(len(drive.outputs[job.id]) == before[job.id] + 1 for job in streams)
        pieces += 1
    assert pieces > 5  # each no longer than the engine's piece


def test_a_burst_with_one_beginning_reads_it_once(engine: Engine) -> None:
    jobs, drive = [chat(f"{LONG} {n}?", **GREEDY) for n in range(SLOTS)], Drive(engine)
    drive.add(*jobs)
    drive.run()
    cached = [drive.done(job).usage["prompt_tokens_details"]["cached_tokens"] for job in jobs]
    prompt = drive.done(jobs[0]).usage["prompt_tokens"]
    assert cached[0] == 0 and all(each > 0.9 * prompt for each in cached[1:])


def test_a_job_of_many_prompts_leaves_room_for_others(tiny: Tiny) -> None:
    engine = tiny.engine(slots=2)
    many = spec("completion", prompt=[f"{n} foxes" for n in range(30)], temperature=0, max_tokens=6)
    single, drive = chat("Who?", **GREEDY), Drive(engine)
    drive.add(many)
    for _ in range(3):
        drive.step()
    drive.add(single)
    while single.id in drive.running:
        drive.step()
    from workers.engines.llm.said import Token

    ended = [token for token in told(drive, many, Token) if token.finish_reason]
    assert len(ended) < 10
    drive.run()
    assert len(drive.done(many).result["choices"]) == 30


def test_the_prompt_cache_keeps_to_its_bytes(tiny: Tiny) -> None:
    engine = tiny.engine(prompt_cache_mb=4)
    for n in range(12):
        answer(engine, chat(f"{n} {LONG}", **GREEDY))
        assert 0 < engine._prefixes.nbytes <= 4 << 20
    again = answer(engine, chat(f"0 {LONG}", **GREEDY)).usage["prompt_tokens_details"]
    assert again["cached_tokens"] < 100


def test_an_abort_in_any_state_leaves_the_others_as_they_are(engine: Engine) -> None:
    jobs = [chat(f"{n} {LONG if n % 2 else ''}", n=1 + n % 2, seed=n, **HOT) for n in range(6)]
    alone = [answer(engine, job).result for job in jobs]
    for steps in range(8):
        drive = Drive(engine)
        drive.add(*jobs)
        for _ in range(steps):
            drive.step()
        for job in jobs[::3]:
            if job.id in drive.running:
                drive.end(job.id)
        drive.run()
        kept = [n for n in range(6) if n % 3]
        assert [drive.done(jobs[n]).result for n in kept] == [alone[n] for n in kept]


def test_what_the_generator_says_last_is_marked_once(engine: Engine) -> None:
    job, drive = chat("Well?", n=3, seed=1, **HOT), Drive(engine)
    drive.add(job)
    drive.run()
    lasts = [output.last for output in drive.outputs[job.id]]
    assert isinstance(drive.outputs[job.id][0], Output) and lasts.count(True) == 1 and lasts[-1]


def test_the_prompt_cache_finds_the_longest_beginning_among_many(tiny: Tiny) -> None:
    """Beside a search that compares everything."""
    import random

    from workers.engines.llm.models import Models
    from workers.engines.llm.prefixes import BLOCK, Prefixes
    from workers.engines.llm.sequence import Sequence

    draw, models = random.Random(7), Models(tiny.model)
    prefixes, kept = Prefixes(models, 1 << 30), []
    for _ in range(120):
        base = draw.choice(kept)[: draw.randrange(1, 200)] if kept and draw.random() < 0.8 else []
        tokens = base + [draw.randrange(50) for _ in range(draw.randrange(10, 150))]
        common = max((sum(1 for _ in _alike(tokens[:-1], each)) for each in kept), default=0)
        cache, length = prefixes.nearest(Sequence("j", 0, tokens, [], 1))
        assert cache[0].offset == length
        assert common - BLOCK < length <= common
        filled = models.make_cache()
        for layer in filled:
            layer.update_and_fetch(*_filled(len(tokens)))
        prefixes.keep(tokens, filled)
        kept += [tokens] if len(tokens) >= BLOCK else []


def _alike(one: list[int], other: list[int]) -> Iterator[int]:
    for a, b in zip(one, other, strict=False):
        if a != b:
            return
        yield a


def _filled(tokens: int) -> tuple[Any, Any]:
    import mlx.core as mx

    return mx.zeros((1, 1, tokens, 2)), mx.zeros((1, 1, tokens, 2))
