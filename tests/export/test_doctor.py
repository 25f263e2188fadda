"""`asr-export doctor` tries what it reports, needs no PyTorch and tells programs by its exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from asr_export import doctor
from asr_export.check import add_check
from asr_runtime.engines import driver
from asr_runtime.errors import EngineError


@pytest.fixture
def bundle(tone_bundle: Path, spell: Callable[[str], np.ndarray], tmp_path: Path) -> Path:
    path = Path(shutil.copytree(tone_bundle, tmp_path / "bundle"))
    add_check(path, [spell("on")])
    return path


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe() -> driver.Driver:
        raise EngineError("there is no NVIDIA driver here; install one.")

    monkeypatch.setattr(driver, "probe", probe)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; sys.argv[0] = 'asr-export'; "
        "from asr_export.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code, "doctor", *arguments], capture_output=True, text=True)


def test_a_machine_without_gpu_is_healthy_unless_one_is_wanted(bundle: Path, no_driver: None) -> None:
    report = doctor.examine(bundle)
    found = {finding.name: finding for finding in report.findings}
    assert report.healthy
    assert found["cpu"].ok
    assert "passed: cpu, ONNX Runtime" in found["cpu"].text
    assert found["cuda"].ok is False
    assert "device cuda cannot be had: there is no NVIDIA driver here" in found["cuda"].text
    assert "no NVIDIA driver" in found["tensorrt"].text
    assert found["numpy"].text == np.__version__
    assert not doctor.examine(bundle, gpu=True).healthy


def test_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = driver.Gpu("Orin", "8.7", 8 << 30)
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver("12.6", (gpu,)))
    assert str(doctor.driver_findings()[0]).endswith("CUDA 12.6; Orin (8.7, 8 GiB)")


@dataclass
class Installed:
    """A package as importlib.metadata has it."""

    name: str
    version: str = "1.0"
    requires: Sequence[str] = ()

    @property
    def metadata(self) -> dict[str, str]:
        return {"Name": self.name}


@pytest.mark.parametrize(
    ("packages", "cuda", "found"),
    [
        ([Installed("cuda-bindings", "13.5.0")], "13.0", []),
        ([Installed("cuda-bindings", "12.9.1")], "13.2", []),  # a driver runs what is older
        (
            [Installed("cuda-bindings", "13.5.0")],
            "12.6",
            [("cuda-bindings", "made for CUDA 13, and the driver runs 12.6")],
        ),
        (
            [Installed("tensorrt", "11.4.0", ("tensorrt_cu13==11.4.0",)), Installed("tensorrt-cu13", "11.4.0")],
            "12.8",
            [("tensorrt", "install one for CUDA 12"), ("tensorrt-cu13", "made for CUDA 13")],
        ),
        (
            [
                Installed("onnxruntime-gpu", "1.31.1", ("numpy", "nvidia-cudnn-cu13~=9.0; extra == 'cudnn'")),
                Installed("nvidia-cudnn-cu12", "9.1"),
            ],
            "13.0",
            [
                (
                    "onnxruntime-gpu",
                    "wants nvidia-cudnn-cu13, got nvidia-cudnn-cu12; run `pip install nvidia-cudnn-cu13`",
                )
            ],
        ),
        (
            [
                Installed("onnxruntime-gpu", "1.31.1", ("nvidia-cudnn-cu13~=9.0; extra == 'cudnn'",)),
                Installed("nvidia-cudnn-cu13", "9.1"),
            ],
            None,  # no driver: what it runs is not known
            [],
        ),
    ],
)
def test_versions_are_held_against_each_other(
    packages: list[Installed], cuda: str | None, found: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "distributions", lambda: packages)
    findings = doctor.mismatch_findings(cuda)
    assert [each.name for each in findings] == [name for name, _ in found]
    assert all(text in each.text and each.ok is False for each, (_, text) in zip(findings, found, strict=True))


def test_what_is_missing_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    gone = {"transformers", "torch"}

    def version(name: str) -> str:
        if name in gone:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setenv("PATH", "")
    found = {finding.name: finding.text for finding in doctor.missing_findings()}
    assert {*gone, "lmplz"} <= set(found)
    assert "onnx" not in found
    assert "pip install 'asr-deploy[huggingface]'" in found["transformers"]
    assert "scripts/install-kenlm" in found["lmplz"]


def test_both_wheels_of_onnx_runtime_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name.startswith("onnxruntime") else real(name))
    assert any(finding.ok is False and "overwrite each other" in finding.text for finding in doctor.package_findings())


def test_the_command_prints_lines_or_json(bundle: Path) -> None:
    done = command(str(bundle))
    assert done.returncode == 0, done.stderr
    assert any(line.startswith("cpu ") and " ok " in line for line in done.stdout.splitlines())
    said = json.loads(command(str(bundle), "--json").stdout)
    assert said["healthy"] is True
    assert {key: said["findings"][-3][key] for key in ("name", "ok")} == {"name": "cpu", "ok": True}


def test_a_bundle_that_carries_no_check_is_unhealthy(tone_bundle: Path) -> None:
    done = command(str(tone_bundle))
    assert done.returncode == 1
    assert "nothing to verify it with" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.gpu
def test_a_gpu_of_this_machine_works() -> None:
    """With asr-deploy[gpu] or [tensorrt] installed: the one command that proves a machine."""
    try:
        driver.probe()
    except EngineError as error:
        pytest.skip(str(error))
    report = doctor.examine(gpu=True)
    assert report.healthy, "\n".join(map(str, report.findings))
