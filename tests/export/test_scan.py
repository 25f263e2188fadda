"""A GRU written as a loop is the same GRU, in every storage and arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from asr_export.compact import rounded
from asr_export.graph import author
from asr_export.proofs import Session, prove
from asr_export.scan import with_scans
from asr_export.signals import padded, speech_like
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention

TOKENS = [*"' abcdefghijklmnopqrstuvwxyz", ""]
Author = Callable[..., tuple[AcousticModel, onnx.ModelProto]]
TWO_LAYERS = CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=24)


@pytest.mark.parametrize(
    ("storage", "arithmetic", "tolerance"),
    [("fp32", "fp32", 1e-5), ("fp16", "fp32", 1e-5), ("int8", "fp32", 1e-5), ("fp32", "fp16", 5e-3)],
)
def test_the_loop_equals_the_operator(storage: str, arithmetic: str, tolerance: float, authored: Author) -> None:
    model = rounded(authored(TWO_LAYERS)[0], storage)
    graph = author(model, TOKENS, storage, arithmetic)
    looped = with_scans(graph)
    assert [node.op_type for node in graph.graph.node].count("GRU") == 2
    assert [node.op_type for node in looped.graph.node].count("Scan") == 2
    assert not [node for node in looped.graph.node if node.op_type == "GRU"]
    prove(looped, model)
    batch = [speech_like(size, 16_000, size) for size in (32_000, 0, 9_000, 1)]
    waveform, lengths = padded(batch), np.array([len(item) for item in batch])
    half = arithmetic == "fp16"
    operator, loop = (Session(each.SerializeToString(), half).log_probs(waveform, lengths) for each in (graph, looped))
    for a, b in zip(operator, loop, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_types_inside_the_loop_are_those_of_the_encoder(authored: Author) -> None:
    looped = with_scans(author(authored(TWO_LAYERS)[0], TOKENS, arithmetic="fp16"))
    (body, _) = (node.attribute[0].g for node in looped.graph.node if node.op_type == "Scan")
    values = [*body.input, *body.output]
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT16}


def test_other_graphs_stay_as_they_are(authored: Author) -> None:
    _, graph = authored(ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2))
    assert with_scans(graph) == graph


@pytest.mark.parametrize("change", ["direction", "linear_before_reset", "sequence_lens", "last"])
def test_a_gru_of_another_kind_is_refused(change: str, authored: Author) -> None:
    _, graph = authored(TWO_LAYERS)
    gru = next(node for node in graph.graph.node if node.op_type == "GRU")
    if change == "sequence_lens":
        gru.input.append("lengths")
    elif change == "last":
        gru.output.append("state")
    else:
        kept = [each for each in gru.attribute if each.name != change]
        del gru.attribute[:]
        gru.attribute.extend(kept)
        if change == "direction":
            gru.attribute.append(helper.make_attribute("direction", "forward"))
    with pytest.raises(ValueError, match="is not one that asr-export writes"):
        with_scans(graph)
