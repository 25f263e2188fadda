from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
from nvidia import Cuda, TensorRT
from typer.testing import CliRunner

from asr_export.cli import app
from asr_export.pack import add_lexicon
from asr_export.proofs import HALF_TOLERANCE
from asr_export.signals import speech_like
from asr_export.to_onnx import to_onnx
from asr_export.verify import Spoken, Verified, compare, interval, verify
from asr_runtime.bundle import Bundle, NewFile, update_bundle
from asr_runtime.engines import driver, tensorrt
from asr_runtime.engines.target import Profile, Target
from asr_runtime.errors import BundleError, EngineError, ExportError, RecipeError


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "bundle"
    to_onnx(checkpoint, path, weights="int8")
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for i, text in enumerate(["red car", "a blue tree", "home"]):
        soundfile.write(tmp_path / f"{i}.wav", speech_like(9_000 + 3_000 * i, 16_000, i), 16_000)
        lines.append(json.dumps({"audio": f"{i}.wav", "text": text}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_figures_are_returned_and_stored(exported: Path, checkpoint: Path, manifest: Path) -> None:
    (result,) = verify(exported, checkpoint, manifest)
    assert isinstance(result, Verified)
    assert result.log_probs.within_tolerance
    assert result.log_probs.utterances == 14 + 3
    assert set(result.texts) == {"greedy", "beam_search"}
    assert result.texts["greedy"].utterances == 3
    proofs = Bundle.load(exported).proofs["model.onnx"]
    assert proofs["greedy"]["wer"] == result.texts["greedy"].wer
    assert proofs["log_probs"]["utterances"] == 17
    assert proofs["rounding"]["max_difference"] > 0  # what to-onnx measured is kept


def test_a_bundle_of_pronunciations_is_compared_by_its_words(
    exported: Path, checkpoint: Path, manifest: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(exported, tmp_path / "spoken")
    words = {"red": "r e d", "car": "k a r", "a": "a", "blue": "b l u", "tree": "t r i", "home": "h o m", "é": "e"}
    (tmp_path / "lexicon.txt").write_text("".join(f"{word}\t{sound}\n" for word, sound in words.items()))
    add_lexicon(bundle, tmp_path / "lexicon.txt")
    manifest.write_text(manifest.read_text().replace("home", "Home É"))  # a word that no token spells
    (result,) = verify(bundle, checkpoint, manifest)
    assert isinstance(result, Verified)
    assert set(result.texts) == {"beam_search"} and result.texts["beam_search"].utterances == 3


def test_another_checkpoint_is_refused_and_the_bundle_kept(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    tensors = load_file(other / "model.safetensors")
    tensors["encoder.output.bias"] += 0.01
    tensors["encoder.output.bias"][0] -= 0.02
    save_file(tensors, other / "model.safetensors")
    before = (exported / "bundle.json").read_bytes()
    result = CliRunner().invoke(app, ["verify", str(exported), "--against", str(other)])
    assert isinstance(result.exception, ExportError)  # one sentence and exit code 1
    assert "model.onnx is not what" in str(result.exception)
    assert "FAILED" in result.output
    assert (exported / "bundle.json").read_bytes() == before


def test_what_is_not_there_is_named(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        verify(tmp_path, checkpoint)
    with pytest.raises(RecipeError, match="no data at"):
        verify(exported, checkpoint, tmp_path / "none.jsonl")


def test_texts_that_differ_are_named() -> None:
    spoken = [Spoken(f"{i}.wav", speech_like(1, 16_000, 1), text) for i, text in enumerate(["a b c d", "e f"])]
    texts = compare(["a b c x", "e f"], ["a b c d", "e f"], spoken)
    assert texts.changed == ("0.wav",)
    assert texts.wer == pytest.approx(1 / 6)
    assert texts.wer_pytorch == 0
    assert "1 of 2 texts differ from PyTorch's, WER 16.67 %" in str(texts)


def test_more_word_errors_than_pytorch_fail_where_they_are_sure() -> None:
    texts = ["a b c d e f g h i j"] * 100
    spoken = [Spoken(f"{i}.wav", speech_like(1, 16_000, 1), text) for i, text in enumerate(texts)]
    wrong = ["a b c d e f g h i x"] * 100
    assert not compare(wrong, texts, spoken).passed
    assert compare(wrong, wrong, spoken).passed
    assert compare([*wrong[:1], *texts[1:]], texts, spoken).passed  # one word of a thousand may be chance


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU of compute capability 8.7, on which TensorRT 10.16.1 computes what an engine file holds."""
    cuda = Cuda()
    trt = TensorRT("tensorrt-10.16.1", cuda)
    bulk = {"waveform": [(1, SHORTEST), (4, 16_000), (4, LONGEST)], "lengths": [(1,), (4,), (4,)]}
    trt.profiles, trt.frames_of = [bulk], lambda samples: -(-(samples // 160 + 1) // 4)
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver("12.6", (driver.Gpu("Orin", "8.7", 8 << 30),)))
    monkeypatch.setitem(sys.modules, "tensorrt", trt.module)
    runtime = cuda.module("cuda-bindings-13")
    monkeypatch.setattr(tensorrt, "cuda_runtime", lambda: runtime)


SHORTEST, LONGEST = 1600, 48_000


@pytest.fixture
def with_engine(exported: Path, tmp_path: Path) -> Path:
    """The bundle with an engine, for which its ONNX model stands."""
    path = tmp_path / "engine"
    shutil.copytree(exported, path)
    profile = Profile(batch=(1, 4, 4), samples=(SHORTEST, 16_000, LONGEST))
    target = Target(library="tensorrt", version="10.16.1", compute_capabilities=("8.7",), profiles=(profile,))
    plan = NewFile(
        source=path / "model.onnx",
        role="model",
        path="a.engine",
        engine="tensorrt",
        precision="fp32-w8",
        target=target.json(),
    )
    update_bundle(path, [plan])
    return path


def test_an_engine_is_measured_where_it_runs_at_its_own_limits(
    with_engine: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    onnx, engine = verify(with_engine, checkpoint)
    assert isinstance(onnx, Verified)
    assert isinstance(engine, Verified)
    assert (onnx.device, engine.device) == ("cpu", "tensorrt")
    assert onnx.log_probs.longest_samples > LONGEST == engine.log_probs.longest_samples
    assert engine.passed
    assert engine.log_probs.tolerance == HALF_TOLERANCE
    stored = Bundle.load(with_engine).proofs["a.engine"]["log_probs"]
    assert stored["engine"] == "TensorRT 10.16.1, fp32-w8, Orin"


def test_an_engine_for_another_machine_is_said_to_be_unverified_with_a_code_of_its_own(
    with_engine: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver() -> driver.Driver:
        raise EngineError("there is no NVIDIA driver here.")

    monkeypatch.setattr(driver, "probe", no_driver)
    result = CliRunner().invoke(app, ["verify", str(with_engine), "--against", str(checkpoint)])
    assert result.exit_code == 3, result.output
    lines = result.output.splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["passed", "here"]
    assert "a.engine (fp32-w8): not verified here: there is no NVIDIA driver here." in lines
    assert "a.engine" not in Bundle.load(with_engine).proofs
    assert CliRunner().invoke(app, ["verify", str(with_engine), "--against", "none"]).exit_code == 1


def test_the_interval_holds_the_rate_and_narrows_with_more_utterances() -> None:
    few = interval(["a b", "a x"] * 5, ["a b", "a b"] * 5)
    many = interval(["a b", "a x"] * 200, ["a b", "a b"] * 200)
    assert few[0] < many[0] < 0.25 < many[1] < few[1]
    assert interval(["a"], ["a"]) == (0, 0)
