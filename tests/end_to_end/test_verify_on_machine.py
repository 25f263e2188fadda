"""`asr-run --verify`: what a bundle carries finds a model or machine that computes something else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from onnx import numpy_helper

from asr_export.check import add_check, first_seconds
from asr_export.pack import add_language_model
from asr_runtime.bundle import Bundle, NewFile, update_bundle
from asr_runtime.errors import BundleError
from asr_runtime.verify import read_check, verify

RATE = 16000


@pytest.fixture
def bundle(tone_bundle: Path, spell: Callable[[str], np.ndarray], tmp_path: Path) -> Path:
    path = Path(shutil.copytree(tone_bundle, tmp_path / "bundle"))
    add_check(path, [spell("cat"), spell("a dog")])
    return path


def run(*arguments: str, without: tuple[str, ...] = ("torch", "onnx")) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; [sys.modules.__setitem__(name, None) for name in {without}]; "
        "sys.argv[0] = 'asr-run'; from asr_runtime.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def replace_model(path: Path, change: Callable[[np.ndarray], np.ndarray], precision: str = "fp32") -> None:
    """Another model in place of the bundle's, or beside it in another precision."""
    model = onnx.load(path / "model.onnx")
    (weight,) = (each for each in model.graph.initializer if each.name == "quiet")
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)).astype(np.float32), "quiet"))
    onnx.save(model, path.parent / "other.onnx")
    name = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
    new = NewFile(source=path.parent / "other.onnx", role="model", path=name, engine="onnx", precision=precision)
    update_bundle(path, [new], force=True)


def test_the_same_model_passes_without_torch(bundle: Path) -> None:
    done = run("--verify", str(bundle))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("passed: cpu, ONNX Runtime")
    (outcome,) = verify(Bundle.load(bundle))
    assert outcome.max_difference < 1e-5
    assert [each.text for each in read_check(Bundle.load(bundle)).utterances] == ["cat", "a dog"]


def test_another_model_is_found(bundle: Path) -> None:
    replace_model(bundle, lambda quiet: quiet + np.eye(len(quiet))[0] * 5e-3)
    done = run("--verify", str(bundle))
    assert (done.returncode, done.stdout.split(":")[0]) == (1, "FAILED")
    replace_model(bundle, lambda quiet: quiet[::-1])
    done = run("--verify", str(bundle))
    assert done.returncode == 1
    assert "best path: expected 'cat', got" in done.stdout


@pytest.mark.parametrize(
    ("precision", "off", "passed"), [("fp16", 5e-3, True), ("fp16", 0.5, False), ("int8", 0.5, True)]
)
def test_each_precision_has_its_tolerance(bundle: Path, precision: str, off: float, passed: bool) -> None:
    replace_model(bundle, lambda quiet: quiet + np.eye(len(quiet))[0] * off, precision)
    outcomes = list(verify(Bundle.load(bundle)))
    assert [outcome.passed for outcome in outcomes] == [True, passed]
    (only,) = verify(Bundle.load(bundle), "cpu", precision=precision)
    assert only.precision == precision


def test_eight_bits_that_change_the_texts_fail(bundle: Path) -> None:
    replace_model(bundle, lambda quiet: quiet[::-1], "int8")
    assert [outcome.passed for outcome in verify(Bundle.load(bundle))] == [True, False]


def test_texts_follow_the_language_model(tone_bundle: Path, cat_or_cut: np.ndarray, arpa: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tone_bundle, tmp_path / "bundle"))
    add_check(path, [cat_or_cut])
    assert read_check(Bundle.load(path)).utterances[0].text == "cut"
    made = add_language_model(path, arpa, decoder={"alpha": 1.0})
    assert read_check(made).utterances[0].text == "cat"
    assert read_check(made).utterances[0].greedy == "cut"
    assert all(outcome.passed for outcome in verify(made))


def test_add_check_packs_recordings(tone_bundle: Path, spell: Callable[[str], np.ndarray], tmp_path: Path) -> None:
    path = Path(shutil.copytree(tone_bundle, tmp_path / "bundle"))
    with pytest.raises(BundleError, match="nothing to verify it with"):
        list(verify(Bundle.load(path)))
    soundfile.write(tmp_path / "a.wav", spell("on"), RATE)
    code = "from asr_export.cli import main; main()"
    command = [sys.executable, "-c", code, "add-check", str(path), str(tmp_path / "a.wav")]
    subprocess.run(command, check=True, capture_output=True)
    assert read_check(Bundle.load(path)).utterances[0].text == "on"


def test_only_the_first_seconds_are_kept() -> None:
    kept = first_seconds([np.zeros(0, np.float32), np.ones(5, np.float32), np.ones(9, np.float32), np.ones(1)], 8)
    assert [len(each) for each in kept] == [5, 3]
    assert kept[0].max() == np.float32(32767 / 32768)


@pytest.mark.parametrize(
    "damage",
    [
        {"utterances": []},
        {"utterances": [3]},
        {"tolerance": 1.0},
        {"tolerance": "much"},
        {"utterances": [{"samples": "%", "log_probs": "", "greedy": "", "text": ""}]},
        {"utterances": [{"samples": "AAA=", "log_probs": "AAAA", "greedy": "", "text": ""}]},
        {"utterances": [{"samples": "AAA=", "log_probs": "", "greedy": 3, "text": ""}]},
    ],
)
def test_a_damaged_check_is_one_sentence(
    bundle: Path, damage: dict[str, Any], one_sentence: Callable[[str], None], tmp_path: Path
) -> None:
    said = json.loads((bundle / "check.json").read_text())
    (tmp_path / "check.json").write_text(json.dumps({**said, **damage}))
    update_bundle(bundle, [NewFile(source=tmp_path / "check.json", role="check")], force=True)
    done = run("--verify", str(bundle))
    assert (done.returncode, done.stdout) == (2, "")
    one_sentence(done.stderr)


def test_wrong_usage(bundle: Path, tmp_path: Path, one_sentence: Callable[[str], None]) -> None:
    assert run("--verify", str(bundle), "talk.flac").returncode == 2
    assert run().returncode == 2
    done = run("--verify", str(tmp_path))
    assert done.returncode == 2
    one_sentence(done.stderr)
