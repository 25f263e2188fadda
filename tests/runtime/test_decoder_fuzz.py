"""Damaged files are refused with a sentence or still decode; they never end the process."""

import random
from pathlib import Path

import numpy as np
import pytest

from asr_runtime.decoder import BeamSearchDecoder
from asr_runtime.errors import DecoderError

TRIALS = 300
TOKENS = [*" abcdefghijklmnopqrstuvwxyz'", ""]
SCORER = (Path(__file__).parent / "data" / "ds_ctcdecoder" / "small.scorer").read_bytes()
BEHIND_LM = SCORER.rindex(b"EIRT")  # the package's own part
ARPA = b"""\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-2\t<unk>\t0
0\t<s>\t-0.3
-1\t</s>\t0
-0.6\ta\t-0.2
-0.9\tab\t-0.1

\\2-grams:
-0.2\t<s> ab
-0.4\ta ab

\\end\\
"""


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
def test_damaged_files_never_end_the_process(tmp_path: Path, part: str) -> None:
    content, begin, end = {
        "arpa": (ARPA, 0, len(ARPA)),
        "header": (SCORER, 0, 136),
        "package": (SCORER, BEHIND_LM, len(SCORER)),
    }[part]
    log_probs = np.log(np.random.default_rng(0).dirichlet([0.3] * len(TOKENS), size=30) + 1e-9).clip(max=0)
    rng = random.Random(part)
    path = tmp_path / "damaged"
    refused = 0
    for _ in range(TRIALS):
        path.write_bytes(damage(content, begin, end, rng))
        try:
            assert BeamSearchDecoder(TOKENS, language_model=path).decode(log_probs)
        except DecoderError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > TRIALS // 3


def test_damaged_pronunciations_never_end_the_process(tmp_path: Path) -> None:
    tokens = ["T", "UW", "AH", "tʃ", " ", ""]
    content = "two\tT UW\nto\tT UW\nto\tT AH\ntoo\tT UW\nchew\ttʃ UW\n".encode()
    log_probs = np.log(np.random.default_rng(0).dirichlet([0.3] * len(tokens), size=30) + 1e-9).clip(max=0)
    rng = random.Random("pronunciations")
    path = tmp_path / "damaged"
    refused = 0
    for _ in range(TRIALS):
        path.write_bytes(damage(content, 0, len(content), rng))
        try:
            assert BeamSearchDecoder(tokens, lexicon=path).decode(log_probs, hot_words={"two": 1.0, "zoo=two to": 2.0})
        except DecoderError as error:
            assert "\n" not in str(error)
            refused += 1
    assert TRIALS // 3 < refused < TRIALS
