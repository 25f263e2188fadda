"""The fp16 model for GPUs: proved on the CPU, added to the bundle, refused where float16 is too small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from asr_export.graph import author
from asr_export.proofs import HALF_TOLERANCE, prove
from asr_export.to_onnx import to_onnx
from asr_export.verify import verify
from asr_runtime.bundle import Bundle
from asr_runtime.engines import choose
from asr_runtime.errors import BundleError, ExportError
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Model

TOKENS = [*"' abcdefghijklmnopqrstuvwxyz", ""]
Author = Callable[..., tuple[AcousticModel, onnx.ModelProto]]
ARCHITECTURES = [
    CRNN(channels=4, blocks=2, recurrent_layers=3, recurrent_size=24, activation="gelu"),
    CRNN(channels=16, blocks=1, convolutions=2, recurrent_layers=1, recurrent_size=32),
    ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2),
]
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)


@each_architecture
def test_the_encoder_computes_in_half_and_stays_close(architecture: Model, authored: Author) -> None:
    model, _ = authored(architecture)
    graph = author(model, TOKENS, arithmetic="fp16")
    figures = prove(graph, model)
    assert 0 < figures.max_difference < HALF_TOLERANCE / 4
    assert figures.tolerance == HALF_TOLERANCE
    assert 0 < figures.largest_half < 32_752
    trained = [each for each in graph.graph.initializer if each.name.startswith(("encoder.", "logits"))]
    assert {each.data_type for each in trained} == {TensorProto.FLOAT16}


@each_architecture
def test_front_end_and_log_softmax_stay_in_float32(architecture: Model, authored: Author) -> None:
    graph = onnx.shape_inference.infer_shapes(author(authored(architecture)[0], TOKENS, arithmetic="fp16")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    half = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    assert {"features.encoded", "logits"} <= half
    assert not half & {"waveform.clean", "spectrum", "power", "mel", "features.deviation", "logits.precise"}
    assert types["log_probs"] == TensorProto.FLOAT


def test_long_utterances_keep_their_positions(authored: Author) -> None:
    """Float16 counts to 2,048: positions of a long utterance must not be told in it."""
    model, _ = authored(ARCHITECTURES[2])
    long = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000 * 130).astype(np.float32)  # 3,250 frames
    assert prove(author(model, TOKENS, arithmetic="fp16"), model, [long]).max_difference < HALF_TOLERANCE / 4


def test_values_beyond_half_are_refused(authored: Author) -> None:
    model, _ = authored(ARCHITECTURES[0])  # whose next layer's norm hides how large a value was
    loud = author(model, TOKENS, arithmetic="fp16")
    (weight,) = (each for each in loud.graph.initializer if each.name == "encoder.projection.bias")
    bias = np.zeros(weight.dims[0], np.float16)
    bias[0] = 40_000
    weight.CopyFrom(onnx.numpy_helper.from_array(bias, weight.name))
    with pytest.raises(ExportError, match=r"failed its proof.*was the largest in float16"):
        prove(loud, model)


def test_it_joins_the_bundle_and_each_device_takes_its_own(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b"
    to_onnx(checkpoint, path, weights="fp16")
    made, _ = to_onnx(checkpoint, path, arithmetic="fp16")
    assert [(file.path, file.precision) for file in made.files if file.role == "model"] == [
        ("model.onnx", "fp32-w16"),
        ("model.fp16.onnx", "fp16"),
    ]
    assert set(made.proofs) == {"model.onnx", "model.fp16.onnx"}
    assert choose(made, "cpu").description.endswith("fp32-w16")
    assert choose(made, "cpu", precision="fp16").description.endswith("fp16")
    with monkeypatch.context() as patched, pytest.raises(BundleError, match="there is a model already"):
        patched.setattr("asr_export.to_onnx.author", None)  # it is told before the work, which is long
        to_onnx(checkpoint, path, arithmetic="fp16")
    to_onnx(checkpoint, path, weights="fp32", arithmetic="fp16", force=True)
    assert [result.log_probs.tolerance for result in verify(path, checkpoint)] == [1e-4, HALF_TOLERANCE]


def test_alone_it_makes_a_bundle_that_every_device_takes(checkpoint: Path, tmp_path: Path) -> None:
    made, _ = to_onnx(checkpoint, tmp_path / "b", arithmetic="fp16")
    assert choose(made, "cpu").description.endswith("fp16")


def test_another_models_bundle_is_refused(checkpoint: Path, tone_bundle: Path, tmp_path: Path) -> None:
    import json
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tone_bundle, other)
    manifest = json.loads((other / "bundle.json").read_text())
    manifest["tokens"] = manifest["tokens"][1:]
    (other / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="another model"):
        to_onnx(checkpoint, other, arithmetic="fp16")
    assert len(Bundle.load(other).files) == 1
