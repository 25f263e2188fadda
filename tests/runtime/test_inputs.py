"""What arguments name: files, folders, patterns, manifests; containers and raw samples; by Python and by `asr-run`."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr_runtime
from asr_runtime import AudioError, containers
from asr_runtime.audio import read_audio
from asr_runtime.inputs import Input, expand
from asr_runtime.raw import ENCODINGS, RawAudio, RawFormat

Spell = Callable[[str], np.ndarray]
COMMAND = [sys.executable, "-c", "from asr_runtime.cli import main; main()", "--greedy", "--quiet"]


def named(*arguments: object, raw: bool = False) -> list[tuple[str, str]]:
    found = list(expand([str(argument) for argument in arguments], raw=raw))
    assert all(isinstance(item, Input) for item in found), found
    return [(item.name, str(item.place)) for item in found if isinstance(item, Input)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.wav", "a.FLAC", "deep/er/c.mp4", "deep/er/d.txt", ".hidden.wav", ".git/e.wav", "f.raw", "g[1].wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_recordings_in_order(tree: Path) -> None:
    assert named(tree) == [
        (f"{tree}/a.FLAC", "a"),
        (f"{tree}/b.wav", "b"),
        (f"{tree}/g[1].wav", "g[1]"),
        (f"{tree}/deep/er/c.mp4", "deep/er/c"),
    ]
    assert named(tree, raw=True) == [(f"{tree}/f.raw", "f")]


def test_patterns_and_what_only_looks_like_one(tree: Path) -> None:
    assert named(tree / "*.wav") == [(f"{tree}/b.wav", "b"), (f"{tree}/g[1].wav", "g[1]")]
    assert named(tree / "**" / "*.mp4") == [(f"{tree}/deep/er/c.mp4", "deep/er/c")]
    assert named(tree / "d*") == [(f"{tree}/deep/er/c.mp4", "er/c")]
    assert named(tree / "g[1].wav") == [(f"{tree}/g[1].wav", "g[1]")]


def test_a_manifest_names_recordings_beside_it(tree: Path) -> None:
    rows = [{"audio": "b.wav", "text": "x"}, {"audio_filepath": "/far/c.wav"}, {"audio": "deep/../a\u2028.FLAC"}]
    (tree / "list.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    assert named(tree / "list.jsonl") == [
        (f"{tree}/b.wav", "b"),
        ("/far/c.wav", "c"),
        (f"{tree}/deep/../a\u2028.FLAC", "a\u2028"),
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no lines"),
        (b'{"audio": "a.wav"}\n{"text": "x"}\n', "line 2"),
        (b"[1]\n", "line 1: there is no recording"),
        (b"{audio: 1}\n", "line 1: this is no JSON (Expecting property name"),
        (b'{"audio": 7}\n', "line 1"),
        (b'{"audio": ""}\n', "line 1"),
        (b"[" * 100_000, "line 1"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_one_error(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "list.jsonl").write_bytes(content)
    (error,) = expand([str(tmp_path / "list.jsonl")])
    assert isinstance(error, AudioError)
    assert fault in str(error)


@pytest.mark.parametrize("broken", [2, 10, 11])
def test_the_first_broken_lines_of_a_manifest_are_told_and_counted(tmp_path: Path, broken: int) -> None:
    good = [json.dumps({"audio": "a.wav"})]
    (tmp_path / "list.jsonl").write_text("\n".join([*good, *["{"] * broken, *good]))
    told = [str(fault) for fault in expand([str(tmp_path / "list.jsonl")])]
    assert [line.split(":")[0] for line in told] == [
        f"{tmp_path}/list.jsonl, line {number}" for number in range(2, 2 + min(broken, 10))
    ]
    assert f" {broken} lines have such faults" in told[-1]
    assert ("the first 10" in told[-1]) == (broken > 10)


def test_arguments_that_name_nothing_are_errors_of_their_own(tree: Path) -> None:
    (tree / "none").mkdir()
    found = list(expand([f"{tree}/none", f"{tree}/*.mp3", f"{tree}/absent.jsonl", f"{tree}/b.wav"]))
    assert [type(item) for item in found] == [AudioError] * 3 + [Input]
    assert [
        next(text for text in ("no recordings", "nothing matches", "no such file") if text in str(item))
        for item in found[:3]
    ] == ["no recordings", "nothing matches", "no such file"]


def test_an_address_is_named_whole_and_not_looked_up_as_a_path(tree: Path) -> None:
    address = "https://example.org/talks/*.flac?part=1"
    assert named(address) == [(address, "*")]
    (tree / "list.jsonl").write_text(json.dumps({"audio": address}))
    assert [name for name, _ in named(tree / "list.jsonl")] == [address]
    with pytest.raises(AudioError, match="network") as caught:
        read_audio(address, 16000)
    assert str(caught.value).startswith(f"{address}: ")


# --- raw samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_raw_samples_of_every_encoding(encoding: str, channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    signal = rng.uniform(-0.9, 0.9, (100_001, channels))
    subtype, order, size = ENCODINGS[encoding]
    path = tmp_path / "samples"
    soundfile.write(path, signal, 8000, format="RAW", subtype=subtype, endian=order)
    assert path.stat().st_size == signal.size * size
    read = read_audio(RawAudio(path, RawFormat(encoding, 8000, channels)), 8000)
    coarse = {"s8": 0.01, "u8": 0.01, "mulaw": 0.04, "alaw": 0.04}.get(encoding, 1e-4)
    np.testing.assert_allclose(read, signal.mean(axis=1), atol=coarse)


class Dripping(io.RawIOBase):
    """A pipe that gives seven bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._rest = content

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        block, self._rest = self._rest[:7], self._rest[7:]
        return block


