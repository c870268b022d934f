"""What the language engine does with a real model, beyond the contract."""

import gc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from shared.errors import BadRequest, EngineError
from shared.manifest import ModelEntry
from tests.engines.drive import Drive, answer, chat
from workers.engine import Engine

pytestmark = pytest.mark.models

QUESTIONS = [f"Name {n} things in a {place}." for n, place in enumerate(("kitchen", "garden", "forest"), 2)]
GREEDY = {"temperature": 0, "max_tokens": 8}
SEEDED = {"seed": 7, "temperature": 0.9, "top_p": 0.95, "max_tokens": 8}


def test_answers_a_question(llm_engine: Engine) -> None:
    done = answer(llm_engine, chat("What is the capital of France?", temperature=0))
    [choice] = done.result["choices"]
    assert "Paris" in choice["text"]
    assert choice["finish_reason"] == "stop"


def test_a_batch_of_eight_says_what_each_says_alone(llm_engine: Engine) -> None:
    jobs = [chat(question, **GREEDY) for question in QUESTIONS * 2]
    jobs += [chat(QUESTIONS[0], **SEEDED), chat(QUESTIONS[1], temperature=1.5, max_tokens=8)]
    drive = Drive(llm_engine)

    drive.add(*jobs)
    drive.run()

    for job in (*jobs[:3], jobs[6]):
        assert drive.done(job) == answer(llm_engine, replace(job, id=f"{job.id}-alone"))
    assert [drive.done(job) for job in jobs[:3]] == [drive.done(job) for job in jobs[3:6]]


def test_another_seed_is_another_answer(llm_engine: Engine) -> None:
    jobs, drive = [chat("Tell me anything.", **SEEDED | {"seed": seed}) for seed in (1, 2, 1, -1)], None
    drive = Drive(llm_engine)
    drive.add(*jobs)
    drive.run()
    texts = [drive.text(job) for job in jobs]
    assert texts[0] == texts[2]
    assert len(set(texts)) == 3


def test_a_long_prompt_can_be_aborted_while_it_is_read(llm_engine: Engine) -> None:
    long, short, drive = chat("word " * 600, **GREEDY), chat("Hi", **GREEDY), Drive(llm_engine)
    drive.add(long, short)
    drive.step()
    drive.step()
    assert not drive.outputs[long.id]

    drive.end(long.id)
    drive.run()

    assert drive.done(short) == answer(llm_engine, chat("Hi", **GREEDY))


def test_a_logit_bias_chooses_the_token(llm_engine: Engine) -> None:
    [token] = llm_engine._tokenizer.encode("Yes", add_special_tokens=False)
    job = chat("Hi", logit_bias={str(token): 100}, temperature=0, max_tokens=3)
    assert answer(llm_engine, job).result["choices"][0]["text"] == "YesYesYes"


def test_penalties_forbid_what_was_said(llm_engine: Engine) -> None:
    [token] = llm_engine._tokenizer.encode("Yes", add_special_tokens=False)
    biased = {"logit_bias": {str(token): 100}, "temperature": 0, "max_tokens": 3}
    for penalty in ({"repetition_penalty": 1e6}, {"frequency_penalty": 2, "presence_penalty": 2}):
        text = answer(llm_engine, chat("Hi", **biased, **penalty)).result["choices"][0]["text"]
        expected = 1 if "repetition_penalty" in penalty else 3  # 2 + 2 does not outweigh 100
        assert text.count("Yes") == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"9999999": 1}}, "logit_bias"),
        ({"chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize"),
    ],
)
def test_what_only_the_model_can_refuse_is_a_400(llm_engine: Engine, fields: dict, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        llm_engine.prepare(chat("Hi", **fields), None)
    assert refused.value.param == param


def test_the_roles_that_the_template_does_not_know_are_read_as_system(llm_engine: Engine) -> None:
    said = [{"role": "user", "content": "Hi"}]
    developer, system = (
        llm_engine.prepare(chat(messages=[{"role": role, "content": "Be brief."}, *said]), None)
        for role in ("developer", "system")
    )
    assert developer.work.sequences[0].tokens == system.work.sequences[0].tokens


def test_without_a_limit_the_answer_may_fill_the_context(llm_engine: Engine) -> None:
    [sequence] = llm_engine.prepare(chat("Hi"), None).work.sequences
    assert sequence.max_tokens == 8192 - len(sequence.tokens)


def test_a_grammar_that_breaks_or_raises_costs_its_own_row(llm_engine: Engine) -> None:
    good, alone = chat("Hi", **GREEDY), answer(llm_engine, chat("Hi", **GREEDY))
    drive = Drive(llm_engine)
    drive.add(good)
    for breaks in (lambda grammar: grammar.accept(0), lambda grammar: setattr(grammar, "matcher", Raising())):
        bad = chat("Hi", response_format={"type": "json_object"}, **GREEDY)
        prepared = llm_engine.prepare(bad, None)
        breaks(prepared.work.sequences[0].samples[0].constraint)
        llm_engine.add(prepared)
        drive.running.append(bad.id)
        drive.outputs[bad.id], drive.events[bad.id] = [], []

    drive.run()

    assert len(drive.errors) == 2
    assert drive.done(good) == alone


class Raising:
    """A matcher that is broken in a way in which llguidance's never is."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError


def test_a_step_that_fails_costs_its_jobs_and_not_the_engine(starters: Any) -> None:
    engine, model = _engine_over_a_fragile_model(*starters["llm"])
    drive = Drive(engine)
    drive.add(*(chat("Hi", **GREEDY) for _ in range(2)))
    drive.step()
    model.broken = True
    drive.run()
    model.broken = False

    assert [type(error) for error in drive.errors.values()] == [EngineError, EngineError]
    assert answer(engine, chat("Hi", **GREEDY)).result["choices"][0]["text"]
    engine.close()


def test_short_jobs_leave_no_memory_behind(llm_engine: Engine) -> None:
    import mlx.core as mx

    def held() -> int:
        gc.collect()
        return mx.get_active_memory()

    def run(jobs: int) -> None:
        for _ in range(jobs // 8):
            for n in range(8):
                prepared = llm_engine.prepare(chat("Hi", max_tokens=1, temperature=n % 2), None)
                prepared.work.sequences[0].tokens = prepared.work.sequences[0].tokens[:3]
                llm_engine.add(prepared)
                llm_engine.forget(prepared.spec.id)
            while llm_engine.step() or not llm_engine.has_room(prepared):
                pass

    run(8)
    before = held()
    run(200)
    assert held() <= before


class Fragile:
    """A model that can be told to run out of memory."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.broken = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            raise RuntimeError("out of memory")
        return self._model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _engine_over_a_fragile_model(entry: ModelEntry, path: Path) -> tuple[Engine, Fragile]:
    from workers.engines import llm
    from workers.engines.llm.sampling import Defaults

    model, tokenizer, _ = llm.load_model(path)
    fragile = Fragile(model)
    engine = llm.LlmEngine(
        fragile,
        tokenizer,
        slots=2,
        context_length=256,
        vocabulary=49152,
        defaults=Defaults(),
        options=msgspec.convert(entry.options, llm.Options),
    )
    return engine, fragile
