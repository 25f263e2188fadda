"""`asr-export import-onnx`: CTC models of NeMo that others exported, alone or in folders of onnx-asr and sherpa-onnx.

Their graphs go from mel features to log-probabilities. The front end is put before them, the number of frames behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from asr_export.builder import OPSET, GraphBuilder
from asr_export.importers.compose import composed
from asr_export.importers.files import first_line, load_model, plain, read_json
from asr_export.importers.nemo_front_end import HOP, SAMPLE_RATE, NemoFrontEnd, nemo_features, settings
from asr_export.importers.packing import Imported, prove_import, sha256, write_import
from asr_export.importers.tokens import read_tokens
from asr_export.proofs import Figures
from asr_runtime.bundle import Bundle
from asr_runtime.errors import ExportError
from asr_training.recipe import Features

MODEL_FILE, TOKEN_FILES = "model.onnx", ("vocab.txt", "tokens.txt")
MELS = 80  # where neither graph nor config.json says it, as in onnx-asr
WINDOWS = {64: 0.02}  # seconds by mel bands: QuartzNet's; all others are trained with
WINDOW = 0.025
NORMALISATIONS = {"per_feature": True, "": False, "NA": False, "none": False}  # as sherpa-onnx writes them
PROBE_FRAMES = 1024  # that are given to a model which does not say how many it makes one of
# Of the proof's signals, as quiet recordings have it: the logarithm of a band with nothing in it is float32's rounding,
# by which onnx-asr's front ends in NumPy and in ONNX differ from each other as much as from this one.
NOISE = 3e-3
FEWEST_OPSET = 15  # of which the front end's nodes are; an older graph is converted


@dataclass(frozen=True)
class Options:
    """What a user may say where files do not."""

    tokens: Path | None = None
    window_seconds: float | None = None
    normalise: str | None = None


@dataclass(frozen=True)
class Body:
    """A graph from features [batch, mels, frames] to log-probabilities, and what it says of itself."""

    model: onnx.ModelProto
    features: str
    length: str | None
    output: str
    mels: int | None
    said: Mapping[str, Any]


def import_onnx(path: Path, bundle: Path, options: Options, imported: Imported) -> tuple[Bundle, Figures]:
    """Write a model of others as a bundle, proved equal to itself behind a front end that is computed apart.

    `path` is the model, or its folder with `model.onnx`. Raises ExportError and BundleError.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    body, original = read_original(file, options)
    tokens_file = options.tokens or next((plain(each) for each in beside(file) if each.exists()), beside(file)[-1])
    tokens = read_tokens(tokens_file, original.columns())
    graph = author(body, original, tokens)
    figures, padding = prove_import(graph, original, "the ONNX file", noise=NOISE)
    origin = {
        "kind": "onnx",
        "file": file.name,
        "sha256": sha256(file),
        "producer": body.model.producer_name,
        "mels": original.config.mels,
        "window_seconds": original.config.window / SAMPLE_RATE,
        "normalise": "per_feature" if original.config.normalise else "none",
        "subsampling_factor": original.factor,
    }
    return write_import(bundle, graph, figures, imported, origin, padding=padding), figures


def beside(file: Path) -> list[Path]:
    """Where a model's tokens may lie."""
    return [file.parent / name for name in TOKEN_FILES]


def read_original(file: Path, options: Options) -> tuple[Body, NemoOriginal]:
    """The graph as it is, and as the recogniser that the bundle's has to equal."""
    model = load_model(file)
    body = read_body(
        file, model, {**read_config(file.parent), **{each.key: each.value for each in model.metadata_props}}
    )
    mels = body.mels or whole_number(file, body.said, "features_size") or MELS
    window = options.window_seconds or WINDOWS.get(mels, WINDOW)
    if not 0.005 <= window <= 0.1:
        raise ExportError(f"got a window of {window} seconds, wanted 0.005 to 0.1.")
    normalise = options.normalise or body.said.get("normalize_type", "per_feature")
    if normalise not in NORMALISATIONS:
        raise ExportError(f"{file}: got the normalisation {normalise!r:.80}, wanted per_feature or none.")
    front_end = NemoFrontEnd(settings(mels, window, NORMALISATIONS[normalise]))
    original = NemoOriginal(OnnxBody(file, body), front_end, whole_number(file, body.said, "subsampling_factor"))
    return body, original.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of an onnx-asr folder, if there is one; other kinds of models are refused."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    config = read_json(file)
    kind = config.get("model_type", "nemo-ctc")
    if not isinstance(kind, str) or not (kind.startswith("nemo") and kind.endswith("ctc")):
        raise ExportError(f"{file}: got a model of the type {kind!r:.80}, wanted one of NeMo with CTC.")
    return config


def whole_number(file: Path, said: Mapping[str, Any], key: str) -> int | None:
    """A number from 1 to 1000 that a model says of itself, if it does."""
    value = said.get(key)
    if value is not None and (not str(value).isdecimal() or not 1 <= int(value) <= 1000):
        raise ExportError(f"{file}: got {key} {value!r:.80}, wanted a whole number from 1 to 1000.")
    return None if value is None else int(value)


