"""What goes wrong with one job, or is odd of one model, costs the others nothing and is not kept for long."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import BadRequest, EngineError
from shared.manifest import ModelEntry
from tests.checkpoints import text
from tests.engines.drive import Drive, answer, chat, spec
from tests.engines.test_generator import GREEDY, HOT, LONG, Tiny, Wrong, texts
from workers.engine import Engine

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text.build(tmp_path_factory.mktemp("tiny") / "qwen3", "qwen3")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Tiny:
    return Tiny(folder)


@pytest.fixture
def engine(tiny: Tiny) -> Iterator[Engine]:
    engine = tiny.engine()
    yield engine
    engine.close()


def test_a_job_of_several_choices_that_is_over_before_its_abort_disturbs_nobody(engine: Engine) -> None:
    """The outlet forgets a job at once; the abort waits for the end of the step."""
    several, other = chat("Well?", n=2, seed=1, **HOT | {"max_tokens": 60}), chat("Other", **GREEDY)
    alone = answer(engine, other)
    drive = Drive(engine)
    drive.add(several, other)
    while not drive.outputs[several.id]:
        drive.step()
    engine.forget(several.id)
    drive.step()
    drive.end(several.id)
    drive.run()
    assert not drive.errors and drive.done(other).result == alone.result


def test_a_step_that_breaks_ends_every_job_once_and_the_next_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that ended in it."""
    short = chat("Well?", temperature=0, max_tokens=3)
    long = chat("Well?", n=2, temperature=0, max_tokens=40)
    alone = answer(engine, short)
    end = engine._generator.end

    def broken(rows: list[Any]) -> None:
        if rows:
            raise RuntimeError("no memory")
        end(rows)

    monkeypatch.setattr(engine._generator, "end", broken)
    drive = Drive(engine)
    drive.add(short, long)
    drive.run(20)
    assert drive.done(short).result == alone.result
    assert isinstance(drive.errors[long.id], EngineError) and not drive.running
    assert answer(engine, short).result == alone.result


def test_a_grammar_that_panics_costs_its_own_job(engine: Engine) -> None:
    """A panic of Rust is no Exception."""

    class Panicking:
        def __getattr__(self, name: str) -> Any:
            raise BaseException("panic")

    bad, good = chat("Who?", response_format={"type": "json_object"}, **GREEDY), chat("Other", **GREEDY)
    alone, drive = answer(engine, good), Drive(engine)
    drive.add(good, bad)
    while not drive.outputs[bad.id]:
        drive.step()
    engine._generator.rows[-1].constraint.matcher = Panicking()
    drive.run()
    assert list(drive.errors) == [bad.id] and drive.done(good).result == alone.result


def test_equal_prompts_without_a_seed_are_answered_differently(engine: Engine) -> None:
    said = texts(engine, spec("completion", prompt=["A fox "] * 4, n=2, temperature=1, max_tokens=12))
    assert len(set(said)) == 8
    seeded = texts(engine, spec("completion", prompt=["A fox "] * 2, seed=1, temperature=1, max_tokens=12))
    assert seeded[0] == seeded[1]


def test_what_one_choice_has_read_is_not_cached_for_the_others(tiny: Tiny) -> None:
    engine, job = tiny.engine(slots=3), chat(LONG, n=8, seed=1, **HOT)
    usage = [answer(engine, job).usage for _ in range(2)]
    cached = [each["prompt_tokens_details"]["cached_tokens"] for each in usage]
    assert cached == [0, usage[0]["prompt_tokens"] - 1]
    assert len(engine._prefixes._entries) == 1


def test_prompts_that_the_cache_is_too_small_for_are_not_read_one_after_another(tiny: Tiny) -> None:
    steps = {}
    for megabytes in (1, 64):
        engine = tiny.engine(prompt_cache_mb=megabytes, prefill_budget=8 * 64)
        drive = Drive(engine)
        drive.add(*[chat(f"{LONG} {n}?", temperature=0, max_tokens=2) for n in range(8)])
        while drive.running:
            drive.step()
        steps[megabytes] = engine._generator._steps
    assert steps[1] < 2.5 * steps[64]


def test_a_token_that_the_model_does_not_have_is_refused(folder: Path) -> None:
    from tokenizers import AddedToken

    other = Tiny(folder)
    engine = other.engine()
    other.tokenizer._tokenizer.add_tokens([AddedToken("<|extra|>", special=True)])
    for job, param in (
        (chat("Say <|extra|>", repetition_penalty=1.1), "messages"),
        (spec("completion", prompt="Say <|extra|>"), "prompt"),
    ):
        with pytest.raises(BadRequest, match="does not") as refused:
            engine.prepare(job, None)
        assert refused.value.param == param


