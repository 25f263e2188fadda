"""`asr-export doctor`: what is installed here, and which engines really work. Needs neither PyTorch nor onnx.

Nothing is believed that can be tried: each device computes the check of a bundle (the one that ships, or yours).
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from asr_export.cuda_versions import mismatches
from asr_runtime.bundle import Bundle
from asr_runtime.engines import driver, usable_cores
from asr_runtime.errors import AsrError
from asr_runtime.recognizer import ENGLISH
from asr_runtime.verify import verify

PACKAGES = (
    "asr-deploy",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "cuda-bindings",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12",
    "nvidia-cublas",
    "torch",
    "kenlm",
)
GPU_DEVICES = ("cuda", "tensorrt")
# What is not there, who needs it, and what installs it; what a device lacks, its own error says.
NEEDED = {
    "onnx": "needed by to-tensorrt, to-onnx and `inspect --json`; run `pip install 'asr-deploy[tensorrt]'` or [export]",
    "torch": "needed by to-onnx, `verify --against` and the imports; run `pip install 'asr-deploy[export]'`",
    "transformers": "needed by import-huggingface; run `pip install 'asr-deploy[huggingface]'`",
    "huggingface-hub": "needed to import by a hub's id; run `pip install huggingface_hub`",
}
KENLM_TOOL, KENLM_NEEDED = "lmplz", "needed by lm; run scripts/install-kenlm"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `ok` is True, False, or None for what is only told."""

    name: str
    ok: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILS", None: "-"}[self.ok]
        return f"{self.name:28}{mark:7}{self.text}"


@dataclass(frozen=True)
class Report:
    """All findings; `healthy` when the devices that were asked for work."""

    findings: tuple[Finding, ...]
    healthy: bool

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {"healthy": self.healthy, "findings": [asdict(each) for each in self.findings]}


def examine(path: Path | None = None, *, gpu: bool = False) -> Report:
    """Look at this machine with the bundle at `path`, or the one that ships.

    Healthy means that the CPU works, and with `gpu` at least one of cuda and tensorrt. Raises BundleError for `path`.
    """
    devices = engine_findings(Bundle.load(path or ENGLISH))
    works = {each.name for each in devices if each.ok}
    wanted = [{"cpu"}, set(GPU_DEVICES)] if gpu else [{"cpu"}]
    told = [Finding("system", None, system()), *package_findings(), *missing_findings(), *driver_findings()]
    return Report((*told, *devices), all(works & each for each in wanted))


def system() -> str:
    """Python and the machine."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {usable_cores()} cores"


def package_findings() -> list[Finding]:
    """Versions of what is installed, and what cannot be right together."""
    versions = {name: version for name in PACKAGES if (version := installed(name))}
    findings = [Finding(name, None, version) for name, version in versions.items()]
    if {"onnxruntime", "onnxruntime-gpu"} <= set(versions):
        text = "onnxruntime and onnxruntime-gpu overwrite each other; uninstall both, then install asr-deploy[gpu]"
        findings.append(Finding("onnxruntime", False, text))
    return findings


def installed(name: str) -> str | None:
    """A package's version, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def missing_findings() -> list[Finding]:
    """What commands of `asr-export` need and is not here."""
    missing = {name: text for name, text in NEEDED.items() if installed(name) is None}
    if shutil.which(KENLM_TOOL) is None:
        missing[KENLM_TOOL] = KENLM_NEEDED
    return [Finding(name, None, f"not installed: {text}") for name, text in missing.items()]


def driver_findings() -> list[Finding]:
    """The NVIDIA driver and its GPUs, and packages that do not go with it or with each other."""
    try:
        found = driver.probe()
    except AsrError as error:
        return [Finding("NVIDIA driver", None, str(error)), *mismatch_findings(None)]
    gpus = ", ".join(f"{gpu.name} ({gpu.capability}, {gpu.memory / 2**30:.0f} GiB)" for gpu in found.gpus)
    return [Finding("NVIDIA driver", True, f"CUDA {found.cuda}; {gpus}"), *mismatch_findings(found.cuda)]


def mismatch_findings(cuda: str | None) -> list[Finding]:
    """Packages that cannot work with a driver for this CUDA."""
    return [Finding(name, False, text) for name, text in mismatches(cuda)]


def engine_findings(bundle: Bundle) -> list[Finding]:
    """What each device makes of the bundle's check."""
    return [finding for device in ("cpu", *GPU_DEVICES) for finding in device_findings(bundle, device)]


def device_findings(bundle: Bundle, device: str) -> Sequence[Finding]:
    """One finding for each model that the device runs, or the sentence that says why it does not."""
    try:
        return [Finding(device, outcome.passed, str(outcome)) for outcome in verify(bundle, device)]
    except AsrError as error:
        return [Finding(device, False, str(error))]
