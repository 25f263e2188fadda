"""The proofs must be able to fail: each fault here was or could be made by an author of graphs."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from asr_export import crnn, proofs
from asr_export.graph import author
from asr_export.proofs import Session, measure, prove
from asr_export.signals import batches, padded, speech_like
from asr_runtime.errors import ExportError
from asr_training.model import AcousticModel, Stem
from asr_training.recipe import CRNN, ConvolutionAttention, Model

TOKENS = [*"' abcdefghijklmnopqrstuvwxyz", ""]
SMALL_CRNN = CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=24)
SMALL_CONVOLUTION_ATTENTION = ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2)
Author = Callable[..., tuple[AcousticModel, onnx.ModelProto]]
Fault = Callable[[onnx.ModelProto], None]


def change(graph: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    (weight,) = (each for each in graph.graph.initializer if each.name == name)
    weight.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def weight(graph: onnx.ModelProto, name: str) -> np.ndarray:
    (found,) = (each for each in graph.graph.initializer if each.name == name)
    return numpy_helper.to_array(found)


def unmask(graph: onnx.ModelProto, name: str) -> None:
    """Let a multiplication by a mask pass its first input as it is."""
    (node,) = (each for each in graph.graph.node if each.name == name)
    node.op_type = "Identity"
    del node.input[1:]


def torch_gate_order(graph: onnx.ModelProto) -> None:
    for kind in "WR":
        name = f"encoder.layers.1.gru.{kind}"
        z, r, n = np.split(weight(graph, name), 3, axis=1)
        change(graph, name, np.concatenate([r, z, n], axis=1))


def weak_pad_flag(graph: onnx.ModelProto) -> None:
    for i in range(2):
        name = f"encoder.layers.{i}.gru.W"
        changed = weight(graph, name).copy()
        changed[..., -1] *= 0.1
        change(graph, name, changed)


CRNN_FAULTS: list[Fault] = [
    torch_gate_order,
    weak_pad_flag,
    lambda graph: unmask(graph, "encoder.blocks.0.masked.0"),
    lambda graph: unmask(graph, "features.centred"),
]
CONVOLUTION_ATTENTION_FAULTS: list[Fault] = [
    lambda graph: unmask(graph, "encoder.blocks.1.masked"),
    lambda graph: unmask(graph, "encoder.attentions.2.masked"),
    lambda graph: change(graph, "positions.frequencies", weight(graph, "positions.frequencies")[::-1].copy()),
    lambda graph: change(graph, "logits.bias", weight(graph, "logits.bias") + np.eye(29)[0] * 3e-4),
    lambda graph: change(graph, "mel.filters", weight(graph, "mel.filters") * np.nan),
]


@pytest.mark.parametrize("fault", CRNN_FAULTS)
def test_a_broken_crnn_is_refused(fault: Fault, authored: Author) -> None:
    model, graph = authored(SMALL_CRNN)
    fault(graph)
    with pytest.raises(ExportError, match="failed its proof"):
        prove(graph, model)


@pytest.mark.parametrize("fault", CONVOLUTION_ATTENTION_FAULTS)
def test_a_broken_convolution_attention_model_is_refused(fault: Fault, authored: Author) -> None:
    model, graph = authored(SMALL_CONVOLUTION_ATTENTION)
    fault(graph)
    with pytest.raises(ExportError, match="failed its proof"):
        prove(graph, model)


def test_frames_that_differ_are_refused(authored: Author) -> None:
    model, graph = authored(SMALL_CRNN)
    (hops,) = (node for node in graph.graph.node if node.name == "feature_frames.hops")
    hops.input[1] = "integer 1"  # a frame a sample
    with pytest.raises(ExportError):
        prove(graph, model)


def test_a_graph_that_is_no_valid_onnx_is_refused(authored: Author) -> None:
    model, graph = authored(SMALL_CRNN)
    del graph.graph.node[3]
    with pytest.raises(ExportError, match="not valid ONNX"):
        prove(graph, model)


def test_the_flag_outweighs_the_largest_bias() -> None:
    gru = torch.nn.GRU(4, 6, bidirectional=True)
    with torch.no_grad():
        gru.bias_ih_l0_reverse[6:12] = -41.5
        gru.bias_hh_l0_reverse[6:12] = 0
    assert crnn.pad_flag(gru) == 32 + 42


def test_a_gru_with_extreme_biases_still_equals_pytorch(authored: Author) -> None:
    model, _ = authored(SMALL_CRNN)
    for layer in model.encoder.layers:
        for name, parameter in layer.gru.named_parameters():
            parameter.data *= 4
            if name.startswith("bias"):
                parameter.data[24:48] = -20
    prove(author(model, TOKENS), model)


def test_recordings_are_measured_too(authored: Author) -> None:
    model, graph = authored(SMALL_CONVOLUTION_ATTENTION)
    plain = prove(graph, model)
    more = prove(graph, model, [speech_like(length, 16_000, 5) for length in (3_000, 400_000, 20_000, 9, 17_000)])
    assert more.utterances == plain.utterances + 5
    assert more.longest_samples == 400_000
    assert more.record()["max_difference"] == more.max_difference


class NotANumberAlone(Session):
    """A graph that is right in batches and for the first item alone, and NaN for every later item alone."""

    alone = 0

    def log_probs(self, waveform: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        found = super().log_probs(waveform, lengths)
        self.alone += len(lengths) == 1
        return [item * np.nan for item in found] if len(lengths) == 1 and self.alone > 1 else found


def test_a_later_item_that_is_not_a_number_alone_is_noticed(authored: Author) -> None:
    model, graph = authored(SMALL_CONVOLUTION_ATTENTION)
    figures = measure(NotANumberAlone(graph.SerializeToString()), model)
    assert np.isnan(figures.max_difference_alone)
    assert figures.max_difference < 1e-4
    assert not figures.within_tolerance


def test_signals_are_the_same_each_time_and_padding_is_loud(authored: Author) -> None:
    model, _ = authored(SMALL_CONVOLUTION_ATTENTION)
    first, second = (list(batches(model.config, [])) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    batch = padded(first[0])
    assert min(len(item) for item in first[0]) == 0
    assert np.abs(batch[0]).max() > 0.9


def stem_that_torch_can_trace(self: Stem, features: torch.Tensor) -> torch.Tensor:
    """The stem with its convolution as one; the windows of training have no symbol in torch's exporter."""
    x = self.window(torch.nn.functional.pad(features.transpose(1, 2), (2, 5)))
    return self.norm(self.projection(torch.relu(x).transpose(1, 2)))