class Padded(Wrong):
    """A draft with more logits than the model, or fewer: the best of them are not the model's."""

    def __init__(self, model: Any, by: int) -> None:
        super().__init__(model)
        self._by = by

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        import mlx.core as mx

        logits = self._model(tokens, cache=cache)
        if self._by < 0:
            return logits[..., : self._by]
        return mx.concatenate(
            [logits, mx.max(logits, axis=-1, keepdims=True) + mx.ones((self._by,))], axis=-1
        )


@pytest.mark.parametrize("by", [-8, 8])
def test_a_draft_may_have_another_number_of_logits(tiny: Tiny, engine: Engine, by: int) -> None:
    drafted = tiny.engine(draft=Padded(tiny.model, by))
    for fields in (
        {"temperature": 0},
        {"temperature": 0.8, "seed": 3},
        {"temperature": 0, "logit_bias": {"5": 1}},
    ):
        job, drive = chat("Who?", max_tokens=20, **fields), Drive(drafted)
        drive.add(job)
        steps = 0
        while drive.running:
            drive.step()
            steps += 1
        assert drive.done(job).result == answer(engine, job).result
        assert steps < 12


class Moody(Wrong):
    """A draft that is right after some tokens only."""

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        import mlx.core as mx

        logits = self._model(tokens, cache=cache)
        return mx.where((tokens % 2 == 0)[..., None], logits, -logits)


def test_padding_that_leaps_leave_in_all_rows_is_given_up(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.engines.llm import generator

    monkeypatch.setattr(generator, "TIDY", 32)
    engine = tiny.engine(draft=Moody(tiny.model), draft_tokens=4)
    drive = Drive(engine)
    drive.add(*[chat(f"{n}?", temperature=0, max_tokens=300, logit_bias={"2": -100}) for n in range(3)])
    padding = []
    while engine._generator._steps < 96:
        drive.step()
        padding.append(min(engine._generator._decoding._cache[0].left_padding.tolist()))
    assert max(padding) > 0 and padding[31] == padding[63] == padding[95] == 0


@pytest.mark.parametrize("architecture", ["nemotron_h", "qwen3"])
def test_what_no_layer_asks_for_is_computed_all_the_same(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nemotron_h's attention has no positions: its offsets would be a graph as long as the batch lives."""
    import mlx.core as mx

    from workers.engines.llm import generator

    monkeypatch.setattr(generator, "TIDY", 8)
    engine = Tiny(text.build(tmp_path / architecture, architecture)).engine()
    drive = Drive(engine)
    drive.add(chat("Who?", temperature=0, max_tokens=70, logit_bias={"2": -100}))
    while engine._generator._steps < 64:
        drive.step()
    offsets = [layer.offset for layer in engine._generator._decoding._cache if hasattr(layer, "offset")]
    mx.export_to_dot(str(tmp_path / "graph"), *offsets)
    assert (tmp_path / "graph").read_text().count("->") < 50 * len(offsets)


def test_the_prompt_cache_holds_no_more_than_it_counts(tmp_path: Path) -> None:
    """A slice of a recurrent state would keep the states of the whole batch."""
    import mlx.core as mx

    engine = Tiny(text.build(tmp_path / "mamba2", "mamba2")).engine(slots=32)
    drive = Drive(engine)
    drive.add(*[chat(f"{n}? {LONG[:99]}", temperature=0, max_tokens=10 + n) for n in range(32)])
    drive.run()
    held = mx.get_active_memory()
    counted = engine._prefixes.nbytes
    engine._prefixes._entries.clear()
    assert 0 < held - mx.get_active_memory() < 2 * counted


def test_a_model_without_a_template_and_one_with_a_tiny_context_load(folder: Path, tmp_path: Path) -> None:
    import shutil

    from workers.engines import llm

    base = shutil.copytree(folder, tmp_path / "base")
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "chat_template"}))
    for context_length in (40, None):
        entry = ModelEntry(id="base", engine="llm", max_concurrency=2, context_length=context_length)
        engine = llm.load(entry, base)
        assert texts(engine, spec("completion", prompt="A fox", temperature=0, max_tokens=5))[0]
        with pytest.raises(BadRequest, match="chat template"):
            engine.prepare(chat("Hi"), None)
        engine.close()
