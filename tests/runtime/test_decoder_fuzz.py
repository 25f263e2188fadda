"""Damaged files are refused with a sentence or still decode; they never end the process."""

import math
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from asr_runtime.decoder import BeamSearchDecoder
from asr_runtime.errors import DecoderError

TRIALS = 300
KINDS = {  # of KenLM's binaries, by arguments of build_binary
    "probing": ["probing"],
    "trie": ["trie"],
    "quantised": ["-q", "4", "-b", "4", "trie"],
    "array": ["-a", "22", "trie"],
    "quantised array": ["-q", "4", "-b", "4", "-a", "22", "trie"],
}
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


def trigrams(path: Path, words: int = 60) -> Path:
    """An ARPA file of some hundred n-grams, each of whose histories it has, too."""
    rng = random.Random(0)
    names = ["<unk>", "<s>", "</s>", *sorted({"".join(rng.choices("abcdefgh", k=4)) for _ in range(words)})]
    pairs = sorted({(rng.choice(names[3:]), rng.choice(names[2:])) for _ in range(10 * words)})
    triples = [(a, *pair) for pair in pairs for a in rng.sample(names[3:], 3) if (a, pair[0]) in set(pairs)]
    lines = ["\\data\\", f"ngram 1={len(names)}", f"ngram 2={len(pairs)}", f"ngram 3={len(triples)}"]
    for order, ngrams in enumerate(([(name,) for name in names], pairs, triples), start=1):
        lines += ["", f"\\{order}-grams:"]
        backoff = "" if order == 3 else f"\t{-rng.random():.3f}"
        lines += [f"{-3 * rng.random():.3f}\t{' '.join(ngram)}{backoff}" for ngram in ngrams]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return path


@pytest.mark.skipif(shutil.which("build_binary") is None, reason="KenLM's build_binary is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_language_models_damaged_among_their_ngrams_never_end_the_process(tmp_path: Path, kind: str) -> None:
    arpa, path = trigrams(tmp_path / "lm.arpa"), tmp_path / "lm.binary"
    subprocess.run(["build_binary", *KINDS[kind], arpa, path], check=True, capture_output=True)
    content = path.read_bytes()
    tokens = [*" abcdefgh", ""]
    log_probs = np.log(np.random.default_rng(0).dirichlet([0.3] * len(tokens), size=60) + 1e-9).clip(max=0)
    assert BeamSearchDecoder(tokens, language_model=path).decode(log_probs)[0].text
    rng = random.Random(kind)
    refused = 0
    for _ in range(TRIALS):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 4])):
            damaged[rng.randrange(136, content.rindex(b"<unk>\0"))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            (best,) = BeamSearchDecoder(tokens, language_model=path).decode(log_probs)
            assert not math.isnan(best.score)
        except DecoderError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused < TRIALS
    assert refused > TRIALS // 10 or kind == "probing"


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
