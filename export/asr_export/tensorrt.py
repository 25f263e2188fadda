"""`asr-export to-tensorrt`: an engine for this machine's GPU, built from the bundle's ONNX model and added to it.

Needs TensorRT (10.3 or newer, 11 too) or TensorRT-RTX and the onnx package, no PyTorch. One code path serves all of
them: a strongly typed network, whose types are those of the ONNX file.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_runtime.bundle import Bundle, BundleFile, NewFile, update_bundle
from asr_runtime.engines import driver
from asr_runtime.engines.target import Profile, Target
from asr_runtime.engines.tensorrt import MODULES, log_of
from asr_runtime.errors import EngineError, ExportError

OLDEST = (10, 3)  # of TensorRT: JetPack 6.2's
PRECISIONS = {"fp16": ("fp16",), "fp32": ("fp32", "fp32-w16")}  # of an engine: of the ONNX models it is built from
AHEAD_OF_TIME = ("8.0", "8.6", "8.9", "12.0")  # compute capabilities that TensorRT-RTX builds for without a GPU
LARGEST_BATCH, LONGEST_SECONDS = 512, 600.0
STREAMING = (1.0, 2.0)  # best and largest seconds of the second profile, of batch 1

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an engine is built. Seconds and batches are the profile's; `capabilities` are for TensorRT-RTX only."""

    max_batch: int = 16
    min_seconds: float = 0.1
    opt_seconds: float = 10.0
    max_seconds: float = 20.0
    streaming: bool = False
    hardware: str = "none"
    version_compatible: bool = False
    timing_cache: Path | None = None
    rtx: bool = False
    capabilities: tuple[str, ...] = ()

    def profiles(self, rate: int) -> tuple[Profile, ...]:
        """The profiles in samples. TensorRT takes values that make no sense; here they raise ExportError."""
        shortest, best, longest = self.min_seconds, self.opt_seconds, self.max_seconds
        if not 0 < shortest <= best <= longest <= LONGEST_SECONDS:
            raise ExportError(
                f"got seconds {shortest:g}, {best:g}, {longest:g}; give --min-seconds, --opt-seconds and --max-seconds "
                f"that rise from above 0 to at most {LONGEST_SECONDS:g}."
            )
        if not 1 <= self.max_batch <= LARGEST_BATCH:
            raise ExportError(f"got --max-batch {self.max_batch}; give 1 to {LARGEST_BATCH}.")
        if round(shortest * rate) < 1:
            raise ExportError(f"--min-seconds {shortest:g} are no sample at {rate} hertz; give more.")
        bulk = profile(self.max_batch, (shortest, best, longest), rate)
        if not self.streaming:
            return (bulk,)
        if longest < STREAMING[1] or shortest > STREAMING[0]:
            raise ExportError(
                f"the streaming profile goes from --min-seconds to {STREAMING[1]:g} s; give seconds around it."
            )
        return (profile(1, (shortest, *STREAMING), rate), bulk)


def profile(batch: int, seconds: Sequence[float], rate: int) -> Profile:
    """A profile for 1 to `batch` items, whose best is the largest batch, of that shortest, best and longest time."""
    shortest, best, longest = (round(each * rate) for each in seconds)
    return Profile(batch=(1, batch, batch), samples=(shortest, best, longest))


def to_tensorrt(
    path: Path,
    settings: Settings,
    *,
    precision: str | None = None,
    force: bool = False,
    report: Report = lambda line: None,
) -> tuple[Bundle, BundleFile]:
    """Build an engine from the bundle's model in `precision` (by default fp16, where there is such a model) and add it.

    Returns the bundle and the engine's entry. Raises ExportError or EngineError for what is missing here or does not
    build, and BundleError, also where such an engine is there already and `force` is not given.
    """
    bundle = Bundle.load(path)
    if not bundle.padding:
        raise ExportError(
            f"{path}: padding changes this model's results, and TensorRT's runner pads; run it on cuda or cpu."
        )
    source, precision = source_model(bundle, precision)
    profiles = settings.profiles(bundle.sample_rate)
    capabilities = capabilities_here(settings)
    module = library(settings.rtx)
    target = Target(
        library="tensorrt-rtx" if settings.rtx else "tensorrt",
        version=module.__version__,
        compute_capabilities=capabilities,
        profiles=profiles,
        hardware=settings.hardware,
        version_compatible=settings.version_compatible,
    )
    name = engine_name(target, precision)
    if not force and any(file.path == name for file in bundle.files):
        raise ExportError(f"{path}: there is {name} already; give --force to replace it.")
    report(f"building for {target} from {source.path}")
    content = build(module, graph_bytes(bundle.path(source)), target, settings, report)
    with tempfile.TemporaryDirectory(prefix="asr-export-") as work:
        file = Path(work, "engine")
        file.write_bytes(content)
        new = NewFile(
            source=file,
            role="model",
            path=name,
            engine="tensorrt",
            precision=precision,
            target=target.json(),
        )
        made = update_bundle(path, [new], force=force)
    return made, next(file for file in made.files if file.path == name)


def source_model(bundle: Bundle, precision: str | None) -> tuple[BundleFile, str]:
    """The ONNX model to build from, and the engine's precision; raises ExportError."""
    if precision is not None and precision not in PRECISIONS:
        raise ExportError(f"got precision {precision!r}; give {' or '.join(PRECISIONS)}.")
    for wanted in [precision] if precision else list(PRECISIONS):
        for file in bundle.files:
            if file.engine == "onnx" and file.precision in PRECISIONS[wanted]:
                return file, wanted
    raise ExportError(
        f"the bundle {bundle.name} has no ONNX model in {precision or ' or '.join(PRECISIONS)}; add one where PyTorch "
        f"is with `asr-export to-onnx CHECKPOINT BUNDLE --precision {precision or 'fp16'}`."
    )