@pytest.mark.filterwarnings("ignore:You are using the legacy:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:Constant folding:UserWarning", "ignore:Exporting a model to ONNX:UserWarning")
@pytest.mark.parametrize("architecture", [SMALL_CRNN, SMALL_CONVOLUTION_ATTENTION], ids=lambda a: a.architecture)
def test_against_the_independent_exporter_of_torch(
    architecture: Model, authored: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's tracing exporter knows nothing of our graph; on one batch both must say the same."""
    monkeypatch.setattr(Stem, "forward", stem_that_torch_can_trace)
    model, graph = authored(architecture)
    waveform = np.stack([speech_like(20_000, 16_000, 3), speech_like(20_000, 16_000, 4)])
    lengths, file = [20_000, 11_111], io.BytesIO()
    names = {"input_names": ["waveform", "lengths"], "output_names": ["log_probs", "frames"]}
    inputs = torch.from_numpy(waveform), torch.tensor(lengths)
    torch.onnx.export(model, inputs, file, dynamo=False, opset_version=17, **names)
    ours = Session(graph.SerializeToString()).log_probs(waveform, np.array(lengths))
    for exported, traced in zip(ours, Session(file.getvalue()).log_probs(waveform, np.array(lengths)), strict=True):
        assert exported.shape == traced.shape
        np.testing.assert_allclose(exported, traced, atol=1e-4)


def amplified(authored: Author) -> tuple[AcousticModel, onnx.ModelProto]:
    """A right graph of a model that amplifies rounding as one that was learnt by heart does."""
    model, _ = authored(SMALL_CRNN)
    with torch.no_grad():
        model.encoder.output.weight *= 60  # type: ignore[union-attr, operator]
    return model, author(model, TOKENS)


def test_a_model_that_amplifies_rounding_is_allowed_what_its_own_rounding_is(authored: Author) -> None:
    model, graph = amplified(authored)
    figures = prove(graph, model)
    assert figures.max_rounding > 1e-4 / 3
    assert 1e-4 < figures.tolerance <= 1e-3
    assert "float64" in str(figures)


@pytest.mark.parametrize("fault", CRNN_FAULTS)
def test_faults_of_such_a_model_are_refused_all_the_same(authored: Author, fault: Fault) -> None:
    model, graph = amplified(authored)
    fault(graph)
    with pytest.raises(ExportError, match="failed its proof"):
        prove(graph, model)


def test_a_graph_beyond_what_one_file_holds_is_refused_in_one_sentence(
    authored: Author, monkeypatch: pytest.MonkeyPatch, one_sentence: Callable[[str], None]
) -> None:
    model, graph = authored(SMALL_CRNN)
    monkeypatch.setattr(proofs, "LARGEST_FILE", 1000)
    with pytest.raises(ExportError, match="2 GiB, which is all that one ONNX file holds") as caught:
        prove(graph, model)
    one_sentence(str(caught.value))
