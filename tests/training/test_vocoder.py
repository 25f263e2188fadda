"""New speakers: what moves, what stays, and what a run leaves behind."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from asr_runtime.audio import read_audio
from asr_training import vocoder
from asr_training.cli import app, main


def voice(seconds=1.0, pitch=120.0, rate=16000):
    """A buzz with two formants, which has a pitch to be found."""
    t = np.arange(int(seconds * rate)) / rate
    harmonics = [np.sin(2 * np.pi * pitch * k * t) * np.exp(-(((pitch * k - 700) / 300) ** 2)) for k in range(1, 30)]
    return (0.1 * np.sum(harmonics, 0)).astype(np.float32)


@pytest.mark.parametrize("tract", [0.84, 0.9, 1.1, 1.2])
def test_a_formant_moves_with_the_tract(tract):
    bins = np.arange(513)
    peak = np.exp(-(((bins - 100) / 4) ** 2))[None]
    assert abs(vocoder.move_formants(peak, tract)[0].argmax() - 100 * tract) <= 1


def test_the_tract_that_was_there_changes_nothing():
    spectrum = np.random.default_rng(0).normal(size=(3, 257))
    np.testing.assert_allclose(vocoder.move_formants(spectrum, 1.0), spectrum)


@pytest.mark.parametrize("tract", [0.84, 1.2])
def test_the_ends_of_the_spectrum_stay(tract):
    spectrum = np.random.default_rng(0).normal(size=(1, 257))
    moved = vocoder.move_formants(spectrum, tract)
    np.testing.assert_allclose(moved[0, [0, -1]], spectrum[0, [0, -1]], atol=1e-9)


def test_pitch_gets_a_new_mean_and_unvoiced_frames_stay_unvoiced():
    pitch = np.array([0.0, 100, 120, 0, 110])
    moved = vocoder.move_pitch(pitch, 1.2, np.random.default_rng(0))
    assert (moved[[0, 3]] == 0).all()
    assert 150 < np.exp(np.log(moved[moved > 0]).mean()) < 281
    np.testing.assert_array_equal(vocoder.move_pitch(np.zeros(4), 1.0, np.random.default_rng(0)), np.zeros(4))


@pytest.fixture
def manifest(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(), 16000)
    row = {"audio": "a.wav", "text": "a", "speaker": "anna", "source": "own"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path / "m.jsonl"


def test_without_the_vocoder_the_reason_is_one_sentence(manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vocoder, "has_pyworld", lambda: False)
    monkeypatch.setattr("sys.argv", ["asr-train", "vary", str(manifest), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert "pyworld" in str(ended.value) and "install" in str(ended.value)


def test_recordings_become_other_speakers_with_the_same_text(manifest, tmp_path):
    pytest.importorskip("pyworld", reason="pyworld is not installed")
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["vary", str(manifest), str(out), "--times", "2"])
    assert result.exit_code == 0 and "2 recordings" in result.output
    rows = [json.loads(line) for line in (out / "varied.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["a", "a"] and len({row["speaker"] for row in rows}) == 2
    for row in rows:
        assert abs(len(read_audio(out / row["audio"], 16000)) - 16000) < 200
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.ogg")}
    assert CliRunner().invoke(app, ["vary", str(manifest), str(out), "--times", "2"]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.ogg")} == before


def test_a_seed_is_a_speaker(manifest):
    pytest.importorskip("pyworld", reason="pyworld is not installed")
    first, again, other = (vocoder.new_speaker(voice(), 16000, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(first) and np.abs(first[: len(other)] - other[: len(first)]).max() > 0.05
