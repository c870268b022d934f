"""What only a Mac can answer: `make test-metal`."""

import concurrent.futures

import pytest

from shared.manifest import Manifest
from shared.settings import read_settings
from tests.system.conftest import System, until
from workers import memory, weights

pytestmark = pytest.mark.metal

TWO_WORKERS = """
[[model]]
id = "smollm2-135m"
engine = "llm"
source = "{llm}"
replicas = 2
max_concurrency = 4
"""


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory):
    settings = read_settings()
    llm = weights.ensure(
        Manifest.load(settings.models_file).resolve("smollm2-135m"), settings.models_dir
    )
    system = System(tmp_path_factory.mktemp("metal"), TWO_WORKERS.format(llm=llm))
    yield system
    system.stop()


def ask(system: System, number: int) -> str:
    answer = system.client.chat.completions.create(
        model="smollm2-135m",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=16,
        user=f"{number}",
    )
    return answer.choices[0].message.content


def test_the_device_is_metal_and_weights_stay_compact() -> None:
    assert memory.device() == "metal"
    assert memory.compact()
    assert memory.device_info()["max_recommended_working_set_size"] > 0


def test_a_share_of_what_metal_recommends_is_wired() -> None:
    recommended = memory.device_info()["max_recommended_working_set_size"]
    assert 0 < memory.set_wired_limit() <= recommended


def test_two_spawned_workers_share_one_gpu_and_answer_alike(two_workers: System) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ask(two_workers, number), range(8)))
    assert count(two_workers) == 2
    assert len(set(answers)) == 1 and "Paris" in answers[0]


def test_a_killed_worker_leaves_the_gpu_usable_and_is_spawned_again(two_workers: System) -> None:
    killed = two_workers.part("worker", "smollm2-135m")
    killed.kill()
    killed.wait()
    assert "Paris" in ask(two_workers, 0)
    until(lambda: count(two_workers) == 2)


def count(system: System) -> int:
    """Workers that run."""
    return sum("worker" in part.cmdline() for part in system.process.children(recursive=True))
