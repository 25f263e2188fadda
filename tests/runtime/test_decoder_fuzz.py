"""Damaged files are refused with a sentence or still decode; they never end the process."""

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from asr_runtime.decoder import BeamSearchDecoder
from asr_runtime.errors import DecoderError

TRIALS = 300


@pytest.fixture(scope="module")
def files() -> ModuleType:
    """The small model and package of the tests beside this one."""
    path = Path(__file__).with_name("test_decoder_compat.py")
    spec = importlib.util.spec_from_file_location("decoder_files", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def damage(content: bytes, begin: int, end: int, rng: random.Random) -> bytes:
    """Changes, drops or inserts a few bytes between begin and end; now and then cuts the file off."""
    out = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(min(begin, len(out) - 1), min(end, len(out)))
        some = rng.randrange(1, 9)
        kind = rng.choice(["change", "change", "drop", "insert"])
        if kind == "change":
            out[place] = rng.randrange(256)
        elif kind == "drop" and len(out) > some + 1:
            del out[place : place + some]
        else:
            out[place:place] = rng.randbytes(some)
    return bytes(out[: rng.randrange(len(out))] if rng.random() < 0.1 else out)


@pytest.mark.parametrize("part", ["arpa", "header", "package"])
def test_damaged_files_never_end_the_process(files: ModuleType, tmp_path: Path, part: str) -> None:
    package = files.package()
    content, begin, end = {
        "arpa": (files.ARPA.encode(), 0, len(files.ARPA)),
        "header": (package, 0, 136),
        "package": (package, len(files.BINARY), len(package)),
    }[part]
    log_probs = np.log(np.random.default_rng(0).dirichlet([0.3] * 4, size=30) + 1e-9).clip(max=0)
    rng = random.Random(part)
    path = tmp_path / "damaged"
    refused = 0
    for _ in range(TRIALS):
        path.write_bytes(damage(content, begin, end, rng))
        try:
            assert BeamSearchDecoder([*files.LABELS, ""], language_model=path).decode(log_probs)
        except DecoderError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > TRIALS // 3
