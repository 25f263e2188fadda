"""Kokoro's voices as readers: a small model of the same inputs stands for the large one, which no package brings."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from asr_runtime.errors import RecipeError
from asr_training.cli import app
from asr_training.synthesize import KOKORO_SPEAKERS, kokoro_speaker, speak, synthesize

needs_kokoro = pytest.mark.skipif(not importlib.util.find_spec("kokoro_onnx"), reason="kokoro-onnx is not installed")


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that hums, 600 samples for each phoneme, as loud as the style says, and three voices."""
    folder = tmp_path_factory.mktemp("kokoro")
    t = np.sin(np.arange(600) / 10).astype(np.float32)[None]
    nodes = [
        helper.make_node("Cast", ["tokens"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["ids"], ["column"], perm=[1, 0]),
        helper.make_node("Mul", ["column", "zero"], ["still"]),
        helper.make_node("ReduceMean", ["style"], ["loud"], keepdims=1),
        helper.make_node("Add", ["still", "loud"], ["level"]),
        helper.make_node("Div", ["level", "speed"], ["slow"]),
        helper.make_node("Mul", ["slow", "hum"], ["rows"]),
        helper.make_node("Reshape", ["rows", "flat"], ["audio"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hum",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "n"]),
            helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
            helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["samples"])],
        [
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
            helper.make_tensor("hum", TensorProto.FLOAT, [1, 600], t.ravel()),
            helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    styles = {
        name: np.full((510, 1, 256), 0.1 * (i + 1), np.float32) for i, name in enumerate(("af_a", "bm_b", "jf_c"))
    }
    with (folder / "voices.bin").open("wb") as file:
        np.savez(file, **styles)  # type: ignore[arg-type]
    return folder


@needs_kokoro
def test_kokoros_speakers_read_and_each_line_stays_as_it_was(voices: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"the number {word} is said\n" for word in ("one", "two", "three", "four", "five", "six")))
    for folder, processes in (("once", "1"), ("again", "2")):
        command = ["synthesize", str(lines), str(tmp_path / folder), "--kokoro", str(voices), "--processes", processes]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "once" / "synthetic.jsonl").read_text().splitlines()]
    assert rows == [json.loads(line) for line in (tmp_path / "again" / "synthetic.jsonl").read_text().splitlines()]
    assert len({row["speaker"] for row in rows}) > 1
    for row in rows:
        samples, rate = soundfile.read(tmp_path / "once" / row["audio"])
        assert rate == 16000 and np.abs(samples).max() > 0.01


@needs_kokoro
def test_kokoros_speakers_are_english_voices_mixed_or_not_and_some_with_an_accent(voices: Path) -> None:
    speakers = [kokoro_speaker(voices, number) for number in range(KOKORO_SPEAKERS)]
    made_of = [speaker.name.split("-", 2)[2].split("+") for speaker in speakers]
    assert {names[-1] for names in made_of if len(names) > 1} == {"af_a", "bm_b"}
    assert all(len(set(names)) == len(names) for names in made_of)
    accented = [names[0] == "jf_c" for names in made_of]
    assert 0.15 < sum(accented) / KOKORO_SPEAKERS < 0.35
    for speaker, names in zip(speakers, made_of, strict=True):
        assert speaker.style.shape == (510, 1, 256)
        assert speaker.language == ("en-gb" if names[0] == "bm_b" else "en-us")
        heard = sorted({"af_a": 0.1, "bm_b": 0.2, "jf_c": 0.3}[name] for name in names)
        assert heard[0] - 1e-6 <= speaker.style.mean() <= heard[-1] + 1e-6


@needs_kokoro
@pytest.mark.parametrize("kind", ["other languages", "weights", "text"])
def test_voices_that_are_not_kokoros_are_refused(
    voices: Path, tmp_path: Path, kind: str, one_sentence: Callable[[str], None]
) -> None:
    (tmp_path / "model.onnx").write_bytes((voices / "model.onnx").read_bytes())
    with (tmp_path / "voices.bin").open("wb") as file:
        if kind == "other languages":
            np.savez(file, jf_c=np.zeros((510, 1, 256), np.float32))
        elif kind == "weights":
            torch.save({"af": torch.zeros(1)}, file)
        else:
            file.write(b"af_heart")
    (tmp_path / "lines.txt").write_text("a test\n")
    with pytest.raises(RecipeError, match="holds no voices of Kokoro's that are English") as caught:
        synthesize(tmp_path / "lines.txt", tmp_path / "out", voices=tmp_path)
    one_sentence(str(caught.value))


@pytest.mark.parametrize("home", [True, False])
def test_speech_is_recorded_at_home_or_clean(home: bool) -> None:
    def hum(text: str, stretch: float, rng: random.Random) -> tuple[np.ndarray, str]:
        return np.sin(np.arange(16000) / 10).astype(np.float32) / 10, "hum"

    tones = []
    for seed in range(8):
        samples, voice = speak("a test", random.Random(seed), {hum: 1}, at_home=home)
        assert voice == "hum" and samples.dtype == np.float32 and len(samples) >= 16000
        spectrum = np.abs(np.fft.rfft(samples[6400:16000])) ** 2  # where the hum is for sure
        near = round(9600 / 10 / (2 * np.pi))
        tones.append(spectrum[near - 20 : near + 20].sum() / spectrum.sum())
    assert (min(tones) > 0.99) is not home


@pytest.mark.parametrize("missing", ["model.onnx", "voices.bin"])
def test_a_folder_without_model_or_voices_is_one_sentence(
    voices: Path,
    tmp_path: Path,
    missing: str,
    one_sentence: Callable[[str], None],
) -> None:
    (tmp_path / "lines.txt").write_text("a test\n")
    (tmp_path / "folder").mkdir()
    for file in voices.iterdir():
        if file.name != missing:
            (tmp_path / "folder" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RecipeError, match=r"has to hold one \.onnx and one \.bin file") as caught:
        synthesize(tmp_path / "lines.txt", tmp_path / "out", voices=tmp_path / "folder")
    one_sentence(str(caught.value))
