"""What is read from files of every kind, and what is refused before it costs anything."""

import random
import re
import struct
import threading
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from shared.errors import BadRequest
from workers.engines.asr.audio import RATE, Recording, decode

DATA = Path(__file__).parent.parent / "data"
CLIP = DATA / "something.flac"
# name: codec, rate, layout, seconds of video
FORMATS = {
    "a.wav": ("pcm_s16le", 44_100, "stereo", 0),
    "8k.wav": ("pcm_s16le", 8_000, "mono", 0),
    "float.wav": ("pcm_f32le", 48_000, "5.1", 0),
    "a.mp3": ("libmp3lame", 44_100, "stereo", 0),
    "8k.mp3": ("libmp3lame", 8_000, "mono", 0),
    "a.m4a": ("aac", 44_100, "stereo", 0),
    "surround.m4a": ("aac", 48_000, "5.1", 0),
    "a.aac": ("aac", 48_000, "stereo", 0),
    "8k.aac": ("aac", 8_000, "mono", 0),
    "a.flac": ("flac", 44_100, "mono", 0),
    "surround.flac": ("flac", 48_000, "5.1", 0),
    "a.ogg": ("vorbis", 44_100, "stereo", 0),
    "a.opus": ("libopus", 48_000, "mono", 0),
    "stereo.opus": ("libopus", 48_000, "stereo", 0),
    "a.webm": ("libopus", 48_000, "stereo", 0),
    "a.mp4": ("aac", 44_100, "stereo", 3),
    "a.mkv": ("flac", 48_000, "5.1", 3),
    "a.ts": ("aac", 44_100, "stereo", 0),
}


def encode(path: Path, codec: str, rate: int, layout: str, picture: int, **options: str) -> Path:
    """The clip in another format; of several channels each says the same."""
    samples = decode(str(CLIP), 60)
    with av.open(str(path), "w", options=options) as container:
        video = add_video(container) if picture else None
        stream = container.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental"})
        container.start_encoding()
        if video:
            show(container, video, picture)
        mono = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        mono.sample_rate, mono.pts = RATE, 0
        resampler = av.AudioResampler("fltp", rate=rate)
        frames = [*resampler.resample(mono), *resampler.resample(None)]
        size = stream.codec_context.frame_size or 1024
        shaper = av.AudioResampler(stream.format.name, layout, rate, frame_size=size)
        for frame in (*(spread(frame, layout) for frame in frames), None):
            for shaped in shaper.resample(frame):
                container.mux(stream.encode(shaped))
        container.mux(stream.encode(None))
    return path


def add_video(container: av.container.OutputContainer) -> av.VideoStream:
    stream = container.add_stream("mpeg4", rate=10)
    stream.width = stream.height = 16
    return stream


def show(container: av.container.OutputContainer, stream: av.VideoStream, seconds: int) -> None:
    for number in range(10 * seconds):
        frame = av.VideoFrame(16, 16, "yuv420p")
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def spread(frame: av.AudioFrame, layout: str) -> av.AudioFrame:
    channels = av.AudioLayout(layout).nb_channels
    wide = av.AudioFrame.from_ndarray(np.repeat(frame.to_ndarray(), channels, 0), "fltp", layout)
    wide.sample_rate, wide.pts = frame.sample_rate, frame.pts
    return wide


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)


def with_field(data: bytes, format: str, offset: int, value: int) -> bytes:
    """A WAV file with another value in its fmt chunk, which begins at byte 20."""
    field = struct.pack(format, value)
    return data[: 20 + offset] + field + data[20 + offset + len(field) :]


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """The highest correlation at any shift: encoders begin with some samples of their own."""
    size = 1 << (len(one) + len(other)).bit_length()
    product = np.fft.irfft(np.fft.rfft(one, size) * np.fft.rfft(other, size).conj(), size)
    return float(product.max() / np.linalg.norm(one) / np.linalg.norm(other))


