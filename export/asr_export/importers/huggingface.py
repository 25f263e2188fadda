"""`asr-export import-huggingface`: CTC models of transformers that hear waveforms, as Wav2Vec2, HuBERT and WavLM do.

What the processor does before (normalisation, masks of padding) is authored; the model itself is traced by PyTorch's
exporter. Models whose first convolution is followed by a norm over time (`feat_extract_norm` is "group", as in all
"base" models) hear their padding whatever the mask says, so they are run without: see `docs/import.md`.
"""

from __future__ import annotations

import io
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from asr_export.builder import OPSET, GraphBuilder
from asr_export.front_end import cleared, padded_to
from asr_export.importers.compose import composed
from asr_export.importers.files import first_line, plain, read_json, too_large
from asr_export.importers.packing import Imported, prove_import, write_import
from asr_export.proofs import Figures
from asr_runtime.bundle import Bundle
from asr_runtime.errors import ExportError
from asr_runtime.manifest import SAMPLE_RATES

KINDS = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
LARGEST_SIZE = 1024  # of a convolution over samples, or its stride
VARIANCE_FLOOR = 1e-7  # of transformers' normalisation
FILES = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors", "config.json", "vocab.json")
MORE_FILES = ("preprocessor_config.json", "tokenizer_config.json", "added_tokens.json")


@dataclass(frozen=True)
class Timing:
    """Hertz, and samples from one frame to the next and under one frame."""

    sample_rate: int
    hop: int
    window: int


def import_huggingface(folder: Path, bundle: Path, imported: Imported) -> tuple[Bundle, Figures]:
    """Write a model that transformers saved as a bundle, proved equal to PyTorch; raises ExportError, BundleError."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in KINDS:
        raise ExportError(f"{folder}: got a model of the type {kind!r:.80}, wanted one of {', '.join(KINDS)}.")
    original = HuggingFaceOriginal(folder, config).eval()
    tokens = read_vocabulary(folder, original.model.config)
    graph = author(original, tokens)
    figures, padding = prove_import(graph, original, "PyTorch", padding=original.masks)
    origin = {
        "kind": "huggingface",
        "model_type": kind,
        "feat_extract_norm": config.get("feat_extract_norm", "group"),
        "normalise": original.normalise,
    }
    return write_import(bundle, graph, figures, imported, origin, padding=padding), figures


def read_vocabulary(folder: Path, config: Any) -> list[str]:
    """The tokens of `vocab.json` by their numbers: the padding token is CTC's blank, the word delimiter the space."""
    numbers = read_json(folder / "vocab.json")
    added = folder / "added_tokens.json"
    numbers.update(read_json(added) if added.is_file() else {})
    places = {place: token for token, place in numbers.items() if isinstance(place, int)}
    if not len(places) == len(numbers) == config.vocab_size or sorted(places) != list(range(len(places))):
        raise ExportError(
            f"{folder / 'vocab.json'}: got {len(numbers)} entries, wanted a number from 0 to {config.vocab_size - 1} "
            "for each token; of a model of many languages give the vocabulary of one."
        )
    settings = folder / "tokenizer_config.json"
    delimiter = (read_json(settings) if settings.is_file() else {}).get("word_delimiter_token", "|")
    tokens = [" " if places[i] == delimiter else places[i] for i in range(config.vocab_size)]
    if not isinstance(config.pad_token_id, int) or not 0 <= config.pad_token_id < len(tokens):
        raise ExportError(f"{folder}: got the padding token {config.pad_token_id!r:.40}, which is CTC's blank; set it.")
    tokens[config.pad_token_id] = ""
    return tokens


class HuggingFaceOriginal(nn.Module):
    """Normalisation as transformers does it, then the model; each recording alone."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        super().__init__()
        file = folder / "preprocessor_config.json"
        before = read_json(file) if file.is_file() else {}
        self.normalise = bool(before.get("do_normalize", True))
        self.masks = config.get("feat_extract_norm", "group") == "layer"
        self.model = load(folder)
        kernels, strides = (sizes(folder, self.model.config, name) for name in ("conv_kernel", "conv_stride"))
        window = 1 + sum((kernel - 1) * math.prod(strides[:i]) for i, kernel in enumerate(kernels))
        rate = before.get("sampling_rate", 16_000)
        if type(rate) is not int or not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise ExportError(f"{file}: got the sampling rate {rate!r:.40}, wanted 4000 to 192000 Hz.")
        self.config = Timing(rate, math.prod(strides), window)

    def frames(self, length: int) -> int:
        """How many frames the model makes of so many samples."""
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
        return length

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and frames; silence follows what is shorter than a frame's window."""
        results = []
        for item, length in zip(waveform, lengths.tolist(), strict=True):
            lacking = max(self.config.window - length, 0)
            alone = nn.functional.pad(item[:length], (0, lacking))
            if self.normalise:
                alone = (alone - alone.mean()) / (alone.var(correction=0) + VARIANCE_FLOOR).sqrt()
            results.append(self.model(alone[None]).logits[0].log_softmax(-1))
        frames = [self.frames(max(length, self.config.window)) for length in lengths.tolist()]
        return nn.utils.rnn.pad_sequence(results, batch_first=True), torch.tensor(frames)


def sizes(folder: Path, config: Any, name: str) -> list[int]:
    """The convolutions' sizes of one kind."""
    given = list(getattr(config, name))
    if not all(type(size) is int and 1 <= size <= LARGEST_SIZE for size in given):
        raise ExportError(f"{folder}: got {name} {given!r:.80}, wanted whole numbers from 1 to {LARGEST_SIZE}.")
    return given


