"""What was computed for one prompt serves the next that begins alike, and changes nothing of what it says."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.system.asking import LLM, THINKER
from tests.system.own import Own

pytestmark = pytest.mark.models

SHARED = 1000  # tokens at least
COUNT = 16


@pytest.fixture(params=[THINKER, pytest.param(LLM, marks=pytest.mark.slow)])
def served(request: pytest.FixtureRequest, made: Path) -> tuple[str, Own]:
    """A model's name, and the same model in this process."""
    own = Own(made / THINKER) if request.param == THINKER else request.getfixturevalue("own")
    return request.param, own


def guide(own: Own, about: str) -> dict[str, str]:
    """A long system message; no two begin alike."""
    lines = [f"{about}: you are a guide."]
    while len(own.tokens("\n".join(lines))) < SHARED:
        lines.append(f"Station {len(lines)} is {7 * len(lines) % 31} minutes from the one before.")
    return {"role": "system", "content": "\n".join(lines)}


async def ask(client: AsyncOpenAI, model: str, messages: list[Any], **fields: Any) -> Any:
    fields = {"temperature": 0, "max_tokens": COUNT} | fields
    return await client.chat.completions.create(model=model, messages=messages, **fields)


def cached(answer: Any) -> int:
    return answer.usage.prompt_tokens_details.cached_tokens


def uncached(own: Own, messages: list[Any]) -> str:
    """What is said without any cache."""
    return own.tokenizer.decode(own.greedy(own.chat(messages), COUNT))


async def test_users_of_one_system_message_share_what_was_computed_for_it(
    client: AsyncOpenAI, served: tuple[str, Own]
) -> None:
    model, own = served
    system = guide(own, "Trains")
    asked = [[system, {"role": "user", "content": f"Where is station {n}?"}] for n in (3, 8, 20)]
    first = await ask(client, model, asked[0])
    others = await asyncio.gather(
        *(ask(client, model, messages, prompt_cache_key="trains") for messages in asked[1:])
    )
    assert cached(first) < SHARED / 10
    assert all(SHARED <= cached(answer) < answer.usage.prompt_tokens for answer in others)
    for messages, answer in zip(asked, [first, *others], strict=True):
        assert answer.choices[0].message.content == uncached(own, messages)


async def test_who_asks_alike_at_once_waits_for_one_reading(
    client: AsyncOpenAI, served: tuple[str, Own]
) -> None:
    model, own = served
    system = guide(own, "Buses")
    asked = [[system, {"role": "user", "content": f"Where is stop {n}?"}] for n in range(4)]
    answers = await asyncio.gather(*(ask(client, model, messages, max_tokens=4) for messages in asked))
    assert sorted(cached(answer) >= SHARED for answer in answers) == [False, True, True, True]


async def test_a_second_turn_begins_with_what_the_first_has_computed(
    client: AsyncOpenAI, served: tuple[str, Own]
) -> None:
    model, own = served
    messages = [guide(own, "Ferries"), {"role": "user", "content": "Where is pier 5?"}]
    first = await ask(client, model, messages)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    messages += [said, {"role": "user", "content": "And pier 6?"}]
    second = await ask(client, model, messages)
    assert SHARED < first.usage.prompt_tokens <= cached(second) < second.usage.prompt_tokens
    assert second.choices[0].message.content == uncached(own, messages)
