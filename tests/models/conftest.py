"""The starter models, downloaded and converted once for all test runs (OMINIX_HOME, else ~/.ominix)."""

from pathlib import Path

import pytest

from shared.manifest import Manifest
from shared.settings import read_settings
from workers import memory, weights

memory.preload_blas()  # has no effect once a test module has imported mlx


@pytest.fixture(scope="session")
def models_dir() -> Path:
    return read_settings().models_dir


@pytest.fixture(scope="session")
def starters() -> Manifest:
    return Manifest.load(read_settings().models_file)


@pytest.fixture(scope="session")
def smollm2(starters: Manifest, models_dir: Path) -> Path:
    """The folder of SmolLM2-135M-Instruct."""
    return weights.ensure(starters.resolve("smollm2-135m"), models_dir)


@pytest.fixture(scope="session")
def whisper(starters: Manifest, models_dir: Path) -> Path:
    """The folder of Whisper tiny.en."""
    return weights.ensure(starters.resolve("whisper-tiny.en"), models_dir)


@pytest.fixture(scope="session")
def minilm(starters: Manifest, models_dir: Path) -> Path:
    """The folder of all-MiniLM-L6-v2."""
    return weights.ensure(starters.resolve("all-minilm-l6-v2"), models_dir)
