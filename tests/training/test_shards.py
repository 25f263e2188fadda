"""Shards: what `asr-train prepare` writes, and what reads it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from asr_runtime.errors import RecipeError
from asr_training.cli import app
from asr_training.corpus import Corpus
from asr_training.manifest import read_manifest
from asr_training.prepare import beside, prepare
from asr_training.recipe import Data, Features, Source
from asr_training.shards import add, list_shards, read_shards

DATA = Data(train=(), validation=())
FEATURES = Features(mels=20)


@pytest.fixture
def shards(tiny_manifest: Path, tmp_path: Path) -> Path:
    """The eight shared recordings in shards of three."""
    assert prepare([tiny_manifest], tmp_path / "shards", size=3) == (8, 3, "")
    return tmp_path / "shards"


def test_a_shard_is_a_tar_file_in_webdatasets_layout(shards: Path, tiny_manifest: Path) -> None:
    said = {}
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            for audio, about in zip(names[::2], names[1::2], strict=True):
                assert audio.removesuffix(".flac") == about.removesuffix(".json")
                members = [tar.extractfile(name) for name in (audio, about)]
                content, row = (member.read() for member in members if member)
                said[json.loads(row)["text"]] = content
                assert set(json.loads(row)) == {"text", "speaker", "source", "duration"}
    assert said == {u.text: u.audio.read_bytes() for u in read_manifest(tiny_manifest)}


def test_shards_are_the_same_each_time_and_mixed_by_their_seed(
    shards: Path, tiny_manifest: Path, tmp_path: Path
) -> None:
    prepare([tiny_manifest], tmp_path / "again", size=3)
    prepare([tiny_manifest], tmp_path / "other", size=3, seed=2)
    for path in shards.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    texts = [[u.text for u in read_shards(folder)] for folder in (shards, tmp_path / "other")]
    assert sorted(texts[0]) == sorted(texts[1])
    assert texts[0] != texts[1]


def test_features_of_shards_are_those_of_the_files(shards: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    stored = Corpus((Source(str(tiny_manifest)),), DATA, FEATURES, tmp_path)
    read = Corpus((Source(str(shards)),), DATA, FEATURES, None)
    assert sorted(u.text for u in read.utterances) == sorted(u.text for u in stored.utterances)
    rows = {utterance.text: row for row, utterance in enumerate(stored.utterances)}
    for index, utterance in enumerate(read.utterances):
        row = rows[utterance.text]
        assert np.array_equal(read.store[index], stored.store[row])
        assert read.store.frames[index] == stored.store.frames[row]
        assert read.store.noticed[index] == stored.store.noticed[row]
        assert (utterance.source, utterance.speaker) == ("chords", "s")


def test_opus_and_wav_at_any_rate_go_in_as_they_are(tmp_path: Path) -> None:
    tone = (0.3 * np.sin(np.arange(48000) / 48000 * 2 * np.pi * 440)).astype(np.float32)
    soundfile.write(tmp_path / "a.ogg", tone, 48000, format="OGG", subtype="OPUS")
    soundfile.write(tmp_path / "b.wav", np.stack([tone, tone], 1), 48000)
    lines = [json.dumps({"audio": name, "text": "a"}) for name in ("a.ogg", "b.wav")]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    prepare([tmp_path / "m.jsonl"], tmp_path / "shards")
    corpus = Corpus((Source(str(tmp_path / "shards")),), DATA, FEATURES, None)
    assert sorted(u.audio.suffix for u in corpus.utterances) == [".ogg", ".wav"]
    assert corpus.store.frames.tolist() == [len(corpus.store[0]), len(corpus.store[1])] == [101, 101]


@pytest.fixture
def faulty(tiny_manifest: Path, tmp_path: Path) -> Path:
    """A manifest with two good lines and one of each fault that `prepare` finds."""
    soundfile.write(tmp_path / "silent.wav", np.full(16000, 2e-4), 16000)
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    audio = [str(tiny_manifest.parent / f"{n}.flac") for n in (0, 1)] + ["silent.wav", "broken.wav"]
    rows = [{"audio": name, "text": "a"} for name in [*audio, audio[0]]] + [{"audio": audio[1], "text": " "}]
    (tmp_path / "m.jsonl").write_text("\n".join([*map(json.dumps, rows), "{"]))
    return tmp_path / "m.jsonl"


FAULTS = ("silence", "unreadable audio", "duplicate", "empty text", "broken line")


def test_faults_stop_it_and_are_counted_and_listed(
    faulty: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError) as caught:
        prepare([faulty], tmp_path / "out")
    *faults, last = str(caught.value).splitlines()
    assert len(faults) == len(FAULTS)
    for fault in faults:
        one_sentence(fault)
        assert f"{faulty}, line " in fault
    assert all(f"1 × {kind}" in last for kind in FAULTS)
    listed = (tmp_path / "out" / "data.txt").read_text().splitlines()
    assert sorted(line.split(":")[0] for line in listed) == sorted(FAULTS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data.txt"]


def test_it_goes_on_without_what_is_faulty(faulty: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["prepare", str(faulty), str(tmp_path / "out"), "--skip-bad"])
    assert result.exit_code == 0, result.output
    assert "2 utterances in 1 shards" in result.stdout
    assert "1 × duplicate" in result.stderr and "; left out, see" in result.stderr
    assert len(read_shards(tmp_path / "out")) == 2


def test_shards_are_replaced_by_force_alone_and_other_things_never(
    shards: Path, tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError, match="holds shards already") as caught:
        prepare([tiny_manifest], shards)
    one_sentence(str(caught.value))
    assert CliRunner().invoke(app, ["prepare", str(tiny_manifest), str(shards), "--force"]).exit_code == 0
    assert {path.name for path in shards.iterdir()} == {"000000.tar", "000000.jsonl", "shards.json"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000000.tar").write_text("mine")
    with pytest.raises(RecipeError, match="what lies here are no shards") as caught:
        prepare([tiny_manifest], tmp_path / "mine", force=True)
    one_sentence(str(caught.value))
    assert (tmp_path / "mine" / "000000.tar").read_text() == "mine"


def test_a_folder_that_cannot_be_renamed_is_refused_at_once(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_sentence: Callable[[str], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (".", "/proc"):
        with pytest.raises(RecipeError, match="the working folder or a mount point") as caught:
            prepare([tiny_manifest], Path(out))
        one_sentence(str(caught.value))


def test_a_second_try_replaces_what_the_first_told_of_faults(faulty: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        prepare([faulty], tmp_path / "out")
    prepare([tiny_manifest], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000000.tar", "000000.jsonl", "shards.json"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ZeroDivisionError()])
@pytest.mark.parametrize("before", [True, False])
def test_what_stops_it_in_the_middle_leaves_everything_as_it_was(
    shards: Path,
    tiny_manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_sentence: Callable[[str], None],
    error: BaseException,
    before: bool,
) -> None:
    def stopping(tar: tarfile.TarFile, name: str, content: bytes) -> None:
        if name.startswith("000000004"):
            raise error
        add(tar, name, content)

    out = shards if before else tmp_path / "out"
    content = {path: path.read_bytes() for path in shards.iterdir()}
    there = sorted(tmp_path.iterdir())
    monkeypatch.setattr("asr_training.shards.add", stopping)
    with pytest.raises(RecipeError if isinstance(error, OSError) else type(error)) as caught:
        prepare([tiny_manifest], out, size=2, force=True)
    if isinstance(error, OSError):
        one_sentence(str(caught.value))
        assert "No space left on device" in str(caught.value)
    assert sorted(tmp_path.iterdir()) == there
    assert {path: path.read_bytes() for path in shards.iterdir()} == content


def test_what_a_killed_one_left_behind_goes_with_the_next(tiny_manifest: Path, tmp_path: Path) -> None:
    code = "import asr_training.shards, os; asr_training.shards.add = lambda *_: os.kill(os.getpid(), 9); "
    code += "from asr_training.cli import main; main()"
    command = [sys.executable, "-c", code, "prepare", str(tiny_manifest), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".out.part"]
    assert prepare([tiny_manifest], tmp_path / "out") == (8, 1, "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_at_a_time_do_not_share_a_folder(
    tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    with beside(tmp_path / "out") as folder:
        (folder / "shards").mkdir()
        with pytest.raises(RecipeError, match="another asr-train prepare is writing this") as caught:
            prepare([tiny_manifest], tmp_path / "out")
        one_sentence(str(caught.value))
        assert (folder / "shards").is_dir()
    assert list(tmp_path.iterdir()) == []


def spoil(path: Path, before: str, after: str) -> None:
    path.write_text(path.read_text().replace(before, after))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "000001.tar").unlink(), "000001.tar is missing"),
        (lambda folder: (folder / "000001.tar").write_bytes(b"cut"), "000001.tar has 3 bytes, wanted"),
        (lambda folder: (folder / "000001.jsonl").unlink(), "has no index 000001.jsonl beside it"),
        (lambda folder: spoil(folder / "000001.jsonl", '"rate"', '"speed"'), "000001.jsonl, line 1: "),
        (lambda folder: spoil(folder / "000001.jsonl", "{", ""), "000001.jsonl, line 1: "),
        (lambda folder: spoil(folder / "shards.json", '"format": 1', '"format": 9'), "format 9, wanted 1"),
        (lambda folder: spoil(folder / "shards.json", "bytes", "size"), "shards.json"),
        (lambda folder: (folder / "shards.json").write_text("[]"), "shards.json"),
    ],
)
def test_damaged_shards_are_one_sentence(
    shards: Path, damage: Callable[[Path], None], named: str, one_sentence: Callable[[str], None]
) -> None:
    damage(shards)
    with pytest.raises(RecipeError) as caught:
        read_shards(shards)
    one_sentence(str(caught.value))
    assert named in str(caught.value)


@pytest.mark.parametrize("damage", ["zeros", "cut", "gone"])
def test_audio_that_was_damaged_later_is_named_when_it_is_read(
    shards: Path, damage: str, one_sentence: Callable[[str], None]
) -> None:
    corpus = Corpus((Source(str(shards)),), DATA, FEATURES, None)
    shard = list_shards(shards)[0]
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(bytes(shard.stat().st_size) if damage == "zeros" else b"cut")
    with pytest.raises(RecipeError, match=r"000000\.tar") as caught:
        corpus.batch(np.arange(2))
    one_sentence(str(caught.value))


def test_shards_and_manifests_do_not_mix(
    shards: Path, tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError, match="names shards and other data") as caught:
        Corpus((Source(str(shards)), Source(str(tiny_manifest))), DATA, FEATURES, tmp_path)
    one_sentence(str(caught.value))
