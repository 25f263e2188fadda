"""Which CUDA the installed packages were made for, and whether that goes with the driver and with each other.

Read from the packages' own metadata: nothing of NVIDIA's is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

CUDNN = "nvidia-cudnn-cu"
# What a package requires, itself or for an extra, where its own name does not say its CUDA.
REQUIREMENTS = {
    "onnxruntime-gpu": re.compile(r"nvidia-cudnn-cu(\d+)"),
    "tensorrt": re.compile(r"tensorrt[-_]cu(\d+)"),
}
NAMES = re.compile(r"(?:nvidia-cudnn|tensorrt|tensorrt-lean|tensorrt-rtx)[-_]cu(\d+)(?:[-_]bindings)?")


def made_for() -> dict[str, int]:
    """The major version of CUDA that each installed package is for, of those that say it."""
    found = {}
    for package in metadata.distributions():
        name = package.metadata["Name"] or ""
        if said := NAMES.fullmatch(name):
            found[name] = int(said[1])
        elif name == "cuda-bindings":
            found[name] = int(package.version.partition(".")[0])
        elif name in REQUIREMENTS:
            for said in filter(None, map(REQUIREMENTS[name].match, package.requires or ())):
                found[name] = int(said[1])
    return found


def mismatches(driver: str | None) -> Iterator[tuple[str, str]]:
    """Packages that cannot work here, each with the reason and what to do; `driver` is the newest CUDA that it runs.

    A driver runs all that was made for its major version of CUDA or an older one.
    """
    packages = made_for()
    newest = int(driver.partition(".")[0]) if driver else max(packages.values(), default=0)
    for name, major in packages.items():
        if major > newest:
            yield (
                name,
                f"made for CUDA {major}, and the driver runs {driver}; update it or install one for CUDA {newest}",
            )
    wanted, cudnn = packages.get("onnxruntime-gpu"), [name for name in packages if name.startswith(CUDNN)]
    if wanted and cudnn and f"{CUDNN}{wanted}" not in cudnn:
        yield "onnxruntime-gpu", f"wants {CUDNN}{wanted}, got {', '.join(cudnn)}; run `pip install {CUDNN}{wanted}`"
