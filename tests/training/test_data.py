from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr_runtime.errors import RecipeError
from asr_training.checks import refuse_faults
from asr_training.corpus import LENGTHS, Corpus, split
from asr_training.data import read_source
from asr_training.recipe import Data, Features, Source, Training
from asr_training.text import Alphabet

DATA = Data(train=(), validation=())
FEATURES = Features(mels=20)


def read(path: Path, data: Data = DATA) -> list[str]:
    return [utterance.text for utterance in read_source(Source(str(path)), data, Alphabet(data.alphabet))]


def manifest(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines))
    return path


def row(text: str, audio: str = "x.wav") -> str:
    return json.dumps({"audio": audio, "text": text})


def test_a_manifest_is_read_line_by_line(tmp_path: Path) -> None:
    assert read(manifest(tmp_path, row("one"), "", row("Two"))) == ["one", "two"]


def test_a_librispeech_folder_is_read_by_its_transcripts(tmp_path: Path) -> None:
    chapter = tmp_path / "12" / "34"
    chapter.mkdir(parents=True)
    (chapter / "12-34.trans.txt").write_text("12-34-0000 HE WAS\n12-34-0001 IT'S SO\n")
    found = read_source(Source(str(tmp_path)), DATA, Alphabet(DATA.alphabet))
    assert [(u.text, u.audio.name, u.speaker) for u in found] == [
        ("he was", "12-34-0000.flac", "12"),
        ("it's so", "12-34-0001.flac", "12"),
    ]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([row("fine"), "{broken"], "line 2"),
        ([row("fine"), "", '["a list"]'], "line 3"),
        ([json.dumps({"audio": "x.wav"})], "'text'"),
        ([row("fine"), row("naïve")], "line 2: the character 'ï'"),
        ([row("fine"), row(" ")], "line 2: the text is empty"),
        ([], "holds no utterances"),
    ],
)
def test_a_broken_manifest_is_one_sentence_with_the_line(
    tmp_path: Path, lines: list[str], named: str, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError) as caught:
        read(manifest(tmp_path, *lines))
    one_sentence(str(caught.value))
    assert named in str(caught.value)


def test_the_first_broken_lines_are_told_and_counted(tmp_path: Path, one_sentence: Callable[[str], None]) -> None:
    lines = [row("fine"), *["{broken"] * 11, row("naïve")]
    with pytest.raises(RecipeError) as caught:
        read(manifest(tmp_path, *lines))
    *told, count = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in told] == [f"{tmp_path}/m.jsonl, line {number}" for number in range(2, 12)]
    assert count == "12 lines have such faults, of which these are the first 10."


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no data at"):
        read(tmp_path / "none.jsonl")


def test_a_folder_without_transcripts_says_which_are_wanted(
    tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    (tmp_path / "12-34-0000.flac").touch()
    with pytest.raises(RecipeError, match=r"holds no transcripts in LibriSpeech's way \(\*\.trans\.txt\)") as caught:
        read(tmp_path)
    one_sentence(str(caught.value))


def test_a_line_ends_at_a_line_feed_only(tmp_path: Path) -> None:
    separated = '{"audio": "x.wav", "text": "one", "speaker": "a\u2028b"}'
    (tmp_path / "m.jsonl").write_bytes(f"{separated}\r\n{row('two')}\n".encode())
    assert read(tmp_path / "m.jsonl") == ["one", "two"]


def test_a_manifest_that_is_not_utf_8_is_one_sentence(tmp_path: Path, one_sentence: Callable[[str], None]) -> None:
    (tmp_path / "m.jsonl").write_bytes('{"audio": "x.wav", "text": "naïve"}'.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"m\.jsonl as UTF-8") as caught:
        read(tmp_path / "m.jsonl")
    one_sentence(str(caught.value))


def wav(samples: list[float]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.array(samples, np.float32), 16000, "FLOAT", format="WAV")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no audio at all", wav([]), wav([0.1, np.nan, 0.2]), wav([0.1] * 1000)[:-400]],
    ids=["missing", "empty", "no audio", "no samples", "not a number", "cut off"],
)
def test_audio_without_usable_samples_is_named_with_its_line(
    tmp_path: Path, content: bytes | None, one_sentence: Callable[[str], None]
) -> None:
    if content is not None:
        (tmp_path / "x.wav").write_bytes(content)
    corpus = Corpus((Source(str(manifest(tmp_path, row("one")))),), DATA, FEATURES, tmp_path / "cache")
    with pytest.raises(RecipeError, match=r"m\.jsonl, line 1: .*x\.wav") as caught:
        refuse_faults(corpus)
    one_sentence(str(caught.value))


