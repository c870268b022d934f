"""instructor, which asks until an answer is what a pydantic model says."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from tests.live import Live
from tests.openai.asking import MESSAGES, script


class City(BaseModel):
    name: str
    people: int = Field(ge=0)


OSLO = {"name": "Oslo", "people": 700_000}


def asked(**told: Any) -> dict[str, Any]:
    beside = {"metadata": script(**told)}
    return {"model": "echo", "messages": MESSAGES, "max_retries": 0, "extra_body": beside}


@pytest.fixture
def instructor(loopback: None) -> Any:
    import instructor

    return instructor


@pytest.fixture(params=["TOOLS", "JSON_SCHEMA", "JSON"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def told(mode: str, said: dict = OSLO) -> dict[str, Any]:
    """An answer as the mode wants it."""
    return asked(call={"arguments": said}) if mode == "TOOLS" else asked(text=json.dumps(said))


def test_an_answer_is_a_model(instructor: Any, live: Live, mode: str) -> None:
    with live.client as client:
        ask = instructor.from_openai(client, mode=instructor.Mode[mode]).chat.completions
        city, raw = ask.create_with_completion(response_model=City, **told(mode))
    assert isinstance(city, City) and city.model_dump() == OSLO
    assert raw.usage.total_tokens > 0


def test_an_answer_grows_field_by_field(instructor: Any, live: Live, mode: str) -> None:
    with live.client as client:
        ask = instructor.from_openai(client, mode=instructor.Mode[mode]).chat.completions
        grown = list(ask.create_partial(response_model=City, **told(mode)))
    assert grown[-1].model_dump() == OSLO


def test_a_list_comes_one_by_one(instructor: Any, live: Live, mode: str) -> None:
    said = {"tasks": [OSLO, {"name": "Rome", "people": 2_700_000}]}
    with live.client as client:
        ask = instructor.from_openai(client, mode=instructor.Mode[mode]).chat.completions
        cities = list(ask.create_iterable(response_model=City, **told(mode, said)))
    assert [city.name for city in cities] == ["Oslo", "Rome"]


def test_an_answer_that_does_not_fit_is_sent_back(instructor: Any, live: Live, mode: str) -> None:
    from instructor.core import InstructorRetryException

    wrong = told(mode, OSLO | {"people": -1}) | {"max_retries": 2}
    with live.client as client:
        ask = instructor.from_openai(client, mode=instructor.Mode[mode]).chat.completions
        with pytest.raises(InstructorRetryException) as raised:
            ask.create(response_model=City, **wrong)
    assert raised.value.n_attempts == 3


async def test_the_asynchronous_client(instructor: Any, live: Live, mode: str) -> None:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        ask = instructor.from_openai(client, mode=instructor.Mode[mode]).chat.completions
        city = await ask.create(response_model=City, **told(mode))
    assert isinstance(city, City) and city.model_dump() == OSLO
