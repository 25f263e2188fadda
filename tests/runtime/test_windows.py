"""Windows over long audio: nothing is lost, nothing told twice, and the text is that of the whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.bundle import Bundle
from asr_runtime.engines import pad
from asr_runtime.engines.onnx import OnnxEngine
from asr_runtime.errors import BundleError
from asr_runtime.greedy import GreedyDecoder
from asr_runtime.windows import Windows


@settings(deadline=None)
@given(
    length=st.integers(1, 3000),
    frames=st.integers(4, 40),
    overlap=st.integers(1, 3),
    cuts=st.lists(st.integers(1, 400), max_size=8),
)
def test_windows_cover_everything_and_come_back_together(
    length: int, frames: int, overlap: int, cuts: list[int]
) -> None:
    """With frames that see their own samples only, stitched windows are exactly the frames of the whole."""
    windows = Windows(length=frames * 10, overlap=overlap * 10, frame=10)
    signal = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    parts = list(windows.cut(iter(np.split(signal, np.minimum(np.cumsum(cuts), length)))))
    assert all(len(part) <= windows.length for part in parts)
    assert len(parts) == 1 or len(parts[-1]) > windows.overlap
    stitched = windows.stitch([two_tokens(part) for part in parts])
    np.testing.assert_array_equal(stitched, two_tokens(signal))


def test_a_recording_a_little_longer_than_a_window_stays_whole() -> None:
    windows = Windows(length=100, overlap=20, frame=10, whole=200)
    for length, expected in ((150, [150]), (200, [200]), (201, [100, 100, 41])):
        signal = np.arange(length, dtype=np.float32) / length
        parts = list(windows.cut(np.split(signal, [70, 140])))
        assert [len(part) for part in parts] == expected
        np.testing.assert_array_equal(windows.stitch([two_tokens(part) for part in parts]), two_tokens(signal))


def two_tokens(samples: np.ndarray) -> np.ndarray:
    """Log-probabilities [frames, 2] of frames of 10 samples, each from the first of them."""
    share = 0.5 + 0.4 * samples[::10]
    return np.log(np.stack([share, 1 - share], axis=1))


def test_a_seam_goes_where_both_windows_agree() -> None:
    windows = Windows(length=400, overlap=200, frame=10)
    truth = np.log(np.tile(np.float32([0.9, 0.1]), (60, 1)))
    left, right = truth[:40].copy(), truth[20:].copy()
    wrong = np.log(np.float32([0.1, 0.9]))
    left[32:] = wrong  # each window errs where its context ends
    right[:9] = wrong
    np.testing.assert_array_equal(windows.stitch([left, right]), truth)


def test_long_audio_in_tones_has_the_text_of_the_whole(tone_bundle: Path, spell: Callable[[str], np.ndarray]) -> None:
    engine = OnnxEngine(Bundle.load(tone_bundle))
    random = np.random.default_rng(0)
    text = " ".join("".join(random.choice(list("abcdefgh"), 5)) for _ in range(100))
    signal = spell(text)
    windows = Windows.of(0.04, 16000, seconds=4.0, overlap=1.0)
    parts = list(windows.cut([signal]))
    assert len(parts) > 20
    (whole,) = engine.log_probs(*pad([signal]))
    stitched = windows.stitch(engine.log_probs(*pad(parts)))
    np.testing.assert_allclose(stitched, whole, atol=1e-4)
    decoder = GreedyDecoder(Bundle.load(tone_bundle).tokens)
    assert decoder.decode(stitched)[0].text == text


def test_a_frame_must_be_whole_samples() -> None:
    assert Windows.of(0.025, 16000, seconds=1.0, overlap=0.2) == Windows(16000, 3200, 400)
    with pytest.raises(BundleError, match="whole number of samples"):
        Windows.of(0.0333, 16000)
