"""With room for two of three models, all three are served, and the budget holds at every moment."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.manifest import Manifest
from shared.settings import read_settings
from tests.fleet.conftest import MIB, Fleet, Scale, until
from workers import weights
from workers.footprint import estimate

ECHO = '[[model]]\nid = "{}"\nengine = "echo"\noptions = {{ ballast_mb = 150, step_ms = 5 }}\n'
DATA = Path(__file__).parent.parent / "data"
MODELS = """
[[model]]
id = "chat"
engine = "llm"
source = "{}"
max_concurrency = 4
context_length = 2048

[[model]]
id = "hear"
engine = "asr"
source = "{}"
tasks = ["transcription"]
max_concurrency = 2

[[model]]
id = "embed"
engine = "embedding"
source = "{}"
"""


def test_sixty_requests_round_robin_over_three_models_with_room_for_two(serve: Callable[..., Fleet]):
    budget = 460
    fleet = serve("".join(map(ECHO.format, "abc")), OMINIX_MEMORY_BUDGET_MB=f"{budget}")
    with Scale(fleet) as scale, ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda n: fleet.chat("abc"[n % 3], f"hello {n}"), range(60)))
    assert Counter(answer.status_code for answer in answers) == {200: 60}
    said = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert said == [f"hello {n}" for n in range(60)]
    assert 150 < scale.most <= budget


@pytest.mark.models
@pytest.mark.slow
def test_twelve_requests_round_robin_over_three_real_models_with_room_for_two(serve: Callable[..., Fleet]):
    settings = read_settings()
    starters = Manifest.load(settings.models_file)
    names = ("smollm2-135m", "whisper-tiny.en", "all-minilm-l6-v2")
    models = MODELS.format(*(weights.ensure(starters.resolve(name), settings.models_dir) for name in names))
    (file := settings.home / "three.toml").write_text(models)
    needs = {entry.id: estimate(entry, settings.models_dir) // MIB for entry in Manifest.load(file).entries}
    file.unlink()
    budget = sum(needs.values()) - min(needs.values()) + 50
    fleet = serve(models, OMINIX_MEMORY_BUDGET_MB=f"{budget}")
    fleet.client.timeout = 600
    clip = (DATA / "austen-0870.flac").read_bytes()

    def ask(number: int) -> tuple[int, str]:
        text = f"Say the number {number}."
        if number % 3 == 0:
            messages = [{"role": "user", "content": text}]
            body = {"model": "chat", "messages": messages, "max_tokens": 8}
            answer = fleet.client.post("/v1/chat/completions", json=body)
        elif number % 3 == 1:
            form = {"model": "hear"}, {"file": ("clip.flac", clip)}
            answer = fleet.client.post("/v1/audio/transcriptions", data=form[0], files=form[1])
        else:
            answer = fleet.client.post("/v1/embeddings", json={"model": "embed", "input": text})
        return answer.status_code, answer.text

    with Scale(fleet) as scale, ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(ask, range(12)))
    assert [status for status, _ in answers] == [200] * 12, answers
    assert max(needs.values()) // 4 < scale.most <= budget
    print(f"needs {needs}, budget {budget}, most {scale.most} MiB")
    assert until(lambda: fleet.said.count("it is unloaded")) >= 1