def load(folder: Path) -> Any:
    """The model in float32; weights are taken from safetensors only, and no code of the folder is run."""
    files = [plain(file) for file in sorted(folder.glob("*.safetensors"))]
    if not files:
        raise ExportError(f"{folder}: there are no weights in safetensors, and no others are read; convert them.")
    too_large(folder, sum(file.stat().st_size for file in files))
    try:
        from transformers import AutoModelForCTC
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise ExportError(
            f"the package {error.name} is missing; install it with: pip install 'asr-deploy[huggingface]'"
        ) from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    with nothing_but(folder, files) as shown:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = AutoModelForCTC.from_pretrained(shown, attn_implementation="eager", **options)
        except Exception as error:  # errors of safetensors, of JSON and of configurations have no common kind
            said = first_line(error).replace(str(shown), str(folder))
            raise ExportError(f"{folder}: transformers cannot load this model ({said}).") from None
    if getattr(model.config, "add_adapter", False):
        raise ExportError(f"{folder}: got a model with an adapter behind its layers, wanted one without.")
    return model.float().eval()


@contextmanager
def nothing_but(folder: Path, weights: list[Path]) -> Iterator[Path]:
    """A folder in which transformers finds the configuration and these weights only.

    It would follow other files to further places, as `adapter_config.json` to the model that is adapted. An index may
    name none but these weights.
    """
    files = [*weights, plain(folder / "config.json")]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files.append(index)
        places = read_json(index).get("weight_map")
        named = places.values() if isinstance(places, dict) else [None]
        if others := sorted(set(map(repr, named)) - {repr(file.name) for file in weights}):
            raise ExportError(f"{index}: got weights in {others[0]:.120}, wanted files beside it; fetch it again.")
    with tempfile.TemporaryDirectory(prefix="asr-import-") as shown:
        for file in files:
            Path(shown, file.name).symlink_to(file.resolve())
        yield Path(shown)


class Traced(nn.Module):
    """What PyTorch's exporter follows: waveforms, with masks where the model uses them, to logits."""

    def __init__(self, original: HuggingFaceOriginal) -> None:
        super().__init__()
        self.model = original.model

    def forward(self, waveform: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits [batch, frames, tokens]."""
        logits: Tensor = self.model(waveform, attention_mask=mask).logits
        return logits


def author(original: HuggingFaceOriginal, tokens: list[str]) -> onnx.ModelProto:
    """Masks and normalisation as nodes, then the traced model."""
    graph, config = GraphBuilder(), original.config
    clean = padded_to(graph, cleared(graph, "waveform", "lengths"), config.window)
    reached = graph.node("Max", "lengths", graph.integers(config.window, scalar=True), name="reached")
    inside = graph.inside(reached, graph.size(clean, 1, "samples.most"), "reached.inside")
    if original.normalise:
        clean = normalised(graph, clean, inside, reached)
    feeds = {"waveform": clean}
    if original.masks:
        feeds["mask"] = graph.node("Cast", inside, name="reached.mask", to=onnx.TensorProto.INT64)
    frames = reached
    for i, (kernel, stride) in enumerate(
        zip(original.model.config.conv_kernel, original.model.config.conv_stride, strict=True)
    ):
        name = "frames" if i == len(original.model.config.conv_kernel) - 1 else f"frames.{i}"
        less = graph.node("Sub", frames, graph.integers(kernel - stride, scalar=True), name=f"{name}.less")
        frames = graph.node("Div", less, graph.integers(stride, scalar=True), name=name)
    return composed(
        graph, traced(original), feeds, "logits", tokens, config.sample_rate, config.hop / config.sample_rate
    )


def normalised(graph: GraphBuilder, x: str, inside: str, lengths: str) -> str:
    """Each item less its mean, divided by its deviation, 0 in padding: [batch, samples]."""
    mask = graph.node("Cast", inside, name="normalised.mask", to=onnx.TensorProto.FLOAT)
    count = graph.node("Cast", lengths, name="normalised.count.flat", to=onnx.TensorProto.FLOAT)
    count = graph.node("Unsqueeze", count, graph.integers(1), name="normalised.count")

    def mean(y: str, name: str) -> str:
        return graph.node("Div", graph.node("ReduceSum", y, graph.integers(1), name=f"{name}.sum"), count, name=name)

    centred = graph.node("Sub", x, mean(x, "normalised.mean"), name="normalised.unmasked")
    centred = graph.node("Mul", centred, mask, name="normalised.centred")
    variance = mean(graph.node("Mul", centred, centred, name="normalised.squares"), "normalised.variance")
    raised = graph.node("Add", variance, graph.number(VARIANCE_FLOOR), name="normalised.raised")
    return graph.node("Div", centred, graph.node("Sqrt", raised, name="normalised.deviation"), name="normalised")


def traced(original: HuggingFaceOriginal) -> onnx.ModelProto:
    """The model as PyTorch's tracing exporter writes it, with batch and samples dynamic."""
    samples, file = torch.randn(2, 16_000), io.BytesIO()
    written: Any = file  # the exporter's annotation knows paths only
    mask = torch.ones(2, 16_000, dtype=torch.int64)
    mask[1, 12_000:] = 0
    names = ["waveform", "mask"] if original.masks else ["waveform"]
    axes = {name: {0: "batch", 1: "samples"} for name in names} | {"logits": {0: "batch", 1: "frames"}}
    inputs = (samples, mask) if original.masks else (samples,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own; the proof judges what it made
        torch.onnx.export(
            Traced(original).eval(),
            inputs,
            written,
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["logits"],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())
