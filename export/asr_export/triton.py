"""`asr-export to-triton`: a bundle as two models of Triton Inference Server, one that recognises and the one it asks.

The first runs in Triton's Python backend with `asr_runtime.triton`: waveforms to text. The second is the bundle's ONNX
model or TensorRT engine as it is. Needs no PyTorch.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from asr_runtime.bundle import Bundle, BundleFile, NewFile, put_in_place, write_bundle
from asr_runtime.engines.onnx import onnx_model
from asr_runtime.engines.target import Profile, Target
from asr_runtime.errors import ExportError
from asr_runtime.windows import WHOLE_SECONDS

VERSION = "1"  # of each model: the folder in which Triton looks for it
CONFIGURATION = "config.pbtxt"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
WARM_UP_SECONDS = 10
DELAY = 2000  # microseconds that a request may wait for others
LARGEST_BATCH, MOST_INSTANCES = 512, 64
KEPT = ("language_model", "lexicon", "card")  # roles that go to the recogniser
MODEL_PY = '''"""Waveforms to text; needs asr-deploy in the Python of Triton's Python backend."""

from asr_runtime.triton import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`name` of the model that clients ask, by default the bundle's; `file` of the bundle that is served, by default
    the ONNX model that a CPU runs. `max_batch` and `delay` (microseconds) are the dynamic batcher's; `instances` work
    side by side.
    """

    name: str | None = None
    file: str | None = None
    max_batch: int = 16
    delay: int = DELAY
    instances: int = 2

    def __post_init__(self) -> None:
        for option, value, most in (
            ("--max-batch", self.max_batch, LARGEST_BATCH),
            ("--instances", self.instances, MOST_INSTANCES),
        ):
            if not 1 <= value <= most:
                raise ExportError(f"got {option} {value}; give 1 to {most}.")
        if not 0 <= self.delay <= 10_000_000:
            raise ExportError(f"got --delay {self.delay}; give 0 to 10000000 microseconds.")


def to_triton(path: Path, repository: Path, settings: Settings, *, force: bool = False) -> tuple[str, str]:
    """Write the bundle at `path` as two models into `repository`; returns their names, the recogniser's first.

    Other models of the repository stay as they are. Raises BundleError, EngineError or ExportError, also where such a
    model is there already and `force` is not given.
    """
    bundle = Bundle.load(path)
    name = settings.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", bundle.name).strip("-.") or "asr"
    if not NAME.fullmatch(name):
        raise ExportError(f"got the name {name!r:.120}; give --name with letters, digits, '.', '_' and '-'.")
    served = Served.of(bundle, served_file(bundle, settings.file), settings)
    names = (name, f"{name}-acoustic")
    for each in names:
        refuse_what_is_there(repository / each, force)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".to-triton-", dir=repository) as beside:
            work = Path(beside)
            recogniser(work / "recogniser", names, bundle, served, settings)
            acoustic(work / "acoustic", names[1], bundle, served)
            for made, target in ((work / "acoustic", names[1]), (work / "recogniser", names[0])):
                replaced = work / f"{made.name}.replaced"
                replaced.mkdir()
                put_in_place(made, repository / target, replaced)
    except OSError as error:
        raise ExportError(f"{repository}: the model repository cannot be written ({error}).") from error
    return names


def refuse_what_is_there(folder: Path, force: bool) -> None:
    """Raise ExportError for a place that is taken, even with `force` unless a model lies there."""
    if not os.path.lexists(folder):
        return
    if not force:
        raise ExportError(f"{folder}: something lies here already; give another --name, or --force to replace it.")
    if not (folder / CONFIGURATION).is_file():
        raise ExportError(
            f"{folder}: what lies here is no model of Triton, so it is not replaced; give another --name."
        )


def served_file(bundle: Bundle, path: str | None) -> BundleFile:
    """The bundle's model file of that path, by default the ONNX model that a CPU runs."""
    if path is None:
        return onnx_model(bundle, None, half=False)
    models = [file for file in bundle.files if file.role == "model"]
    found = next((file for file in models if file.path == path), None)
    if found is None:
        there = ", ".join(file.path for file in models)
        raise ExportError(f"the bundle {bundle.name} has no model {path}; it has {there or 'none'}.")
    return found


@dataclass(frozen=True)
class Served:
    """How Triton runs a model file: its backend and file name, and the largest batch, instances and profile."""

    file: BundleFile
    backend: str
    file_name: str
    max_batch: int
    instances: int
    profile: int | None = None  # of an engine

    @classmethod
    def of(cls, bundle: Bundle, file: BundleFile, settings: Settings) -> Served:
        """Raises ExportError for an engine that Triton does not run, or that is too small for windows of audio."""
        onnx = cls(file, "onnxruntime", "model.onnx", settings.max_batch, settings.instances)
        if file.engine == "onnx":
            return onnx
        target = Target.read(file.path, file.target)
        if target.library != "tensorrt":
            raise ExportError(f"{file.path} is for TensorRT-RTX, which Triton does not run; take another model.")
        number, bulk = max(enumerate(target.profiles), key=lambda each: each[1].batch[2])
        refuse_small(file, bulk, bundle)
        batch = min(settings.max_batch, bulk.batch[2])
        return replace(onnx, backend="tensorrt", file_name="model.plan", max_batch=batch, profile=number)


