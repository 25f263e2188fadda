"""Every hostile file of `make.py` is refused by one sentence; nothing crashes, hangs, is read elsewhere or written."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr_export.importers.huggingface import import_huggingface
from asr_export.importers.onnx import Options, import_onnx
from asr_export.importers.packing import Imported
from asr_export.importers.seed import import_seed
from asr_export.tensorrt import graph_bytes
from asr_export.to_onnx import to_onnx
from asr_runtime.bundle import Bundle
from asr_runtime.decoder import BeamSearchDecoder
from asr_runtime.engines import choose, pad
from asr_runtime.errors import AsrError
from asr_training.bundle_weights import load_bundle

specification = importlib.util.spec_from_file_location("make_attacks", Path(__file__).with_name("make.py"))
assert specification is not None
assert specification.loader is not None
make = importlib.util.module_from_spec(specification)
specification.loader.exec_module(make)


def run(path: Path) -> None:
    choose(Bundle.load(path), "cpu").log_probs(*pad([np.zeros(100, np.float32)]))


OPEN: dict[str, Callable[[Path], object]] = {
    "bundle": lambda path: choose(Bundle.load(path), "cpu"),
    "run": run,
    "language model": lambda path: BeamSearchDecoder(make.TOKENS, language_model=path),
    "import-onnx": lambda path: import_onnx(path, path.parent / "made", Options(), Imported()),
    "import-seed": lambda path: import_seed(path, path.parent / "made", "time", Imported()),
    "import-huggingface": lambda path: import_huggingface(path, path.parent / "made", Imported()),
    "checkpoint": lambda path: to_onnx(path, path.parent / "made"),
    "begin from": load_bundle,
    "engine": lambda path: graph_bytes(path / "model.onnx"),
}


@pytest.mark.parametrize(("attack", "kind", "refusal"), make.ATTACKS, ids=[each[0].__name__ for each in make.ATTACKS])
def test_an_attack_is_refused_in_one_sentence(
    attack: Callable[[Path], Path], kind: str, refusal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "given"
    place.mkdir()
    path = attack(place)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AsrError) as caught:
        OPEN[kind](path)
    message = str(caught.value)
    assert refusal in message
    assert len(message.splitlines()) == 1
    assert len(message) < 700
    assert sorted(tmp_path.rglob("*")) == before


def test_what_the_attacks_are_made_of_is_sound(tmp_path: Path) -> None:
    """Without its fault, the same bundle runs: so it is the fault that is refused."""
    run(make.bundle(tmp_path, make.model().SerializeToString()))


def test_asr_run_ends_with_the_code_for_unusable_bundles(tmp_path: Path) -> None:
    path = make.keeps_weights_in_a_file_above(tmp_path)
    command = [Path(sys.executable).parent / "asr-run", "--model", path, "none.wav"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_the_script_makes_all_of_them(tmp_path: Path) -> None:
    script = Path(__file__).with_name("make.py")
    done = subprocess.run([sys.executable, script, tmp_path / "all"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(make.ATTACKS) == len(list((tmp_path / "all").iterdir()))
