"""One model over two ranks says what it says in one process: started by its worker, and by mlx.launch."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai import AsyncOpenAI

from tests.checkpoints import text
from tests.system.asking import hear, user
from tests.system.conftest import ROOT, System, until
from workers import memory, ranks

pytestmark = pytest.mark.models

ONE, TWO, LAUNCHED = "one", "two", "launched"
ROWS = 4
ENTRY = """
[[model]]
id = "{id}"
engine = "llm"
source = "{folder}"
max_concurrency = {rows}
context_length = 2048
{more}
"""
GREEDY = {"temperature": 0, "max_tokens": 24}
WORDS = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z ]{1400}[a-z ]*"}}
FORM = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]{3,9} [0-9]+"}}


class Ranked(System):
    def __init__(self, home: Path, models: str) -> None:
        super().__init__(home, models)
        self.environ = os.environ | {"OMINIX_HOME": f"{home}", "OMINIX_MODELS_FILE": f"{home}/models.toml"}

    def ranks(self, model: str) -> list[psutil.Process]:
        """The processes of a worker that was started here, rank 0 first."""
        parts = self.process.children(recursive=True)
        mine = [part for part in parts if part.cmdline()[-2:] == ["worker", model]]
        return sorted(mine, key=lambda part: part.environ().get("MLX_RANK", "0"))

    def launch(self, model: str) -> psutil.Popen:
        launcher = Path(sys.executable).with_name("mlx.launch")
        port = f"{ranks.free_ports(2)}"
        command = [launcher, "-n", "2", "--backend", "ring", "-p", port, "--", sys.executable, "-m", "cli"]
        return psutil.Popen(
            [*command, "worker", model],
            cwd=ROOT,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranked]:
    memory.preload_blas()
    folder = text.build(tmp_path_factory.mktemp("ranks") / "model", "qwen3")
    more = {ONE: "", TWO: 'hosts = ["127.0.0.1", "127.0.0.1"]', LAUNCHED: "replicas = 0"}
    entries = [ENTRY.format(id=id, folder=folder, rows=ROWS, more=each) for id, each in more.items()]
    system = Ranked(tmp_path_factory.mktemp("system"), "".join(entries))
    yield system
    system.stop()


@pytest.fixture
async def asking(ranked: Ranked) -> AsyncIterator[AsyncOpenAI]:
    where = {"base_url": f"{ranked.url}/v1", "api_key": "none"}
    async with AsyncOpenAI(**where, max_retries=0, timeout=120) as client:
        yield client


async def whole(client: AsyncOpenAI, **asked: Any) -> list[str]:
    answer = await client.chat.completions.create(**GREEDY | asked)
    return [choice.message.content for choice in answer.choices]


async def streamed(client: AsyncOpenAI, **asked: Any) -> list[str]:
    return (await hear(client.chat.completions.create(**GREEDY | asked, stream=True))).texts


async def begin(client: AsyncOpenAI, model: str) -> Any:
    """A stream that goes on for long, and has begun."""
    asked = {"messages": user("Go on."), "temperature": 0, "max_tokens": 1500, "response_format": WORDS}
    stream = await client.chat.completions.create(model=model, **asked, stream=True)
    while not (await anext(stream)).choices[0].delta.content:
        pass
    return stream


async def answers(client: AsyncOpenAI, model: str) -> list[list[str]]:
    """To several at once, some of which wait for a slot, while one leaves in the middle of its answer."""
    left = await begin(client, model)
    asked = [
        whole(client, model=model, messages=user("Why?")),
        streamed(client, model=model, messages=user("Why? " * 90)),
        whole(client, model=model, messages=user("Say a number."), response_format=FORM),
        streamed(client, model=model, messages=user("Where to?"), extra_body={"repetition_penalty": 1.3}),
        whole(client, model=model, messages=user("Why? " * 90 + "And how?")),
        whole(client, model=model, messages=user("Again"), n=2, temperature=1, seed=7, stop=["e"]),
        streamed(client, model=model, messages=user("Hello"), max_tokens=3),
    ]
    tasks = [asyncio.create_task(each) for each in asked]
    await asyncio.sleep(0.1)
    await left.close()
    return await asyncio.gather(*tasks)


async def two_answers(client: AsyncOpenAI, model: str) -> list[list[str]]:
    asked = {"model": model, "messages": user("Why? " * 90)}
    return await asyncio.gather(whole(client, **asked), streamed(client, **asked))


async def test_two_ranks_say_what_one_says(asking: AsyncOpenAI) -> None:
    expected = await answers(asking, ONE)
    assert all(any(texts) for texts in expected)
    assert await answers(asking, TWO) == expected
    assert await answers(asking, TWO) == expected  # from the prompt cache


async def test_mlx_launch_starts_the_ranks_of_a_worker_and_its_end_is_theirs(
    ranked: Ranked, asking: AsyncOpenAI
) -> None:
    launcher = ranked.launch(LAUNCHED)
    until(lambda: ranked.ready(LAUNCHED))
    both = launcher.children(recursive=True)
    assert len(both) == 2
    assert await two_answers(asking, LAUNCHED) == await two_answers(asking, ONE)
    launcher.send_signal(signal.SIGTERM)
    assert not psutil.wait_procs([launcher, *both], timeout=30)[1]
    launcher.stdin.close()


async def test_a_killed_rank_ends_its_worker_and_costs_no_waiting_job(
    ranked: Ranked, asking: AsyncOpenAI
) -> None:
    first, other = ranked.ranks(TWO)
    begun = [await begin(asking, TWO) for _ in range(ROWS)]
    question = {"messages": user("Why?")}
    waiting = [asyncio.create_task(whole(asking, model=TWO, **question)) for _ in range(3)]
    await asyncio.sleep(0.3)
    other.kill()
    for stream in begun:
        with pytest.raises(openai.APIError, match="worker died"):
            async for _ in stream:
                pass
    expected = await whole(asking, model=ONE, **question)
    assert await asyncio.gather(*waiting) == [expected] * 3
    assert not {first.pid, other.pid} & {part.pid for part in ranked.ranks(TWO)}


async def test_a_killed_worker_leaves_no_rank_behind(ranked: Ranked, asking: AsyncOpenAI) -> None:
    until(lambda: ranked.ready(TWO))
    first, other = ranked.ranks(TWO)
    first.kill()
    assert not psutil.wait_procs([first, other], timeout=30)[1]
    assert await whole(asking, model=TWO, messages=user("Why?"))
