"""Subtitles: what was heard as SubRip (SRT) or WebVTT text.

Cues follow what broadcasters ask of them: two lines of at most 42 characters (20 where they are
full-width), 0.7 to 7 seconds, broken where the sentence or the speaker pauses.
"""

from collections.abc import Sequence

from shared.subtitles.cues import Cue, cues
from shared.transcript import Segment


def srt(segments: Sequence[Segment], duration: float) -> str:
    """SubRip of a recording of `duration` seconds; "" if nothing was said."""
    blocks = (
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{_srt_text(cue)}\n\n"
        for number, cue in enumerate(cues(segments, duration), 1)
    )
    return "".join(blocks)


def vtt(segments: Sequence[Segment], duration: float) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/) of a recording of `duration` seconds."""
    blocks = (
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_vtt_text(cue)}\n\n"
        for cue in cues(segments, duration)
    )
    return "WEBVTT\n\n" + "".join(blocks)


def _srt_text(cue: Cue) -> str:
    return "\n".join(cue.lines).replace("-->", "→")  # the format has no way to escape it


def _vtt_text(cue: Cue) -> str:
    text = "\n".join(cue.lines)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"
