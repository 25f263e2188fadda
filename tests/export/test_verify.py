from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from asr_export.proofs import speech_like
from asr_export.to_onnx import to_onnx
from asr_export.verify import Spoken, compare, interval, verify
from asr_runtime.bundle import Bundle
from asr_runtime.errors import BundleError, ExportError, RecipeError


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
    assert result.log_probs.within_tolerance
    assert result.log_probs.utterances == 14 + 3
    assert set(result.texts) == {"greedy", "beam_search"}
    assert result.texts["greedy"].utterances == 3
    proofs = Bundle.load(exported).proofs["model.onnx"]
    assert proofs["greedy"]["wer"] == result.texts["greedy"].wer
    assert proofs["log_probs"]["utterances"] == 17
    assert proofs["rounding"]["max_difference"] > 0  # what to-onnx measured is kept


def test_another_checkpoint_is_refused_and_the_bundle_kept(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    tensors = load_file(other / "model.safetensors")
    tensors["encoder.output.bias"] += 0.01
    tensors["encoder.output.bias"][0] -= 0.02
    save_file(tensors, other / "model.safetensors")
    before = (exported / "bundle.json").read_bytes()
    with pytest.raises(ExportError, match=r"model.onnx is not what the checkpoint computes"):
        verify(exported, other)
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


def test_the_interval_holds_the_rate_and_narrows_with_more_utterances() -> None:
    few = interval(["a b", "a x"] * 5, ["a b", "a b"] * 5)
    many = interval(["a b", "a x"] * 200, ["a b", "a b"] * 200)
    assert few[0] < many[0] < 0.25 < many[1] < few[1]
    assert interval(["a"], ["a"]) == (0, 0)
