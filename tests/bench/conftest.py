"""What the tests of asr-bench share: the command itself, and three recordings with text, of which one is wrong."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_export.to_onnx import to_onnx
from asr_training.checkpoint import Checkpoint, write_checkpoint
from asr_training.model import AcousticModel
from asr_training.recipe import ConvolutionAttention, Features
from asr_training.text import Alphabet

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def bench() -> Bench:
    """Run `asr-bench` with arguments."""

    def run(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", "from asr_bench.cli import main; main()", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)

    return run


@pytest.fixture
def manifest(spell: Callable[[str], np.ndarray], tmp_path: Path) -> Path:
    """Seven words, of which the tone bundle hears one as another than the text says."""
    rows = [("one", "hello world", "hello world"), ("two", "to be or not", "to be or knot"), ("three", "x", "x")]
    for name, spoken, _ in rows:
        soundfile.write(tmp_path / f"{name}.flac", spell(spoken), 16000)
    lines = [json.dumps({"audio": f"{name}.flac", "text": text, "source": name}) for name, _, text in rows]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    return tmp_path / "test.jsonl"


@pytest.fixture(scope="session")
def checkpoint_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model with random weights as a bundle, and its checkpoint."""
    torch.manual_seed(1)
    architecture, alphabet = (
        ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2),
        Alphabet("' abcdefghijklmnopqrstuvwxyz"),
    )
    model = AcousticModel(Features(), architecture, len(alphabet.tokens)).eval()
    folder = tmp_path_factory.mktemp("trained")
    write_checkpoint(folder / "best", Checkpoint(model, model.config, architecture, alphabet, {}), {}, {})
    to_onnx(folder / "best", folder / "bundle", name="small", language="en", licence="CC0-1.0")
    return folder / "bundle", folder / "best"
