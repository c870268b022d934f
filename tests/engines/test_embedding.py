"""The embedding engine, on the starter and on functions in place of a model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from tokenizers import Tokenizer

from shared.errors import BadRequest, EngineError, WorkerDied
from shared.events import Delta, encode
from shared.jobs import JobSpec
from shared.manifest import ModelEntry
from shared.tasks import embedding as task
from tests.engines.bert_in_numpy import Bert
from tests.engines.drive import Drive, spec
from workers.engine import Engine

pytestmark = pytest.mark.models

STEP = 1024  # tokens; then a test does not depend on how fast the machine is
DATA = Path(__file__).parent.parent / "data"
AUSTEN = " ".join(json.loads((DATA / "transcripts.json").read_text()).values())
SENTENCES = [
    "Hello.",
    "The cat sat on the mat.",
    "Had he married a more amiable woman, he might have been made still more respectable than he was.",
    "How do I reset my password?",
    "An engine computes vectors of texts, side by side, in batches of about one length.",
    "naïve café, Ærøskøbing, Łódź, Zürich, São Paulo",
    "東京は日本の首都であり、世界最大級の都市です。",
    "Привет, как дела? Сегодня хорошая погода.",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "Ελληνικά γράμματα και σημεία στίξης;",
    "🙂🚀 emoji and ZWJ 👩‍👩‍👧‍👦 families",
    "def f(x):\n\treturn x ** 2  # code, tabs and line feeds",
    "a",
    " ",
    "... !!! ???",
    "Supercalifragilisticexpialidocious antidisestablishmentarianism",
    "1,234.56 is a number; 2026-11-24 is a date; 192.168.0.1 an address.",
    "https://example.org/a/path?query=1&other=two#fragment",
    "ALL CAPITALS are put in lower case by this tokenizer.",
    "x" * 150,
    *(AUSTEN[at : at + 40 * at // 30 + 30] for at in range(0, 180, 20)),
    AUSTEN * 2,
    f"{AUSTEN} {AUSTEN[::-1]}"[:1100],
]


@pytest.fixture(scope="module")
def engine(starters: dict[str, tuple[ModelEntry, Path]]) -> Iterator[Engine]:
    from workers.engines import embedding

    entry, path = starters["embedding"]
    engine = embedding.load(replace(entry, options={"step_tokens": STEP}), path)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tokenizer(starters: dict[str, tuple[ModelEntry, Path]]) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(starters["embedding"][1] / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def job(input: object, lane: str = "interactive", **fields: object) -> JobSpec:
    return replace(spec("embedding", input=input, **fields), lane=lane)


def told(drive: Drive, asked: JobSpec) -> dict[int, np.ndarray]:
    deltas = [event for event in drive.events[asked.id] if isinstance(event, Delta)]
    return {index: np.frombuffer(values, "<f4") for index, values in task.vectors(deltas)}


def vectors(engine: Engine, input: object, **fields: object) -> np.ndarray:
    """[inputs, dimensions] of one request alone."""
    drive, asked = Drive(engine), job(input, **fields)
    drive.add(asked)
    found = told(drive.run(), asked)
    return np.stack([found[index] for index in range(drive.done(asked).result["count"])])


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (one * other).sum(axis=-1) / lengths


def test_vectors_are_those_of_an_independent_forward_pass_alone_and_batched(
    engine: Engine, starters: dict, tokenizer: Tokenizer
) -> None:
    reference = Bert(starters["embedding"][1])
    tokens = [tokenizer.encode(text).ids for text in SENTENCES]
    expected = np.stack([reference.embed(ids) for ids in tokens])
    assert len(SENTENCES) >= 30 and max(map(len, tokens)) > 256

    alone = np.concatenate([vectors(engine, text) for text in SENTENCES])
    batched = vectors(engine, SENTENCES)
    drive, asked = Drive(engine), [job(SENTENCES[at::4]) for at in range(4)]
    drive.add(*asked)
    drive.run()
    among_others = np.stack([told(drive, asked[at % 4])[at // 4] for at in range(len(SENTENCES))])

    for found in (alone, batched, among_others):
        assert found.shape == (len(SENTENCES), 384)
        assert cosines(found, expected).min() >= 0.9999
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_similarities_are_those_that_the_hub_shows_for_this_model(engine: Engine) -> None:
    others = ["That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    source, *found = vectors(engine, ["That is a happy person", *others])
    assert np.allclose([cosines(source, each) for each in found], [0.695, 0.943, 0.257], atol=1e-3)


def test_token_ids_are_taken_as_they_are(engine: Engine, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(text).ids for text in SENTENCES[:4]]
    expected = vectors(engine, SENTENCES[:4])
    assert cosines(vectors(engine, ids), expected).min() >= 0.9999
    assert cosines(vectors(engine, ids[2]), expected[2:3]).min() >= 0.9999


def test_dimensions_keep_the_first_and_scale_them_to_length_one(engine: Engine) -> None:
    whole, cut = vectors(engine, SENTENCES[:5]), vectors(engine, SENTENCES[:5], dimensions=64)
    kept = whole[:, :64]
    assert np.allclose(cut, kept / np.linalg.norm(kept, axis=1, keepdims=True), atol=1e-5)
    assert np.allclose(vectors(engine, SENTENCES[:5], dimensions=384), whole, atol=1e-5)


def test_usage_counts_the_tokens_of_all_inputs(engine: Engine, tokenizer: Tokenizer) -> None:
    drive, asked = Drive(engine), job(SENTENCES[:3])
    drive.add(asked)
    tokens = sum(len(tokenizer.encode(text).ids) for text in SENTENCES[:3])
    assert drive.run().done(asked).usage == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize(
    ("fields", "param", "code", "words"),
    [
        ({"input": "word " * 600}, "input", "context_length_exceeded", "512 tokens, but 'input' has 602"),
        ({"input": ["a", "b " * 700]}, "input", "context_length_exceeded", r"512 .*'input\[1\]' has 702"),
        ({"input": [5] * 513}, "input", "context_length_exceeded", "512 .*'input' has 513"),
        ({"input": [[5], [30522]]}, "input", "invalid_value", r"'input\[1\]' .* 30522, .* ends at 30521"),
        ({"input": [[7] * 500] * 601}, "input", "invalid_value", "300000 .* 300500"),
        ({"input": "a", "dimensions": 385}, "dimensions", "invalid_value", "384 .* 385"),
    ],
)
def test_what_the_model_cannot_take_is_refused_with_both_numbers(
    engine: Engine, fields: dict, param: str, code: str, words: str
) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        engine.prepare(job(**fields), None)
    assert (refused.value.param, refused.value.code) == (param, code)


def test_a_long_request_does_not_make_a_short_one_wait(engine: Engine) -> None:
    long, short, batch = job([[7] * 40] * 500), job("Hello."), job("Good bye.", lane="batch")
    drive = Drive(engine)
    drive.add(long)
    drive.step()
    drive.add(short, batch)
    drive.step()

    assert drive.done(short) and drive.done(batch)
    assert long.id in drive.running and len(told(drive, long)) < 500
    drive.end(long.id)
    assert engine.step() == []


def test_interactive_requests_go_before_those_of_the_batch_lane(engine: Engine) -> None:
    batch, urgent = job([[7] * 96] * 40, lane="batch"), job([[8] * 96] * 40)
    drive = Drive(engine)
    drive.add(batch, urgent)
    steps = 0
    while urgent.id in drive.running:
        drive.step()
        steps += 1

    assert drive.done(urgent)
    assert steps <= len(told(drive, batch)) < 40  # one a step, and what the last step had left
    drive.run()
    assert drive.done(batch)


def test_an_aborted_request_says_nothing_more_and_frees_its_slot(engine: Engine) -> None:
    jobs, drive = [job([[9] * 100] * 40) for _ in range(engine.slots)], Drive(engine)
    drive.add(*jobs)
    assert not engine.has_room(engine.prepare(job("Hi"), None))
    drive.end(jobs[0].id)
    assert engine.has_room(engine.prepare(job("Hi"), None))
    drive.step()
    assert not drive.outputs[jobs[0].id]
    for each in jobs[1:]:
        if each.id in drive.running:
            drive.end(each.id)
    assert engine.step() == []
    engine.abort("job-of-yesterday")
    engine.forget("job-of-yesterday")
    assert engine.render("job-of-yesterday", []) == []


def test_a_request_goes_on_behind_what_an_earlier_worker_has_told(engine: Engine) -> None:
    asked, drive = job([*SENTENCES, *(f"Number {n}." for n in range(300))]), Drive(engine)
    drive.add(asked)
    drive.step()
    said = [event for event in drive.events[asked.id] if isinstance(event, Delta)]
    known = told(drive, asked)
    assert 0 < len(known) < 300
    drive.run()

    again = Drive(engine)
    again.add(asked, said=said)
    again.run()

    assert not told(again, asked).keys() & known.keys()
    assert again.done(asked) == drive.done(asked)
    resumed, whole = known | told(again, asked), told(drive, asked)
    assert resumed.keys() == whole.keys()
    assert all(cosines(resumed[index], whole[index]) >= 0.9999 for index in whole)
    progress = [event.progress for event in said + again.events[asked.id] if isinstance(event, Delta)]
    assert progress == sorted(progress) and progress[-1] == 1


def test_a_request_of_which_all_is_told_ends_without_computing(engine: Engine) -> None:
    asked, drive = job(SENTENCES[:3], dimensions=8), Drive(engine)
    drive.add(asked)
    done = drive.run().done(asked)
    again = Drive(engine)
    again.add(asked, said=drive.events[asked.id][:-1])
    assert again.run().events[asked.id] == [done]


def test_vectors_of_another_model_are_not_gone_on_from(engine: Engine) -> None:
    said = task.deltas([0], [np.zeros(7, "<f4").tobytes()], 0.5)
    with pytest.raises(WorkerDied, match="changed"):
        engine.prepare(job(["a", "b"]), None, said)


def test_no_event_is_larger_than_an_entry_may_be(engine: Engine) -> None:
    asked, drive = job([[7, index] for index in range(1000)]), Drive(engine)
    drive.add(asked)
    for _ in range(3):
        drive.step()
    outputs = drive.outputs[asked.id]
    drive.end(asked.id)
    prepared = engine.prepare(asked, None)

    events = prepared.work.voice.render(outputs)  # as the outlet does when it is behind

    assert sum(len(output.payload.indices) for output in outputs) == len(list(task.vectors(events)))
    assert max(len(encode(event)) for event in events) < 65_536


# --- models of which this test decides what they do


def small(hidden: Callable[[Any, Any], Any], tokenizer: Tokenizer, step_tokens: int = 256) -> Engine:
    """An engine over any function of (tokens, lengths)."""
    from workers.engines.embedding import EmbeddingEngine, Encoder
    from workers.engines.embedding.lineup import Budget
    from workers.engines.embedding.recipe import Recipe

    encoder = Encoder(hidden, Recipe(pooling="mean"), tokenizer, vocabulary=1000, longest=100)
    return EmbeddingEngine(encoder, 8, Budget(step_tokens))


def test_an_input_that_fails_costs_its_request_alone(tokenizer: Tokenizer) -> None:
    import mlx.core as mx

    def hidden(tokens: Any, lengths: Any) -> Any:
        if (tokens == 666).any().item():
            raise MemoryError("too much")
        return mx.where(tokens == 13, mx.nan, tokens)[..., None] * mx.ones((4,))

    engine = small(hidden, tokenizer)
    good, broken, empty = job([[1, 2], [3]]), job([[4], [666], [5]]), job([[6], [13]])
    drive = Drive(engine)
    drive.add(good, broken, empty)
    drive.run()

    assert drive.done(good).result == {"count": 2}
    assert isinstance(drive.errors[broken.id], MemoryError)
    assert isinstance(drive.errors[empty.id], EngineError) and "input[1]" in str(drive.errors[empty.id])
    assert engine.step() == []


def test_inputs_of_about_one_length_share_a_batch_padded_to_one_of_few_lengths(tokenizer: Tokenizer) -> None:
    import mlx.core as mx

    shapes = []

    def hidden(tokens: Any, lengths: Any) -> Any:
        shapes.append(tokens.shape)
        return mx.ones((*tokens.shape, 4))

    engine = small(hidden, tokenizer, step_tokens=4096)
    drive = Drive(engine)
    shapes.clear()
    lengths = [3, 90, 12, 15, 88, 9, 16, 85, 95, 2]
    drive.add(job([[1] * length for length in lengths[::2]]), job([[1] * length for length in lengths[1::2]]))
    drive.step()

    assert sorted(shapes) == [(4, 96), (6, 16)]


@pytest.mark.parametrize(("pooling", "expected"), [("mean", 2.0), ("cls", 1.0), ("last", 3.0), ("max", 3.0)])
def test_what_pads_a_row_is_no_part_of_any_pooling(pooling: str, expected: float) -> None:
    import mlx.core as mx

    from workers.engines.embedding.encoder import pool

    hidden = mx.array([[1.0, 2.0, 3.0, 99.0, 99.0], [1.0, 2.0, 3.0, 2.0, 2.0]])[..., None]
    whole = 2.0 if pooling == "last" else expected
    assert pool(hidden, mx.array([3, 5]), pooling).tolist() == [[expected], [whole]]