def test_raw_samples_come_through_a_pipe_in_any_pieces() -> None:
    values = np.arange(-500, 500, dtype="<i2")
    source = RawAudio(Dripping(values.tobytes()), RawFormat("s16le", 16000))  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_audio(source, 16000), values.astype(np.float32) / 32768)
    with pytest.raises(AudioError, match="end within a sample"):
        read_audio(RawAudio(values.tobytes()[:-1], RawFormat("s16le", 16000)), 16000)
    with pytest.raises(AudioError, match="no samples"):
        read_audio(RawAudio(b"", RawFormat("s16le", 16000)), 16000)
    with pytest.raises(AudioError, match="s17"):
        RawFormat("s17", 16000)


def test_raw_samples_on_standard_input(tone_bundle: Path, spell: Spell) -> None:
    samples = (32767 * spell("hello")).astype("<i2").tobytes()
    command = [*COMMAND, "--model", str(tone_bundle), "-"]
    flags = ["--raw", "s16le", "--rate", "16000", "--channels", "1"]
    done = subprocess.run([*command, *flags], input=samples, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")
    for wrong in (["--raw", "s16le"], ["--rate", "8000"], ["--raw", "s17", "--rate", "8000"], [*flags[:3], "8"]):
        done = subprocess.run([*command, *wrong], input=samples, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


# --- containers ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["pyav", "ffmpeg"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Reads containers by one of the two, where it is there."""
    if request.param == "pyav":
        pytest.importorskip("av")
    elif not shutil.which("ffmpeg"):
        pytest.skip("the ffmpeg command is not installed")
    else:
        monkeypatch.setattr(containers, "find_spec", lambda name: None)
    return str(request.param)


def film(path: Path, samples: np.ndarray, rate: int) -> None:
    """A Matroska or MP4 file with a picture and AAC or Opus sound, made by PyAV."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=5, width=32, height=32, pix_fmt="yuv420p")
        sound = container.add_stream("aac", rate=rate, layout="mono")
        for packet in picture.encode(av.VideoFrame(32, 32, "yuv420p")):
            container.mux(packet)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler("fltp", "mono", rate, frame_size=1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in sound.encode(part):
                container.mux(packet)
        for stream in (picture, sound):
            for packet in stream.encode(None):
                container.mux(packet)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_the_sound_of_a_film(by: str, suffix: str, tone_bundle: Path, spell: Spell, tmp_path: Path) -> None:
    path = tmp_path / f"film.{suffix}"
    film(path, spell("to be or not"), 16000)
    recognizer = asr_runtime.load(tone_bundle, greedy=True, threads=1)
    assert recognizer.transcribe(path).text == "to be or not"
    assert recognizer.transcribe(path.read_bytes()).text == "to be or not"
    with path.open("rb") as stream:
        assert recognizer.transcribe(stream).text == "to be or not"


def test_what_is_no_recording_is_one_sentence_with_containers_too(
    by: str, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    film(tmp_path / "film.mp4", np.zeros(16000), 16000)
    whole = (tmp_path / "film.mp4").read_bytes()
    playlist = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.mp3\n"
    for content in (b"Dear reader, " * 50, bytes(1000), whole[: len(whole) // 2], playlist):
        with pytest.raises(AudioError) as error:
            read_audio(content, 16000)
        one_sentence(str(error.value))


def test_without_either_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "available", lambda: False)
    with pytest.raises(AudioError, match="install ffmpeg or PyAV"):
        read_audio(b"not audio at all", 16000)


def children() -> list[str]:
    """Names of this process's children, as Linux tells them."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            stats.append(path.read_text().partition("(")[2].rpartition(")"))  # a name may have brackets of its own
    return [name for name, _, rest in stats if rest.split()[1] == str(os.getpid())]


def test_a_reader_that_leaves_early_ends_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("the ffmpeg command is not installed")
    monkeypatch.setattr(containers, "find_spec", lambda name: None)
    film(tmp_path / "long.mkv", np.zeros(16000 * 120), 16000)
    with (tmp_path / "long.mkv").open("rb") as stream:
        blocks, _ = containers.decoded_container(stream, "long.mkv", 16000)
        next(blocks)
        blocks.close()  # type: ignore[attr-defined]
    assert not [name for name in children() if name == "ffmpeg"]
