"""Subtitles: what other programs read in them, and what holds for any transcript whatever its times."""

import math
import random
from itertools import pairwise

import pysubs2
import pytest
import webvtt

from shared.subtitles import srt, vtt
from shared.subtitles.cues import Cue, cues
from shared.transcript import Segment, Word

AUSTEN = (
    "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, seemed to "
    "unite some of the best blessings of existence; and had lived nearly twenty-one years in the world with "
    "very little to distress or vex her. She was the youngest of the two daughters of a most affectionate, "
    "indulgent father. \"Yes,\" said Mr. Knightley. I know!"
)
CHINESE = "今天天气很好，我们一起去公园散步吧。然后我们用Python写一些代码，看看这个语音识别系统到底好不好用！"
JAPANESE = "「はい」と彼は言った。ちょっと待ってください、すぐに行きますから。今日はとても天気がいいですね。"
THAI = "สวัสดีครับวันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกันเถอะแล้วค่อยกลับบ้านไปกินข้าวเย็น"
NASTY = "a --> b <i>x</i> &amp; 1\n\n2\n00:00 --> \t\x00 {\\an8} " + "w" * 100 + " 😀👨‍👩‍👧 " + "。" * 50
TEXTS = [AUSTEN, CHINESE, JAPANESE, THAI, NASTY, "No.", "", "  ", "Supercalifragilistic " * 9]
SEEDS = range(60)


def spread(text: str, length: float, start: float = 0.0) -> list[Word]:
    """The words of a text, evenly over `length` seconds."""
    words = text.split()
    step = length / len(words)
    return [Word(f" {word}", start + at * step, start + (at + 0.9) * step) for at, word in enumerate(words)]


def bare(text: str) -> str:
    return "".join(text.split()).replace("\x00", "")


def text_of(every: list[Cue]) -> str:
    return "".join(bare(line) for cue in every for line in cue.lines)


def seconds(cue: Cue) -> float:
    return (cue.end - cue.start) / 1000


def recording(seed: int) -> tuple[list[Segment], float]:
    """Any segments a model might ever give, and the length of the recording."""
    chance = random.Random(seed)
    duration = chance.choice([0.0, 0.004, 0.3, 5.0, 60.0, 400_000.0])
    odd = [0.0, -1.0, math.nan, math.inf, 1e-9, duration, duration * 2]
    segments, at = [], 0.0
    for _ in range(chance.choice([0, 1, 3, 30])):
        text = chance.choice(TEXTS)
        start, end = at + chance.uniform(-1, 2), at + chance.uniform(0, 12)
        if chance.random() < 0.2:
            start, end = chance.choice(odd), chance.choice(odd)
        words = spread(text, max(end - start, 0.1), start) if text.strip() and chance.random() < 0.5 else None
        if words and chance.random() < 0.5:  # as aligners do, some words are lost or stand elsewhere
            words = [word for word in words if chance.random() < 0.8] + chance.sample(words, 1)
        segments.append(Segment(start, end, text, words=words))
        at = max(at, end) if math.isfinite(end) else at
    return segments, duration


# --- what holds always


