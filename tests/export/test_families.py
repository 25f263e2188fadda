"""Any configuration that training offers, and any front end: the authored graph is PyTorch, in a padded batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_export.proofs import Session, reference
from asr_export.signals import padded, speech_like
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Features, Model

Author = Callable[..., tuple[AcousticModel, onnx.ModelProto]]

CRNNS = st.builds(
    CRNN,
    channels=st.integers(1, 4),
    blocks=st.integers(1, 4),
    convolutions=st.integers(1, 3),
    activation=st.sampled_from(["relu", "gelu"]),
    recurrent_layers=st.integers(1, 4),
    recurrent_size=st.integers(1, 20),
    dropout=st.sampled_from([0.0, 0.5]),
)
CONVOLUTION_ATTENTIONS = st.integers(1, 4).flatmap(
    lambda heads: st.builds(
        ConvolutionAttention,
        stem=st.integers(1, 24),
        width=st.integers(1, 4).map(lambda half: 2 * heads * half),
        blocks=st.integers(1, 4),
        expansion=st.integers(1, 3),
        kernel=st.integers(0, 9).map(lambda half: 2 * half + 1),
        heads=st.just(heads),
        attention_every=st.integers(1, 5),
        dropout=st.sampled_from([0.0, 0.5]),
    )
)
FRONT_ENDS = st.builds(
    Features,
    sample_rate=st.just(8000),
    mels=st.integers(4, 40),
    fft=st.just(256),
    window=st.sampled_from([128, 200, 256]),
    hop=st.integers(40, 160),
    low_hz=st.sampled_from([0.0, 20.0]),
    high_hz=st.sampled_from([3500.0, 4000.0]),
    log=st.booleans(),
    normalise=st.booleans(),
)
LENGTHS = st.lists(st.integers(0, 9_000), min_size=1, max_size=4)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(authored: Author, architecture: Model, features: Features, lengths: list[int]) -> None:
    """In float64 the same model tells how far float32 itself is off, as the proof does."""
    model, graph = authored(architecture, features)
    batch = padded([speech_like(length, 8000, seed) for seed, length in enumerate(lengths)])
    found = Session(graph.SerializeToString()).log_probs(batch, np.array(lengths))
    expected = reference(model, batch, lengths)
    with torch.inference_mode():
        exact = reference(model.double(), batch.astype(np.float64), lengths)
    for ours, theirs, true in zip(found, expected, exact, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=max(1e-4, 3 * float(np.abs(theirs - true).max())), rtol=0)


@FEW
@given(architecture=CRNNS, features=FRONT_ENDS, lengths=LENGTHS)
def test_every_crnn(architecture: CRNN, features: Features, lengths: list[int], authored: Author) -> None:
    check(authored, architecture, features, lengths)


@FEW
@given(architecture=CONVOLUTION_ATTENTIONS, features=FRONT_ENDS, lengths=LENGTHS)
def test_every_convolution_attention(
    architecture: ConvolutionAttention, features: Features, lengths: list[int], authored: Author
) -> None:
    check(authored, architecture, features, lengths)