def read_body(file: Path, model: onnx.ModelProto, said: Mapping[str, Any]) -> Body:
    """Which inputs and outputs are what; raises ExportError for a graph of another kind."""
    stored = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    features = [value for value in inputs if kind_of(value) == (onnx.TensorProto.FLOAT, 3)]
    lengths = [value for value in inputs if kind_of(value) == (onnx.TensorProto.INT64, 1)]
    outputs = [value for value in model.graph.output if kind_of(value) == (onnx.TensorProto.FLOAT, 3)]
    if len(features) != 1 or len(lengths) > 1 or len(inputs) != 1 + len(lengths) or not outputs:
        raise ExportError(
            f"{file}: got inputs {names(inputs)} and outputs {names(model.graph.output)}, wanted one float32 "
            "[batch, mels, frames], at most one int64 [batch], and log-probabilities as NeMo exports CTC models."
        )
    mels = features[0].type.tensor_type.shape.dim[1].dim_value or None
    length = lengths[0].name if lengths else None
    return Body(converted(file, model), features[0].name, length, outputs[0].name, mels, said)


def kind_of(value: onnx.ValueInfoProto) -> tuple[int, int]:
    """Element type and number of axes."""
    tensor = value.type.tensor_type
    return tensor.elem_type, len(tensor.shape.dim)


def names(values: Any) -> str:
    """Names of inputs or outputs for a message."""
    return ", ".join(value.name[:40] for value in list(values)[:8]) or "none"


def converted(file: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an operator set that the front end's nodes are of, too."""
    version = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if version >= FEWEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter has errors of many kinds
        raise ExportError(
            f"{file}: got operators of opset {version}, which cannot be converted ({first_line(error)}); "
            f"export the model with opset {FEWEST_OPSET} or newer."
        ) from None


# --- what the bundle's graph has to equal ----------------------------------------------------------------------------


class OnnxBody:
    """The graph as its file has it, on ONNX Runtime's CPU."""

    def __init__(self, file: Path, body: Body) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        self.file, self.body = file, body
        try:
            content = body.model.SerializeToString()
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's kinds of errors, and protobuf's, have no common one
            raise ExportError(f"{file}: ONNX Runtime cannot load this model ({first_line(error)}).") from None

    def __deepcopy__(self, memo: object) -> OnnxBody:
        return self  # nothing of it changes with a copy's arithmetic

    def run(self, features: Tensor, length: int) -> Tensor:
        """Features [mels, frames] of one item to log-probabilities [frames out, tokens]."""
        feeds = {self.body.features: features.float().numpy()[None]}
        if self.body.length is not None:
            feeds[self.body.length] = torch.tensor([length]).numpy()
        try:
            (found,) = self.session.run([self.body.output], feeds)
        except Exception as error:  # see above
            raise ExportError(
                f"{self.file}: the model cannot be run on {features.shape[0]} mel bands ({first_line(error)})."
            ) from None
        return torch.from_numpy(found[0])


class NemoOriginal(nn.Module):
    """The features in PyTorch, then the file as it is, each recording alone."""

    def __init__(self, body: OnnxBody, front_end: NemoFrontEnd, factor: int | None) -> None:
        super().__init__()
        self.body, self.front_end = body, front_end
        self.factor = factor or self.measured_factor()

    @property
    def config(self) -> Features:
        """The front end's settings."""
        return self.front_end.config

    def columns(self) -> int:
        """How many tokens the model has."""
        return self.probe().shape[1]

    def probe(self) -> Tensor:
        """The log-probabilities of some frames of nothing."""
        return self.body.run(torch.zeros(self.config.mels, PROBE_FRAMES), PROBE_FRAMES)

    def measured_factor(self) -> int:
        """How many frames of features the model makes one of."""
        return max(round(PROBE_FRAMES / max(len(self.probe()), 1)), 1)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and frames."""
        results, frames = [], []
        for item, length in zip(waveform, lengths, strict=True):
            features, (count,) = self.front_end(item[None, : int(length)], length[None])
            results.append(self.body.run(features[0].T, int(count)).log_softmax(-1))
            frames.append(-(-int(count) // self.factor))
            if frames[-1] > len(results[-1]):
                raise ExportError(
                    f"{self.body.file}: got {len(results[-1])} frames where a subsampling factor of {self.factor} "
                    f"makes {frames[-1]}; correct subsampling_factor in config.json."
                )
        return nn.utils.rnn.pad_sequence(results, batch_first=True), torch.tensor(frames)


# --- the graph -------------------------------------------------------------------------------------------------------


def author(body: Body, original: NemoOriginal, tokens: list[str]) -> onnx.ModelProto:
    """Front end, the original's nodes under names of their own, and the frames of each item."""
    graph = GraphBuilder()
    features, frames = nemo_features(graph, "waveform", "lengths", original.front_end)
    graph.ceil_divide(frames, original.factor, "frames")
    feeds = {body.features: features} | ({body.length: frames} if body.length is not None else {})
    seconds = original.factor * HOP / SAMPLE_RATE
    return composed(graph, body.model, feeds, body.output, tokens, SAMPLE_RATE, seconds)
