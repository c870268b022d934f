"""Log-likelihoods of texts by /v1/completions: those of mlx-lm in this process, in the shape that evaluation
tools read."""

import asyncio
import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI

from tests.system.asking import LLM, user
from tests.system.own import Own

pytestmark = pytest.mark.models

CLOSE = 1e-4
TOP = 3
AUSTEN = list(json.loads((Path(__file__).parent.parent / "data" / "transcripts.json").read_text()).values())
WRITTEN = [
    "Yes.",
    "The capital of France is Paris.",
    "Water boils at 100 degrees Celsius, and freezes at 0.",
    "She sells sea shells by the sea shore, and the shells she sells are sea shells, I'm sure.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "人人生而自由，在尊严和权利上一律平等。",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "I ❤ emoji: 😀👩‍👩‍👧‍👦🏳️‍🌈, and e\u0301 that is two characters.",
    "def greet(name: str) -> str:\n    return f'Hello, {name}!'\n\n\nprint(greet('world'))\n",
    '{"id": 17, "tags": ["a", "b"], "nested": {"empty": null, "ratio": 0.125}}',
    "https://example.org/a/b?c=d&e=%20f#g",
    "   three spaces before,\ttabs\tbetween,\n\n\nlines below   ",
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nI am a model.<|im_end|>\n",
    "",
]
LONG = [" ".join((AUSTEN * 4)[first : 2 * first + 2]) for first in range(12)]
MIXED = [f"{one} {other}" for one, other in zip(WRITTEN[:12], AUSTEN * 2, strict=True)]
TEXTS = [*WRITTEN, *AUSTEN, *LONG, *MIXED]


async def score(client: AsyncOpenAI, prompt: Any, max_tokens: int) -> list[Any]:
    """The tables of each prompt."""
    answer = await client.completions.create(
        model=LLM, prompt=prompt, echo=True, logprobs=TOP, max_tokens=max_tokens, temperature=0
    )
    return [choice.logprobs for choice in answer.choices]


def check(own: Own, tokens: list[int], table: Any) -> None:
    expected = own.logprobs(tokens)
    best = -np.partition(-expected, range(TOP), axis=-1)[:, :TOP]
    told = [sorted(top.values(), reverse=True)[:TOP] for top in table.top_logprobs[1:]]
    assert (table.token_logprobs[0], table.top_logprobs[0]) == (None, None)
    assert np.array(table.token_logprobs[1:]) == pytest.approx(
        expected[range(len(expected)), tokens[1:]], abs=CLOSE
    )
    assert np.array(told) == pytest.approx(best, abs=CLOSE)
    rows = zip(table.tokens[1:], table.token_logprobs[1:], table.top_logprobs[1:], strict=True)
    assert all(top[token] == logprob for token, logprob, top in rows)


@pytest.mark.parametrize("count", [12, pytest.param(50, marks=pytest.mark.slow)])
async def test_log_likelihoods_are_those_of_the_model_in_process(
    client: AsyncOpenAI, own: Own, count: int
) -> None:
    """Some in lists, some alone, some as token ids; all at once."""
    texts = TEXTS[:: len(TEXTS) // count][:count]
    assert len(set(texts)) == count
    tokens = [own.tokens(text) or [own.tokenizer.bos_token_id] for text in texts]
    lists, ids, singles = slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)
    listed, as_ids, *alone = await asyncio.gather(
        score(client, texts[lists], 0),
        score(client, tokens[ids], 1),
        *(score(client, text, at % 2) for at, text in enumerate(texts[singles])),
    )
    for each, table in zip(tokens[lists], listed, strict=True):
        assert len(table.tokens) == len(each)
        check(own, each, table)
    for each, table in zip(tokens[ids], as_ids, strict=True):
        check(own, each + own.best(each), table)
    for at, (each, [table]) in enumerate(zip(tokens[singles], alone, strict=True)):
        check(own, each + own.best(each) * (at % 2), table)


def parse_logprobs(answer: dict[str, Any], ctxlens: list[int]) -> list[tuple[float, bool]]:
    """(log-likelihood of the continuation, whether it is the greedy one) of each text, read as lm-eval reads
    it. Source: LocalCompletionsAPI of
    https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/models/openai_completions.py"""
    read = []
    for choice, ctxlen in zip(sorted(answer["choices"], key=itemgetter("index")), ctxlens, strict=True):
        table = choice["logprobs"]
        logprobs, tops = table["token_logprobs"][ctxlen:-1], table["top_logprobs"][ctxlen:-1]
        pairs = zip(logprobs, tops, strict=True)
        read.append((sum(logprobs), all(logprob == max(top.values()) for logprob, top in pairs)))
    return read


async def test_an_evaluation_tool_reads_likelihoods_and_what_is_greedy(client: AsyncOpenAI, own: Own) -> None:
    """The last continuation is a whole answer: behind it the likeliest token is an end token, which must be
    counted as one all the same."""
    chat = own.chat(user("What is the capital of France?"))
    pairs = [
        (own.tokens("The capital of France is"), own.tokens(" Paris, of course")),
        (own.tokens("He was not an ill-disposed young"), own.tokens(" man.")),
        (own.tokens("1, 2, 3, 4, 5, 6,"), own.greedy(own.tokens("1, 2, 3, 4, 5, 6,"), 6)),
        (own.tokens("1, 2, 3, 4, 5, 6,"), own.tokens(" zebra")),
        (chat, own.greedy(chat, 40)),
    ]
    assert own.best(pairs[-1][0] + pairs[-1][1])[0] in own.tokenizer.eos_token_ids
    payload = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = await client.completions.create(
        model=LLM, prompt=[context + continuation for context, continuation in pairs], **payload
    )
    read = parse_logprobs(answer.to_dict(), [len(context) for context, _ in pairs])

    for (context, continuation), (likelihood, is_greedy) in zip(pairs, read, strict=True):
        rows = own.logprobs(context + continuation)[len(context) - 1 :]
        expected = [row[token] for token, row in zip(continuation, rows, strict=True)]
        assert likelihood == pytest.approx(sum(expected), abs=CLOSE)
        assert is_greedy == all(row.argmax() == t for t, row in zip(continuation, rows, strict=True))
    assert [is_greedy for _, is_greedy in read][2:] == [True, False, True]