def refusal(path: Path, longest: float = 60) -> str:
    with pytest.raises(BadRequest) as refused:
        decode(str(path), longest)
    assert (refused.value.code, refused.value.param) == ("invalid_audio", "file")
    assert "Accepted are wav, mp3" in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_heard_as_it_was_spoken(tmp_path: Path, name: str) -> None:
    original = decode(str(CLIP), 60)
    path = str(encode(tmp_path / name, *FORMATS[name]))
    samples = decode(path, 60)
    assert (samples.dtype, samples.ndim) == (np.float32, 1)
    assert len(samples) / RATE == pytest.approx(len(original) / RATE, abs=0.25)  # what encoders add
    assert Recording(path, 60).duration == pytest.approx(len(samples) / RATE, abs=0.25)
    assert likeness(original, samples) > 0.8  # 8 kHz have nothing above 4 kHz


def test_channels_become_their_mean(tmp_path: Path) -> None:
    stereo = np.stack([tone(1, 44_100), np.zeros(44_100)], axis=1).ravel()
    samples = decode(str(write_wav(tmp_path / "a.wav", stereo, 44_100, channels=2)), 10)
    assert len(samples) == pytest.approx(RATE, abs=50)
    assert np.abs(samples).max() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("channels", [3, 8, 9, 16, 64])
def test_a_file_of_many_channels_is_read(tmp_path: Path, channels: int) -> None:
    many = np.repeat(tone(1), channels)
    samples = decode(str(write_wav(tmp_path / "a.wav", many, channels=channels)), 10)
    assert np.abs(samples - tone(1)).max() < 0.001


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"This is a letter, not a recording.\n" * 50, "not audio"),
        ("a.wav", b"", "empty"),
        ("b.wav", b"RIFF", "not audio"),
        ("a.mp3", b"\x00" * 5000, "not audio"),
        ("a.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n", "not audio"),
        ("a.ffconcat", b"ffconcat version 1.0\nfile a.wav\n", "not audio"),
    ],
)
def test_what_is_not_audio_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        show(container, add_video(container), seconds=1)
    assert "no audio stream" in refusal(tmp_path / "a.mp4")


def test_audio_that_no_decoder_knows_is_refused(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.webm", *FORMATS["a.webm"]).read_bytes()
    (tmp_path / "b.webm").write_bytes(data.replace(b"A_OPUS", b"A_XXXX"))
    assert "format that cannot be read" in refusal(tmp_path / "b.webm")


def test_a_cover_is_no_obstacle_even_if_it_is_broken(tmp_path: Path) -> None:
    picture = b"\x00image/jpeg\x00\x03\x00" + b"\xff\xd8\xff\xe0 no jpeg at all" * 50
    size = len(picture) + 10
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, size >> 7, size & 127])
    frame = b"APIC" + struct.pack(">IH", len(picture), 0)
    data = encode(tmp_path / "a.mp3", *FORMATS["a.mp3"], write_xing="0", id3v2_version="0").read_bytes()
    (tmp_path / "b.mp3").write_bytes(tag + frame + picture + data)
    assert np.array_equal(decode(str(tmp_path / "b.mp3"), 60), decode(str(tmp_path / "a.mp3"), 60))


def test_metadata_that_is_not_unicode_is_no_obstacle(tmp_path: Path) -> None:
    data = write_wav(tmp_path / "a.wav", tone(1)).read_bytes()
    note = b"LIST" + struct.pack("<I", 16) + b"INFOINAM" + struct.pack("<I", 4) + b"\xff\xfe\x80\x81"
    (tmp_path / "b.wav").write_bytes(data[:36] + note + data[36:])
    assert len(decode(str(tmp_path / "b.wav"), 60)) == RATE


