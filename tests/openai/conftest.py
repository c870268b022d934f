"""The official client of the live system."""

from collections.abc import Iterator

import openai
import pytest

from tests.live import Live


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with live.client as client:
        yield client