def test_a_recording_that_changed_is_computed_anew(tmp_path: Path) -> None:
    sources = (Source(str(manifest(tmp_path, row("one")))),)
    quiet, loud = wav([0.01] * 8000), wav([0.5, -0.5] * 4000)
    assert len(quiet) == len(loud)
    (tmp_path / "x.wav").write_bytes(quiet)
    os.utime(tmp_path / "x.wav", ns=(1, 1))
    first = Corpus(sources, DATA, FEATURES, tmp_path / "c").store[0]
    (tmp_path / "x.wav").write_bytes(loud)
    assert not np.array_equal(Corpus(sources, DATA, FEATURES, tmp_path / "c").store[0], first)


def test_a_batch_is_padded_with_zeros_to_a_length_that_comes_again(tiny_manifest: Path, tmp_path: Path) -> None:
    corpus = Corpus((Source(str(tiny_manifest)),), DATA, FEATURES, tmp_path)
    for indices in (np.arange(1), np.arange(3)):
        batch = corpus.batch(indices)
        longest = int(batch.frames.max())
        assert batch.features.shape[1] % LENGTHS == 0 and batch.features.shape[1] - longest < LENGTHS
        for row, index in enumerate(indices):
            stored = corpus.store[index].astype(np.float32)
            np.testing.assert_array_equal(batch.features[row, : len(stored)], stored)
            assert not batch.features[row, len(stored) :].any()


def test_a_damaged_feature_cache_is_one_sentence(
    tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    Corpus((Source(str(tiny_manifest)),), DATA, FEATURES, tmp_path)
    values = next(tmp_path.glob("*.npy"))
    values.write_bytes(values.read_bytes()[:-100])
    with pytest.raises(RecipeError, match="remove the folder") as caught:
        Corpus((Source(str(tiny_manifest)),), DATA, FEATURES, tmp_path)
    one_sentence(str(caught.value))


def test_features_are_computed_once_and_then_read(tiny_manifest: Path, tmp_path: Path) -> None:
    first = Corpus((Source(str(tiny_manifest)),), DATA, FEATURES, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = Corpus((Source(str(tiny_manifest)),), DATA, FEATURES, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    assert np.array_equal(first.store[3], second.store[3])
    other = Corpus((Source(str(tiny_manifest)),), DATA, Features(mels=24), tmp_path)
    assert other.store[3].shape[1] == 24


def test_any_rate_and_stereo_become_the_models_rate(tmp_path: Path) -> None:
    tone = np.sin(np.arange(44100) / 44100 * 2 * np.pi * 440).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", np.stack([tone, tone], 1), 44100)
    soundfile.write(tmp_path / "y.wav", tone[::1], 44100)
    corpus = Corpus((Source(str(manifest(tmp_path, row("a"), row("a", "y.wav")))),), DATA, FEATURES, tmp_path / "c")
    assert corpus.store.frames.tolist() == [101, 101]
    np.testing.assert_allclose(corpus.store[0], corpus.store[1], atol=0.05)


@given(
    frames=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    count=st.integers(0, 5),
    most=st.integers(50, 120),
)
def test_batches_hold_every_utterance_once_and_stay_in_bounds(frames: list[int], count: int, most: int) -> None:
    lengths = np.array(frames)
    order = np.argsort(lengths)
    batches = list(split(order, lengths, count, most))
    assert np.concatenate(batches).tolist() == order.tolist()
    if count:
        assert all(len(batch) == count for batch in batches[:-1])
    else:
        assert all(len(batch) * lengths[batch].max() <= most for batch in batches)


def test_an_epoch_repeats_sources_and_leaves_out_what_cannot_fit(tiny_manifest: Path, tmp_path: Path) -> None:
    corpus = Corpus((Source(str(tiny_manifest), repeat=3),), DATA, FEATURES, tmp_path)
    training = Training(batch_utterances=4)
    epoch = np.concatenate(corpus.training_order(DATA, training, 2, 0))
    assert sorted(epoch) == sorted(list(range(8)) * 3)
    assert np.concatenate(corpus.training_order(DATA, training, 2, 1)).tolist() != epoch.tolist()
    assert len(np.concatenate(corpus.training_order(DATA, training, 2, 0))) == 24
    short = Data(train=(), validation=(), longest_seconds=1.3)
    left = np.concatenate(corpus.training_order(short, training, 2, 0))
    assert 0 < len(left) < 24
    coarse = [index for batch in corpus.training_order(DATA, training, 20, 0) for index in batch]
    assert len(coarse) < 24  # too few frames for some texts
