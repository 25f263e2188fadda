"""`asr-export doctor` tries what it reports, needs no PyTorch and tells programs by its exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
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
    assert str(doctor.driver_finding()).endswith("CUDA 12.6; Orin (8.7, 8 GiB)")


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