def refuse_small(file: BundleFile, profile: Profile, bundle: Bundle) -> None:
    """Raise ExportError for an engine that does not take what goes through the model in one piece, in whole seconds."""
    rate = bundle.sample_rate
    window = math.ceil(WHOLE_SECONDS)
    if profile.samples[2] < window * rate or profile.batch[0] > 1 or profile.samples[0] > rate:
        raise ExportError(
            f"{file.path} takes {profile.samples[0] / rate:g} to {profile.samples[2] / rate:g} s of audio, wanted 1 to "
            f"{window} s; build it with --max-seconds {window}."
        )


def recogniser(folder: Path, names: tuple[str, str], bundle: Bundle, served: Served, settings: Settings) -> None:
    """The model that clients ask: the runtime's code, the language model and the decoder's settings."""
    version = folder / VERSION
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL_PY, encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        kept = [
            NewFile(source=bundle.path(file), role=file.role, path=file.path)
            for file in bundle.files
            if file.role in KEPT
        ]
        if bundle.find("card") is None:
            card = Path(work, "card.md")
            card.write_text(f"{bundle.name}, for Triton; its model is served as {names[1]}.\n", encoding="utf-8")
            kept.append(NewFile(source=card, role="card"))
        write_bundle(version / "bundle", bundle, kept)
    (folder / CONFIGURATION).write_text(
        f'''# Waveforms to text. {bundle.sample_rate} hertz, -1 to 1; lengths where items of a request are padded.
name: "{names[0]}"
backend: "python"
max_batch_size: {served.max_batch}
input [
  {{ name: "waveform" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }},
  {{ name: "lengths" data_type: TYPE_INT64 dims: [ 1 ] optional: true }}
]
output [
  {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "transcript" data_type: TYPE_STRING dims: [ 1 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {settings.delay} }}
instance_group [ {{ kind: KIND_CPU count: {settings.instances} }} ]
{parameters({"acoustic_model": names[1]})}''',
        encoding="utf-8",
    )


def acoustic(folder: Path, name: str, bundle: Bundle, served: Served) -> None:
    """The bundle's model file as it is: waveforms of one padded length to log-probabilities."""
    (folder / VERSION).mkdir(parents=True)
    shutil.copyfile(bundle.path(served.file), folder / VERSION / served.file_name)
    (folder / CONFIGURATION).write_text(
        f'''# The bundle's {served.file.path}, {served.file.precision}: waveforms, padded to one length, to
# log-probabilities of its tokens. What the file calls [batch] is [batch, 1] here.
name: "{name}"
backend: "{served.backend}"
default_model_filename: "{served.file_name}"
max_batch_size: {served.max_batch}
input [
  {{ name: "waveform" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "lengths" data_type: TYPE_INT64 dims: [ 1 ] reshape: {{ shape: [ ] }} }}
]
output [
  {{ name: "log_probs" data_type: TYPE_FP32 dims: [ -1, {len(bundle.tokens)} ] }},
  {{ name: "frames" data_type: TYPE_INT64 dims: [ 1 ] reshape: {{ shape: [ ] }} }}
]
dynamic_batching {{ }}
{instances(served)}
{"".join(warm_up(bundle, served))}{parameters(ONNX_RUNTIME if served.profile is None else {})}''',
        encoding="utf-8",
    )


# One thread for each instance; on a GPU memory as it is asked for, and no search among convolutions at each new length.
ONNX_RUNTIME = {
    "intra_op_thread_count": "1",
    "inter_op_thread_count": "1",
    "cudnn_conv_algo_search": "1",
    "arena_extend_strategy": "1",
}


def instances(served: Served) -> str:
    """An engine runs on GPUs with its profile, an ONNX model on GPUs where there are any."""
    if served.profile is not None:
        return f'instance_group [ {{ kind: KIND_GPU count: 1 profile: [ "{served.profile}" ] }} ]'
    return f"instance_group [ {{ kind: KIND_AUTO count: {served.instances} }} ]"


def warm_up(bundle: Bundle, served: Served) -> Iterator[str]:
    """One and as many items as there may be, of ten seconds: before clients come, memory is there and kernels are."""
    samples = WARM_UP_SECONDS * bundle.sample_rate
    for batch in sorted({1, served.max_batch}):
        yield f"""model_warmup {{
  name: "batch of {batch}"
  batch_size: {batch}
  inputs {{ key: "waveform" value: {{ data_type: TYPE_FP32 dims: [ {samples} ] zero_data: true }} }}
  inputs {{ key: "lengths" value: {{ data_type: TYPE_INT64 dims: [ 1 ] zero_data: true }} }}
}}
"""


def parameters(values: Mapping[str, str]) -> str:
    """Parameters of a backend."""
    return "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n' for key, value in values.items()
    )