def capabilities_here(settings: Settings) -> tuple[str, ...]:
    """What to build for: the GPU of this machine, or for TensorRT-RTX what is asked for; raises EngineError."""
    if settings.rtx:
        return settings.capabilities or AHEAD_OF_TIME
    if settings.capabilities:
        raise ExportError("TensorRT builds for the GPU that it runs on; leave --compute-capability out, or give --rtx.")
    return (driver.probe().gpus[0].capability,)


def library(rtx: bool) -> Any:
    """The module tensorrt, or TensorRT-RTX's; raises EngineError where it is not installed or too old."""
    names = MODULES["tensorrt-rtx"] if rtx else ("tensorrt",)
    for name in names:
        try:
            module = importlib.import_module(name)
            break
        except (ImportError, OSError) as error:
            fault = error
    else:
        advice = "tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs" if rtx else "'asr-deploy[tensorrt]'"
        raise EngineError(
            f"{names[-1]} cannot be imported ({fault}); run `pip install {advice}`, or on a Jetson, where it comes "
            "with JetPack, make the environment with --system-site-packages."
        )
    if not rtx and tuple(int(part) for part in module.__version__.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EngineError(f"TensorRT {module.__version__} is too old; install {oldest} or newer.")
    return module


def graph_bytes(path: Path) -> bytes:
    """The ONNX file as TensorRT gets it: recurrent layers as typed loops."""
    try:
        from asr_export.importers.files import load_whole
        from asr_export.scan import with_scans
    except ImportError as error:
        raise EngineError(f"onnx cannot be imported ({error}); run `pip install 'asr-deploy[tensorrt]'`.") from error
    try:
        content: bytes = with_scans(load_whole(path)).SerializeToString()
    except ValueError as error:
        raise ExportError(f"{path.name}: {error}; TensorRT may not take it.") from error
    return content


def engine_name(target: Target, precision: str) -> str:
    """A file name that tells what the engine is for."""
    capabilities = "-".join(f"sm{each.replace('.', '')}" for each in target.compute_capabilities)
    kind = {"none": "", "ampere+": "-ampere-plus", "same-compute-capability": "-same-sm"}[target.hardware]
    lasting = "-version-compatible" if target.version_compatible else ""
    return f"{target.library}-{target.version}-{capabilities}{kind}{lasting}-{precision}.engine"


def build(module: Any, graph: bytes, target: Target, settings: Settings, report: Report) -> bytes:
    """The engine's bytes; raises ExportError with what TensorRT says."""
    log = log_of(module)
    builder = module.Builder(log)
    if builder is None:
        raise ExportError(f"TensorRT does not start ({log.last}).")
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, log)
    if not parser.parse(graph):
        raise ExportError(f"TensorRT {module.__version__} cannot read the model ({parser_errors(parser)}).")
    config = configured(module, builder, target)
    config.progress_monitor = progress(module, report)
    with timing_cache(config, settings):
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise ExportError(f"TensorRT {module.__version__} cannot build the engine ({log.last}).")
    return bytes(engine)


def configured(module: Any, builder: Any, target: Target) -> Any:
    """The builder's configuration for a target."""
    config = builder.create_builder_config()
    levels = module.HardwareCompatibilityLevel
    if target.hardware == "ampere+":
        config.hardware_compatibility_level = levels.AMPERE_PLUS
    elif target.hardware == "same-compute-capability":
        if not hasattr(levels, "SAME_COMPUTE_CAPABILITY"):
            raise ExportError(f"TensorRT {module.__version__} knows hardware compatibility ampere+ only; give that.")
        config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY
    if target.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if target.library == "tensorrt-rtx":
        set_capabilities(module, config, target.compute_capabilities)
    for each in target.profiles:
        shapes = builder.create_optimization_profile()
        shapes.set_shape("waveform", *zip(each.batch, each.samples, strict=True))
        shapes.set_shape("lengths", *((batch,) for batch in each.batch))
        config.add_optimization_profile(shapes)
    return config


def set_capabilities(module: Any, config: Any, capabilities: Sequence[str]) -> None:
    """Tell TensorRT-RTX what to build for; raises ExportError for a GPU that it does not know."""
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        kind = getattr(module.ComputeCapability, f"SM{capability.replace('.', '')}", None)
        if kind is None or not config.set_compute_capability(kind, index):
            raise ExportError(
                f"TensorRT-RTX {module.__version__} does not build for compute capability {capability}; "
                f"give some of {', '.join(AHEAD_OF_TIME)}."
            )


def parser_errors(parser: Any) -> str:
    """What the parser did not like, with the nodes' names."""
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    return "; ".join(f"{error.node_name() or 'the file'}: {error.desc()}" for error in errors[:3]) or "no reason given"


@contextmanager
def timing_cache(config: Any, settings: Settings) -> Iterator[None]:
    """Let the builder begin with what earlier builds measured, and keep what it measures now."""
    path = settings.timing_cache
    if path is None:
        yield
        return
    if settings.rtx:
        raise ExportError("TensorRT-RTX measures when an engine runs, not when it is built; leave --timing-cache out.")
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ExportError(f"{path}: TensorRT does not take this timing cache of another GPU or version; move it away.")
    yield
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(bytes(config.get_timing_cache().serialize()))
    beside.replace(path)


def progress(module: Any, report: Report) -> Any:
    """A monitor that reports each phase of the builder and how far it is, in tenths."""

    class Progress(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = max(num_steps, 1)
            report(f"{phase_name} …")

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self.steps[phase_name]
            if 10 * (step + 1) // steps > 10 * step // steps:
                report(f"{phase_name} {100 * (step + 1) // steps} %")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Progress()
