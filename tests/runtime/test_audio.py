"""Audio: every container, rate and channel layout gives the same sound; every broken file one AudioError sentence."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.audio import array_audio, audio_blocks, read_audio
from asr_runtime.errors import AudioError
from asr_runtime.raw import RawAudio, RawFormat

RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def refused(source: object, *words: str) -> None:
    with pytest.raises(AudioError) as caught:
        read_audio(source, RATE)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def similarity(left: np.ndarray, right: np.ndarray) -> float:
    """Cosine of two signals: 1 where they have one shape."""
    length = min(len(left), len(right))
    left, right = left[:length], right[:length]
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_of_every_sample_type(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(), RATE, subtype=subtype)
    samples = read_audio(tmp_path / "tone.wav", RATE)
    assert (samples.dtype, samples.shape) == (np.float32, (RATE,))
    np.testing.assert_allclose(samples, tone(), atol=1 / 100 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tone.flac", {}),
        ("tone.ogg", {"subtype": "VORBIS"}),
        ("tone.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("tone.mp3", {"format": "MP3"}),
        ("tone.aiff", {}),
        ("tone.raw", {"format": "WAV"}),
        ("tone", {"format": "FLAC"}),
    ],
)
def test_containers_by_content_not_by_name(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    soundfile.write(tmp_path / name, tone(), RATE, **options)
    samples = read_audio(str(tmp_path / name), RATE)
    assert abs(len(samples) - RATE) < 0.1 * RATE  # MP3 and Opus pad
    assert similarity(samples, tone()) > 0.98


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_rate_and_channels_become_mono_at_the_models_rate(tmp_path: Path, rate: int, channels: int) -> None:
    source = np.stack([tone(2.0, rate)] * channels, axis=1)
    soundfile.write(tmp_path / "tone.wav", source, rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "tone.wav", RATE)
    assert abs(len(samples) - 2 * RATE) <= 1
    np.testing.assert_allclose(samples[1000:-1000], tone(2.0)[1000 : len(samples) - 1000], atol=2e-3)


def test_resampling_does_not_alias(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "high.wav", tone(1.0, 48000, hertz=11000), 48000)
    assert np.abs(read_audio(tmp_path / "high.wav", RATE)[500:-500]).max() < 1e-3


def test_stereo_is_the_mean_of_both_sides(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s.wav", np.stack([tone(), 0 * tone()], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "s.wav", RATE), tone() / 2, atol=1e-6)


def test_paths_bytes_streams_and_arrays_agree(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(), 24000, subtype="FLOAT")
    expected = read_audio(tmp_path / "tone.wav", RATE)
    content = (tmp_path / "tone.wav").read_bytes()
    np.testing.assert_array_equal(read_audio(content, RATE), expected)
    np.testing.assert_array_equal(read_audio(io.BytesIO(content), RATE), expected)
    np.testing.assert_array_equal(array_audio(tone(), 24000, RATE), expected)


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.flac", tone(3.0), RATE)
    reader, writer = os.pipe()
    command = [
        sys.executable,
        "-c",
        "import sys, shutil; shutil.copyfileobj(open(sys.argv[1], 'rb'), sys.stdout.buffer)",
    ]
    with subprocess.Popen([*command, str(tmp_path / "tone.flac")], stdout=writer) as process:
        os.close(writer)
        assert len(read_audio(os.fdopen(reader, "rb"), RATE)) == 3 * RATE
    assert process.returncode == 0


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 900_000), rate=st.sampled_from([8000, 16000, 44100]))
def test_blocks_join_to_the_whole(count: int, rate: int) -> None:
    stream = io.BytesIO()
    source = np.random.default_rng(count).uniform(-0.5, 0.5, count).astype(np.float32)
    soundfile.write(stream, source, rate, format="WAV", subtype="FLOAT")
    blocks = list(audio_blocks(stream.getvalue(), RATE))
    joined = np.concatenate(blocks)
    assert abs(len(joined) - count * RATE / rate) <= 1
    np.testing.assert_allclose(joined, array_audio(source, rate, RATE), atol=1e-6)


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float16, np.float64])
def test_arrays_of_any_number_type(dtype: type) -> None:
    samples = tone()
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        half = (int(limits.max) - int(limits.min) + 1) / 2
        samples = np.round(samples * (half - 1) + (int(limits.max) + int(limits.min) + 1) / 2)
    np.testing.assert_allclose(array_audio(samples.astype(dtype), RATE, RATE), tone(), atol=0.01)


def test_arrays_of_either_axis_order() -> None:
    stereo = np.stack([tone(), 0 * tone()])
    np.testing.assert_allclose(array_audio(stereo, RATE, RATE), tone() / 2, atol=1e-6)
    np.testing.assert_allclose(array_audio(stereo.T, RATE, RATE), tone() / 2, atol=1e-6)


@pytest.mark.parametrize("wrong", [[], [[]], "text", [1j], np.zeros((2, 2, 2)), 3.0, [None]])
def test_arrays_that_are_no_audio(wrong: object) -> None:
    with pytest.raises(AudioError, match="give numbers of shape"):
        array_audio(wrong, RATE, RATE)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0, -1, 10**9, float("nan")])
def test_a_rate_that_cannot_be(rate: float) -> None:
    with pytest.raises(AudioError, match="sample rate"):
        array_audio(tone(), rate, RATE)  # type: ignore[arg-type]


def test_samples_of_16_bit_given_as_floats_are_a_mistake() -> None:
    with pytest.raises(AudioError, match="divide by the full scale"):
        array_audio(tone() * 32768, RATE, RATE)


# --- broken files ----------------------------------------------------------------------------------------------------


def test_missing_empty_foreign_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "absent.wav", "absent.wav", "no such file")
    refused(tmp_path, "folder")
    refused("a\0b", "cannot be opened")
    (tmp_path / "empty.wav").touch()
    refused(tmp_path / "empty.wav", "empty")
    (tmp_path / "letter.wav").write_text("Dear reader, " * 100)
    refused(tmp_path / "letter.wav", "not audio")
    refused(b"", "empty")
    refused(b"RIFF", "not audio")


def test_no_samples_and_samples_that_are_no_numbers(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", tone(0), RATE)
    refused(tmp_path / "none.wav", "no samples")
    for value in (np.nan, np.inf, -np.inf):
        samples = tone()
        samples[500] = value
        soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
        refused(tmp_path / "bad.wav", "not finite")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    ("format", "subtype"),
    [("WAV", "PCM_16"), ("AIFF", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)],
)
def test_a_file_that_was_cut_off(format: str, subtype: str | None, keep: float) -> None:
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, 5 * RATE)
    stream = io.BytesIO()
    soundfile.write(stream, noise, RATE, format=format, subtype=subtype)
    content = stream.getvalue()
    refused(content[: int(len(content) * keep)])


def test_a_wav_written_into_a_pipe_does_not_know_its_length() -> None:
    stream = io.BytesIO()
    soundfile.write(stream, tone(), RATE, format="WAV", subtype="PCM_16")
    content = bytearray(stream.getvalue())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    np.testing.assert_allclose(read_audio(bytes(content), RATE), tone(), atol=1e-4)


def test_a_flac_written_into_a_pipe_does_not_know_its_length() -> None:
    stream = io.BytesIO()
    soundfile.write(stream, tone(), RATE, format="FLAC")
    content = bytearray(stream.getvalue())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    content[22:26] = bytes(4)
    np.testing.assert_allclose(read_audio(bytes(content), RATE), tone(), atol=1e-4)


CONTAINERS = {
    format: soundfile.write(stream := io.BytesIO(), tone(0.5), RATE, format=format) or stream.getvalue()
    for format in ("WAV", "FLAC", "OGG", "MP3", "AIFF")
}


@settings(max_examples=300, deadline=None)
@given(data=st.data(), format=st.sampled_from(sorted(CONTAINERS)))
def test_a_damaged_file_is_refused_or_read(data: st.DataObject, format: str) -> None:
    content = bytearray(CONTAINERS[format])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.one_of(st.integers(0, 80), st.integers(0, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    try:
        samples = read_audio(bytes(content), RATE)
    except AudioError as error:
        assert "\n" not in str(error)
    else:
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()


def test_a_damaged_flac_that_pyav_gives_no_sample_rate() -> None:
    pytest.importorskip("av", reason="PyAV is not installed; pip install 'asr-deploy[video]'")
    content = bytearray(CONTAINERS["FLAC"])
    content[10], content[45] = 0, 41
    refused(bytes(content), "the sample rate is 0 hertz")


class FailingDisk(io.BytesIO):
    """A file on a disk that gives nothing more."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("wrap", [lambda disk: disk, lambda disk: RawAudio(disk, RawFormat("s16le", RATE))])
def test_a_disk_that_fails_is_an_error_of_its_recording(wrap: Callable[[FailingDisk], object]) -> None:
    refused(wrap(FailingDisk(b"RIFF" + bytes(100))), "reading failed", "Input/output error")