@pytest.mark.parametrize("seed", SEEDS)
def test_any_transcript_makes_subtitles_that_keep_the_rules(seed: int) -> None:
    segments, duration = recording(seed)
    every = cues(segments, duration)
    room = max(round(duration * 1000), len(every))
    least = min(700, room // max(len(every), 1))

    assert text_of(every) == "".join(bare(segment.text) for segment in segments)
    assert all(cue.lines and all(line.strip() == line != "" for line in cue.lines) for cue in every)
    assert all(len(cue.lines) <= 2 and max(map(len, cue.lines)) <= 42 for cue in every)
    assert all(least <= cue.end - cue.start <= 7000 for cue in every)
    assert all(first.end <= second.start for first, second in pairwise(every))
    assert not every or (every[0].start >= 0 and every[-1].end <= room)


@pytest.mark.parametrize("seed", SEEDS)
def test_other_programs_read_every_cue_as_it_was_meant(seed: int) -> None:
    segments, duration = recording(seed)
    duration = min(duration, 99 * 3600.0)  # pysubs2 reads hours of two digits
    every = cues(segments, duration)
    subrip = pysubs2.SSAFile.from_string(
        srt(segments, duration), format_="srt", keep_html_tags=True, keep_unknown_html_tags=True
    )
    web = webvtt.from_string(vtt(segments, duration)).captions

    assert [(each.start, each.end) for each in subrip] == [cue[:2] for cue in every]
    assert [each.text for each in subrip] == [r"\N".join(cue.lines).replace("-->", "→") for cue in every]
    assert [(each.start_in_seconds, each.end_in_seconds) for each in web] == [
        (cue.start // 1000, cue.end // 1000) for cue in every
    ]
    assert [each.lines for each in web] == [list(map(escaped, cue.lines)) for cue in every]


def escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- what makes them good to read


@pytest.mark.parametrize("words", [None, spread(AUSTEN, 30.0)], ids=["by characters", "by words"])
def test_english_is_cut_where_sentences_and_clauses_end(words: list[Word] | None) -> None:
    every = cues([Segment(0.0, 30.0, AUSTEN, words=words)], 30.0)
    ends = [cue.lines[-1][-1] for cue in every]

    assert sum(end in ",.;!\"" for end in ends) >= 0.7 * len(ends)
    assert all(0.7 <= seconds(cue) <= 7 for cue in every)
    assert not any(cue.lines[-1].endswith("Mr.") for cue in every)


def test_two_lines_are_about_as_long_as_each_other() -> None:
    (cue,) = cues([Segment(0.0, 5.0, "one two three four five six seven eight nine ten eleven")], 5.0)
    first, second = map(len, cue.lines)
    assert abs(first - second) <= 6


@pytest.mark.parametrize("text", [CHINESE, JAPANESE])
def test_full_width_lines_are_short_and_never_begin_with_a_closing_mark(text: str) -> None:
    lines = [line for cue in cues([Segment(0.0, 15.0, text * 3)], 15.0) for line in cue.lines]
    assert max(map(len, lines)) <= 24 and all(sum(each > "\u2fff" for each in line) <= 20 for line in lines)
    assert not any(line[0] in "，。、！？」ょっー" for line in lines)
    assert any("Python" in line for line in lines) or text is JAPANESE


def test_a_pause_parts_cues() -> None:
    words = [Word("one", 0.0, 1.0), Word("two", 1.0, 2.0), Word("three", 8.0, 9.5)]
    every = cues([Segment(0.0, 9.5, "one two three", words=words)], 10.0)
    assert [cue.lines for cue in every] == [("one two",), ("three",)]
    assert every[1].start == 8000


def test_brief_segments_share_a_cue() -> None:
    words = "so it goes on and on".split()
    segments = [Segment(at * 0.2, at * 0.2 + 0.2, word) for at, word in enumerate(words)]
    assert [cue.lines for cue in cues(segments, 2.0)] == [("so it goes on and on",)]


def test_a_short_word_stays_long_enough_to_read() -> None:
    (cue,) = cues([Segment(3.0, 3.1, "No.")], 10.0)
    assert (cue.start, cue.end) == (3000, 3700)


def test_the_last_word_of_a_recording_takes_time_from_before() -> None:
    (cue,) = cues([Segment(9.9, 12.0, "No.")], 10.0)
    assert (cue.start, cue.end) == (9300, 10_000)


def test_a_long_silence_after_a_word_is_not_shown() -> None:
    (cue,) = cues([Segment(0.0, 30.0, "Hello.")], 30.0)
    assert (cue.start, cue.end) == (0, 7000)


def test_a_later_segment_that_overlaps_cuts_the_earlier_one_short() -> None:
    segments = [Segment(0.0, 5.5, "It was said before."), Segment(5.0, 9.0, "It is said now.")]
    first, second = cues(segments, 9.0)
    assert first.end == second.start == 5000


def test_hours_may_have_three_digits() -> None:
    assert "100:00:01,000 --> 100:00:03,000" in srt([Segment(360_001.0, 360_003.0, "Still here.")], 360_010.0)


def test_nothing_said_is_no_cue() -> None:
    assert srt([Segment(0.0, 3.0, " \n")], 3.0) == ""
    assert vtt([], 3.0) == "WEBVTT\n\n"


def test_marks_of_the_formats_are_only_text() -> None:
    segments = [Segment(0.0, 3.0, "a --> b <v Ann> & c")]
    assert "a → b <v Ann> & c" in srt(segments, 3.0)
    assert "a --&gt; b &lt;v Ann&gt; &amp; c" in vtt(segments, 3.0)