def test_the_first_of_several_audio_streams_is_heard(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for stream, level in zip(streams, (0.2, 0.8), strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), level * 32767, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
    assert decode(str(tmp_path / "a.mkv"), 10).mean() == pytest.approx(0.2, abs=0.01)


def test_a_stream_that_begins_in_the_middle_is_no_obstacle(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.ts", *FORMATS["a.ts"])
    samples, data = decode(str(path), 10), bytearray(path.read_bytes())
    data[19 * 188 + 1 : 19 * 188 + 3] = b"\x01\x2a"  # this packet is of a stream not spoken of before
    path.write_bytes(data)
    assert len(decode(str(path), 10)) > len(samples) - RATE // 4


def test_audio_that_is_too_short_is_refused(tmp_path: Path) -> None:
    assert "less than 0.1 s" in refusal(write_wav(tmp_path / "a.wav", tone(0.05)))
    assert "less than 0.1 s" in refusal(write_wav(tmp_path / "b.wav", tone(0)))


def test_audio_that_is_too_long_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(3))
    with pytest.raises(BadRequest, match="longer than 2 s"):
        Recording(str(path), 2)


def test_a_guess_from_the_bitrate_is_no_duration(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.aac", *FORMATS["a.aac"])
    assert Recording(str(path), 60).duration == pytest.approx(len(decode(str(path), 60)) / RATE, abs=0.001)


def test_a_header_that_promises_too_much_is_not_believed(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flac", *FORMATS["a.flac"])
    data = bytearray(path.read_bytes())
    data[21:26] = bytes([data[21] | 0x0F, *b"\xff\xff\xff\xff"])  # 2^36 samples, the most it can say
    path.write_bytes(data)
    assert Recording(str(path), 60).duration == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_video_that_goes_on_without_sound_is_as_long_as_its_sound(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, *FORMATS[name][:3], 30)
    assert Recording(str(path), 10).duration == pytest.approx(3, abs=0.1)


def test_a_live_stream_without_a_duration_is_measured_by_its_packets(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.webm", *FORMATS["a.webm"], live="1")
    with av.open(str(path)) as container:
        assert container.duration is None
    assert Recording(str(path), 60).duration == pytest.approx(3, abs=0.1)


def test_a_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    """Two minutes of silence in 28 KB, in a file whose header promises one second."""
    with av.open(str(tmp_path / "a.flac"), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 120 * RATE), np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = RATE, 0
        shaper = av.AudioResampler("s16", "mono", RATE, stream.codec_context.frame_size or 4096)
        for each in (*shaper.resample(frame), *shaper.resample(None)):
            container.mux(stream.encode(each))
        container.mux(stream.encode(None))
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21:26] = bytes([data[21] & 0xF0]) + struct.pack(">I", RATE)
    (tmp_path / "a.flac").write_bytes(data)
    assert len(data) < 30_000
    recording = Recording(str(tmp_path / "a.flac"), 10)
    assert recording.duration == 1
    with pytest.raises(BadRequest, match="longer than 10 s"):
        list(recording.blocks())
    assert recording.seconds < 10.5


@pytest.mark.parametrize(
    ("format", "offset", "value"),
    [
        *[("<H", 0, codec) for codec in (0, 0x9999)],
        *[("<H", 2, channels) for channels in (0, 65, 100, 65535)],
        *[("<I", 4, rate) for rate in (0, 1, 100, 2_000_000, 2**31 - 1, 2**32 - 1)],
        *[("<I", 8, per_second) for per_second in (0, 1, 2**32 - 1)],
        *[("<H", 12, align) for align in (0, 1, 65535)],
        *[("<H", 14, bits) for bits in (0, 7, 65535)],
        *[("<I", 20, size) for size in (0, 1, 2**31 - 1, 2**32 - 1)],
    ],
)
def test_absurd_headers_are_refused_or_read(tmp_path: Path, format: str, offset: int, value: int) -> None:
    data = write_wav(tmp_path / "a.wav", tone(1)).read_bytes()
    (tmp_path / "b.wav").write_bytes(with_field(data, format, offset, value))
    try:
        assert len(decode(str(tmp_path / "b.wav"), 10)) <= 10 * RATE
    except BadRequest as refused:
        assert refused.code == "invalid_audio"


def test_samples_that_are_no_numbers_or_too_loud_stay_within_one(tmp_path: Path) -> None:
    path = encode(tmp_path / "float.wav", *FORMATS["float.wav"])
    data = bytearray(path.read_bytes())
    at = len(data) // 2 & ~3
    data[at : at + 24] = struct.pack("<6f", np.nan, np.inf, -np.inf, 3e38, -3e38, 70_000.0)
    path.write_bytes(data)
    samples = decode(str(path), 10)
    assert np.isfinite(samples).all() and np.abs(samples).max() <= 1


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.aac", "a.flac", "a.opus", "a.webm", "a.mkv", "a.ts"])
def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, *FORMATS[name])
    samples, data = decode(str(path), 60), path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    rest = decode(str(path), 60)
    assert RATE < len(rest) < len(samples)
    agreed = min(len(rest), len(samples)) - RATE // 10
    assert np.abs(rest[:agreed] - samples[:agreed]).max() < 0.01


def test_a_damaged_packet_costs_only_itself(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp3", *FORMATS["a.mp3"])
    samples, data = decode(str(path), 60), bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    path.write_bytes(data)
    assert len(decode(str(path), 60)) > len(samples) - RATE // 4


@pytest.mark.parametrize("name", ["a.wav", "a.m4a", "a.flac", "a.webm", "a.ts", "a.mp3"])
def test_bytes_at_random_places_are_refused_or_read(tmp_path: Path, name: str) -> None:
    data = encode(tmp_path / name, *FORMATS[name]).read_bytes()
    draw = random.Random(name)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(draw.choice((1, 4, 16))):
            broken[draw.randrange(draw.choice((64, 600, len(data))))] = draw.choice((0, 127, 255))
        (tmp_path / "b").write_bytes(broken)
        try:
            assert len(decode(str(tmp_path / "b"), 60)) <= 60 * RATE
        except BadRequest as refused:
            assert re.match(r"The (file|audio)", str(refused))


def test_blocks_are_about_a_second_and_count_what_was_read(tmp_path: Path) -> None:
    recording = Recording(str(write_wav(tmp_path / "a.wav", tone(4.5))), 10)
    read = 0
    for block in recording.blocks():
        read += len(block)
        assert len(block) <= 1.5 * RATE
        assert recording.seconds == read / RATE
    assert recording.seconds == 4.5


def test_a_recording_goes_from_thread_to_thread(tmp_path: Path) -> None:
    path = str(write_wav(tmp_path / "a.wav", tone(4)))
    with ThreadPoolExecutor(1) as opener:
        blocks = opener.submit(lambda: Recording(path, 10).blocks()).result()
    pieces: list[np.ndarray] = []

    def read(blocks: Iterator[np.ndarray]) -> None:
        pieces.extend([block] if (block := next(blocks, None)) is not None else [])

    for _ in range(6):
        thread = threading.Thread(target=read, args=(blocks,))
        thread.start()
        thread.join()
    assert np.array_equal(np.concatenate(pieces), decode(path, 10))


def open_files(path: Path) -> int:
    links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return sum(link.resolve() == path.resolve() for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are seen in /proc")
def test_the_file_is_closed_at_the_end_on_errors_and_when_it_is_abandoned(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(4))
    ended = Recording(str(path), 10)
    assert open_files(path) == 1
    list(ended.blocks())
    assert open_files(path) == 0

    abandoned = Recording(str(path), 10)
    next(blocks := abandoned.blocks())
    abandoned.close()
    assert open_files(path) == 0
    blocks.close()

    with pytest.raises(BadRequest) as refused:
        Recording(str(path), 2)
    assert refused.value and open_files(path) == 0

    dropped = Recording(str(path), 10).blocks()
    next(dropped)
    dropped.close()
    assert open_files(path) == 0


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    import tracemalloc

    path = write_wav(tmp_path / "a.wav", tone(600))
    tracemalloc.start()
    try:
        assert sum(map(len, Recording(str(path), 1000).blocks())) == 600 * RATE
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
