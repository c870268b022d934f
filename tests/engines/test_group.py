"""Which models can be divided among several ranks."""

from pathlib import Path

import pytest

from tests.checkpoints import text
from workers.sources import WeightsError

pytestmark = pytest.mark.models


@pytest.mark.parametrize(
    ("architecture", "ranks", "problem"),
    [
        ("minicpm", 2, "cannot divide a model of type 'minicpm'"),
        ("qwen3", 3, "num_attention_heads of this model is 4, which 3 ranks cannot share"),
        ("qwen3", 4, "num_key_value_heads of this model is 2, which 4 ranks cannot share"),
    ],
)
def test_a_model_that_cannot_be_divided_is_refused(
    tmp_path: Path, architecture: str, ranks: int, problem: str
) -> None:
    from workers.engines import llm
    from workers.engines.llm.group import check_divides

    model, _, config = llm.load_model(text.build(tmp_path / "model", architecture), lazy=True)
    with pytest.raises(WeightsError, match=problem):
        check_divides(model, config, ranks)
