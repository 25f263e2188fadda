"""What a bundle carries so that `asr-run --verify` can replay its proof on any machine: audio and expected output."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr_runtime.bundle import Bundle, NewFile, update_bundle
from asr_runtime.engines import choose, pad
from asr_runtime.engines.onnx import onnx_model
from asr_runtime.recognizer import beam_search, best_path
from asr_runtime.verify import CHECK_FILE, FULL_SCALE, HALF_TOLERANCE, Check, Utterance, read_check

SECONDS = 8.0  # of audio in all: some 350 kB
TOLERANCE = 1e-4  # of log-probabilities, where the proof allowed no more

Samples = npt.NDArray[np.float32]


def add_check(path: Path, recordings: Sequence[Samples]) -> Bundle:
    """Put a check into the bundle at `path`, in place of one that is there.

    The first seconds of `recordings`, float32 in -1…1 at the bundle's rate, go through its reference model, which is
    the ONNX model that `asr-run` takes on a CPU, and through its decoder. Raises BundleError and EngineError.
    """
    bundle = Bundle.load(path)
    samples = first_seconds(recordings, round(SECONDS * bundle.sample_rate))
    engine, model = choose(bundle, "cpu"), onnx_model(bundle, None, half=False)
    log_probs = [engine.log_probs(*pad([item]))[0] for item in samples]
    best, search = best_path(bundle), beam_search(bundle, True, {})
    check = Check(
        tuple(
            Utterance(item, found, best.decode(found)[0].text, search.decode(found)[0].text)
            for item, found in zip(samples, log_probs, strict=True)
        ),
        str(model.precision),
        allowed(bundle, model.path, model.precision == "fp16"),
    )
    with tempfile.TemporaryDirectory(prefix="asr-export-") as work:
        file = Path(work, CHECK_FILE)
        file.write_bytes(check.content())
        return update_bundle(path, [NewFile(source=file, role="check")], force=True)


def renew_check(path: Path) -> Bundle:
    """The same audio with the decoder that the bundle has now; a bundle without a check stays without."""
    bundle = Bundle.load(path)
    if bundle.find("check") is None:
        return bundle
    return add_check(path, [each.samples for each in read_check(bundle).utterances])


def allowed(bundle: Bundle, model: str, half: bool) -> float:
    """The tolerance that the model's proof needed, which a model that amplifies rounding needs here, too."""
    proof = bundle.proofs.get(model, {}).get("log_probs", {})
    said = proof.get("tolerance") if isinstance(proof, dict) else None
    usual = HALF_TOLERANCE if half else TOLERANCE
    return min(max(usual, said), HALF_TOLERANCE) if isinstance(said, float) else usual


def first_seconds(recordings: Sequence[Samples], most: int) -> list[Samples]:
    """As much as fits into `most` samples, rounded to 16 bits as the check stores them."""
    kept: list[Samples] = []
    for recording in recordings:
        room = most - sum(map(len, kept))
        if room > 0 and len(recording):
            whole = np.clip(np.round(recording[:room] * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
            kept.append((whole / FULL_SCALE).astype(np.float32))
    return kept
