"""Which of a bundle's engines can run here, and what they were built for: what `verify` has to know of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from asr_export.signals import Limits
from asr_runtime.bundle import Bundle, BundleFile
from asr_runtime.engines import Engine, choose, driver
from asr_runtime.engines.target import Target
from asr_runtime.engines.tensorrt import fitting
from asr_runtime.errors import EngineError


@dataclass(frozen=True)
class NotVerified:
    """A model file that cannot run on this machine."""

    file: BundleFile
    reason: str

    def __str__(self) -> str:
        return f"{self.file.path} ({self.file.precision}): not verified here: {self.reason}"


def engine_here(bundle: Bundle, file: BundleFile) -> tuple[Engine, Limits | None] | NotVerified:
    """What runs a model file, with the lengths that it takes; an engine may need another machine.

    Raises EngineError for a file that should run here and does not.
    """
    if file.engine == "onnx":
        return choose(bundle, "cpu", precision=file.precision), None
    alone = replace(bundle, files=tuple(each for each in bundle.files if each.role != "model" or each == file))
    try:
        fitting(alone, None, driver.probe().gpus[0].capability)
    except EngineError as error:
        return NotVerified(file, str(error))
    profiles = Target.read(file.path, file.target).profiles
    limits = Limits(min(each.samples[0] for each in profiles), max(each.samples[2] for each in profiles))
    return choose(alone, "tensorrt"), limits
