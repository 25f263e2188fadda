"""What a TensorRT engine was built for, as `bundle.json` says it, and what it fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from asr_runtime.errors import BundleError

VERSION = re.compile(r"\d+(\.\d+){1,3}")
CAPABILITY = re.compile(r"\d{1,2}\.\d")
HARDWARE = ("none", "ampere+", "same-compute-capability")
LIBRARIES = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The batches and samples that an engine takes: smallest, best and largest of each."""

    batch: tuple[int, int, int]
    samples: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name, sizes in asdict(self).items():
            whole = len(sizes) == 3 and all(type(size) is int for size in sizes)
            if not whole or not 0 < sizes[0] <= sizes[1] <= sizes[2] < 1 << 31:
                raise ValueError(f"{name} are {sizes}, wanted three whole numbers from small to large")


@dataclass(frozen=True, kw_only=True)
class Target:
    """TensorRT's or TensorRT-RTX's version, compute capabilities like `8.7`, and the profiles of an engine file.

    `hardware` is the compatibility that it was built with; a `version_compatible` engine runs on later versions of the
    same major one, too.
    """

    library: str
    version: str
    compute_capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]
    hardware: str = "none"
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES or self.hardware not in HARDWARE or type(self.version_compatible) is not bool:
            raise ValueError(f"library {self.library!r} or hardware {self.hardware!r} is not known")
        if not VERSION.fullmatch(self.version):
            raise ValueError(f"{self.version!r} is no version")
        if not self.profiles or not self.compute_capabilities:
            raise ValueError("there is no profile or no compute capability")
        if not all(CAPABILITY.fullmatch(each) for each in self.compute_capabilities):
            raise ValueError(f"{self.compute_capabilities} are no compute capabilities like 8.7")

    @classmethod
    def read(cls, path: str, content: Mapping[str, Any]) -> Target:
        """The `target` of the file at `path`; raises BundleError."""
        try:
            profiles = tuple(
                Profile(batch=tuple(each["batch"]), samples=tuple(each["samples"])) for each in content["profiles"]
            )
            capabilities = tuple(content["compute_capabilities"])
            return cls(**{**content, "profiles": profiles, "compute_capabilities": capabilities})
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{path}: what the engine was built for cannot be read ({error}); build it again with "
                "`asr-export to-tensorrt`."
            ) from error

    def json(self) -> dict[str, Any]:
        """As it stands in `bundle.json`."""
        return asdict(self)

    def fits_gpu(self, capability: str) -> bool:
        """Whether a GPU of that compute capability runs it."""
        if self.hardware == "ampere+":
            return int(capability.split(".")[0]) >= 8
        return capability in self.compute_capabilities

    def fits_version(self, version: str) -> bool:
        """Whether that version of its library runs it."""
        here, built = _numbers(version), _numbers(self.version)
        return here[0] == built[0] and here >= built if self.version_compatible else here == built

    def __str__(self) -> str:
        name = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[self.library]
        capabilities = ", ".join(self.compute_capabilities)
        later = " or later" if self.version_compatible else ""
        return f"{name} {self.version}{later} and compute capability {capabilities}{'+' * (self.hardware == 'ampere+')}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])
