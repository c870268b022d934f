"""When a text runs in circles, and at what temperatures it is tried again."""

import pytest

from workers.engines.asr.fallback import ladder, loop_begin, too_repetitive


@pytest.mark.parametrize(
    ("tokens", "begin"),
    [
        ([], None),
        (list(range(100)), None),
        ([1, 2, 3] + [7] * 47, None),
        ([1, 2, 3] + [7] * 48, 4),
        ([1, 2, 3] + [7, 8] * 24, 5),
        ([1, 2, 3] + [7, 8] * 23, None),
        ([9] + list(range(40)) * 3, None),
        ([9] + list(range(40)) * 4, 41),
        ([9] + list(range(64)) * 3 + list(range(64)), 65),
        ([9] + list(range(65)) * 5, None),
        ([7] * 60 + [1], None),
    ],
)
def test_a_loop_is_an_n_gram_that_goes_on_to_the_end(tokens: list[int], begin: int | None) -> None:
    assert loop_begin(tokens) == begin


def test_a_temperature_that_is_asked_for_is_the_first_of_the_ladder() -> None:
    assert ladder(None) == ladder(0.0) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert ladder(0.7) == pytest.approx((0.7, 0.9))
    assert ladder(1.0) == (1.0,)


def test_a_text_that_compresses_well_is_too_repetitive() -> None:
    assert too_repetitive("Thank you for watching. " * 8)
    assert not too_repetitive("She was of course only too good for him; but as nobody minds having that.")
    assert not too_repetitive("")
