"""`ominix serve` on the real starter models, and the official client."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from shared.manifest import Manifest
from shared.settings import read_settings
from tests import checkpoints
from tests.checkpoints import text
from tests.system.own import Own
from workers import memory, weights

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120.0
SAYS = "language English<asr_text>Hello world. Good morning!"
CLIP = ROOT / "tests" / "data" / "austen-0870.flac"
ROWS = 17  # of the language model: one among sixteen others
MODELS = """
[[model]]
id = "smollm2-135m"
engine = "llm"
source = "{llm}"
max_concurrency = {rows}

[[model]]
id = "thinker"
engine = "llm"
source = "{made}/thinker"
max_concurrency = 8
context_length = 2048

[[model]]
id = "whisper-tiny.en"
engine = "asr"
source = "{asr}"
aliases = ["whisper-1"]

[[model]]
id = "all-minilm-l6-v2"
engine = "embedding"
source = "{embedding}"
aliases = ["all-MiniLM-L6-v2"]
max_concurrency = 16
context_length = 512

[[model]]
id = "qwen3-asr"
engine = "asr"
source = "{made}/qwen3-asr"
options = {{ aligner = "{made}/aligner" }}

[[model]]
id = "many-languages"
engine = "asr"
source = "{made}/many-languages"

[[model]]
id = "nemo"
engine = "asr"
source = "{made}/nemo"
"""


def until(claim: Callable[[], object]) -> object:
    limit = time.monotonic() + PATIENCE
    while not (said := claim()):
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.05)
    return said


class System:
    def __init__(self, home: Path, models: str) -> None:
        (home / "models.toml").write_text(models)
        self.output = home / "output"
        self.blobs = home / "blobs"
        self.audio = home / "audio"  # whose files requests may name
        self.audio.mkdir()
        shutil.copy(CLIP, self.audio / "clip.flac")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMINIX_") and k != "REDIS_URL"}
        ours = {"OMINIX_HOME": f"{home}", "OMINIX_MODELS_FILE": f"{home}/models.toml", "OMINIX_PORT": "0"}
        ours |= {"OMINIX_AUDIO_FOLDERS": f"{self.audio}", "OMINIX_LOG_LEVEL": "DEBUG"}
        with self.output.open("wb") as file:
            self.process = psutil.Popen(
                [sys.executable, "-m", "cli", "serve"],
                cwd=ROOT,
                env=inherited | ours,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        ready = until(lambda: re.search(r"ready at (http\S+)", self.output.read_text()))
        self.url = ready[1]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def part(self, *words: str) -> psutil.Process:
        """The process of a part: ("api",) or ("worker", model)."""
        parts = self.process.children(recursive=True)
        return next(part for part in parts if part.cmdline()[-len(words) :] == [*words])

    def ready(self, model: str) -> bool:
        return httpx.get(f"{self.url}/health").json()["models"][model]["ready"] > 0

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="session")
def folders() -> dict[str, Path]:
    """Those of the starters."""
    settings = read_settings()
    starters = Manifest.load(settings.models_file)
    names = ("smollm2-135m", "whisper-tiny.en", "all-minilm-l6-v2")
    return {name: weights.ensure(starters.resolve(name), settings.models_dir) for name in names}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models with random weights."""
    made = tmp_path_factory.mktemp("models")
    memory.preload_blas()
    checkpoints.qwen3_asr(made / "qwen3-asr", says=SAYS)
    checkpoints.qwen3_forced_aligner(made / "aligner")
    checkpoints.whisper_multilingual(made / "many-languages", speaks="de")
    checkpoints.parakeet(made / "nemo")
    text.build(made / "thinker", "qwen3", tools=True)
    return made


@pytest.fixture(scope="session")
def system(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path], made: Path
) -> Iterator[System]:
    llm, asr, embedding = folders.values()
    models = MODELS.format(llm=llm, rows=ROWS, asr=asr, embedding=embedding, made=made)
    system = System(tmp_path_factory.mktemp("system"), models)
    yield system
    system.stop()


@pytest.fixture
async def client(system: System) -> AsyncIterator[openai.AsyncOpenAI]:
    where = {"base_url": f"{system.url}/v1", "api_key": "none"}
    async with openai.AsyncOpenAI(**where, max_retries=0, timeout=600) as client:
        yield client


@pytest.fixture(scope="session")
def own(folders: dict[str, Path]) -> Own:
    """The language model in this process."""
    return Own(folders["smollm2-135m"])
