from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asr_export.compact import quantised, round_weight, rounded
from asr_export.graph import author
from asr_export.proofs import measure_rounding, prove
from asr_runtime.errors import ExportError
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Model

SMALL_CRNN = CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=24)
SMALL_CONVOLUTION_ATTENTION = ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2)
TOKENS = [*"' abcdefghijklmnopqrstuvwxyz", ""]
Author = Callable[..., tuple[AcousticModel, onnx.ModelProto]]

both_families = pytest.mark.parametrize(
    "architecture", [SMALL_CRNN, SMALL_CONVOLUTION_ATTENTION], ids=lambda a: a.architecture
)
matrices = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-100, 100, width=32)
)


@both_families
@pytest.mark.parametrize(("storage", "share", "change"), [("fp16", 0.6, 0.02), ("int8", 0.45, 0.3)])
def test_compact_graphs_equal_the_rounded_model(
    architecture: Model, storage: str, share: float, change: float, authored: Author
) -> None:
    model, plain = authored(architecture)
    compact = rounded(model, storage)
    graph = author(compact, TOKENS, storage)
    prove(graph, compact)
    changed = measure_rounding(model, compact)
    assert 0 < changed.mean_difference < changed.max_difference < change
    assert changed.frames_changed < 0.05

    def trained(graph: onnx.ModelProto) -> int:
        front_end = {"fourier.kernels", "mel.filters"}
        return sum(len(w.SerializeToString()) for w in graph.graph.initializer if w.name not in front_end)

    assert trained(graph) < share * trained(plain)


@both_families
def test_a_compact_graph_of_unrounded_weights_is_refused(architecture: Model, authored: Author) -> None:
    model, _ = authored(architecture)
    with pytest.raises(ExportError, match="failed its proof"):
        prove(author(model, TOKENS, "int8"), model)


@given(matrices)
def test_int8_is_within_half_a_level_of_its_channel(weight: np.ndarray) -> None:
    values, scale = quantised(weight, (0,))
    assert values.dtype == np.int8
    assert scale.shape == (weight.shape[0],) + (1,) * (weight.ndim - 1)
    assert np.all(np.abs(values * scale - weight) <= 0.5001 * scale + 1e-30)


@given(matrices, st.sampled_from(["fp32", "fp16", "int8"]))
def test_rounding_twice_is_rounding_once(weight: np.ndarray, storage: str) -> None:
    once = round_weight(weight, storage)
    np.testing.assert_allclose(round_weight(once, storage), once, rtol=1e-6, atol=1e-37)


def test_rounding_leaves_the_model_and_its_vectors_alone(authored: Author) -> None:
    model, _ = authored(SMALL_CRNN)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compact = rounded(model, "int8").state_dict()
    for name, value in model.state_dict().items():
        assert value.equal(before[name])
        assert value.equal(compact[name]) == (value.ndim == 1)
