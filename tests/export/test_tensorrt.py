"""`to-tensorrt` against every version's real classes: options, what is checked beforehand, and each refusal."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from nvidia import FULL, TensorRT

from asr_export.tensorrt import Settings, to_tensorrt
from asr_export.to_onnx import to_onnx
from asr_runtime.bundle import Bundle
from asr_runtime.engines import driver
from asr_runtime.engines.target import Target
from asr_runtime.errors import AsrError, EngineError, ExportError
from asr_training.checkpoint import Checkpoint, write_checkpoint
from asr_training.recipe import CRNN
from asr_training.text import Alphabet

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TensorRT]:
    """Puts one version in place of what is installed, on a machine with a GPU of compute capability 8.7."""
    gpu = driver.Gpu("Orin", "8.7", 8 << 30)
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver("12.6", (gpu,)))

    def use(name: str) -> TensorRT:
        made = TensorRT(name)
        for module in MODULES:
            monkeypatch.setitem(sys.modules, module, made.module if name.startswith(module.replace("_", "-")) else None)
        return made

    return use


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "bundle"
    to_onnx(checkpoint, path)
    to_onnx(checkpoint, path, arithmetic="fp16")
    return path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.mark.parametrize("name", FULL)
def test_every_version_builds_with_one_code_path(install: Callable[[str], TensorRT], bundle: Path, name: str) -> None:
    trt, version = install(name), name.rsplit("-", 1)[1]
    lines: list[str] = []
    made, file = to_tensorrt(bundle, Settings(), report=lines.append)
    assert (file.path, file.precision) == (f"tensorrt-{version}-sm87-fp16.engine", "fp16")
    assert Target.read(file.path, file.target).fits_gpu("8.7")
    assert "Building 50 %" in lines
    assert trt.built["graph"] == made.path(file).read_bytes()
    assert trt.built["config"].profiles == [
        {"waveform": ((1, 1600), (16, 160_000), (16, 320_000)), "lengths": ((1,), (16,), (16,))}
    ]
    assert len(made.files) == 4
    with pytest.raises(ExportError, match=r"there is tensorrt-.* already; give --force"):
        to_tensorrt(bundle, Settings(max_batch=4))
    again, _ = to_tensorrt(bundle, Settings(max_batch=4), force=True)
    assert len(again.files) == 4


def test_options_reach_the_builder(install: Callable[[str], TensorRT], bundle: Path, tmp_path: Path) -> None:
    trt, cache = install("tensorrt-11.4.0"), tmp_path / "timing.cache"
    settings = Settings(
        max_batch=4,
        opt_seconds=4,
        max_seconds=8,
        streaming=True,
        hardware="ampere+",
        version_compatible=True,
        timing_cache=cache,
    )
    _, file = to_tensorrt(bundle, settings, precision="fp32")
    config = trt.built["config"]
    assert file.path == "tensorrt-11.4.0-sm87-ampere-plus-version-compatible-fp32.engine"
    assert [each["waveform"] for each in config.profiles] == [
        ((1, 1600), (1, 16_000), (1, 32_000)),
        ((1, 1600), (4, 64_000), (4, 128_000)),
    ]
    assert config.flags == [trt.module.BuilderFlag.VERSION_COMPATIBLE]
    assert config.hardware_compatibility_level == trt.module.HardwareCompatibilityLevel.AMPERE_PLUS
    assert cache.read_bytes() == b"+"
    to_tensorrt(bundle, settings, precision="fp32", force=True)
    assert cache.read_bytes() == b"++"  # begun with what was there
    target = Target.read(file.path, file.target)
    assert target.fits_gpu("12.0")
    assert target.fits_version("11.9.0")


def test_recurrent_layers_go_in_as_loops(
    install: Callable[[str], TensorRT], authored: Callable[..., Any], tmp_path: Path
) -> None:
    architecture = CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=24)
    model, _ = authored(architecture)
    alphabet = Alphabet("' abcdefghijklmnopqrstuvwxyz")
    write_checkpoint(tmp_path / "c", Checkpoint(model, model.config, architecture, alphabet, {}), {}, {})
    to_onnx(tmp_path / "c", tmp_path / "b")
    trt = install("tensorrt-10.3.0")
    to_tensorrt(tmp_path / "b", Settings())
    nodes = [node.op_type for node in onnx.load_from_string(trt.built["graph"]).graph.node]
    assert (nodes.count("GRU"), nodes.count("Scan")) == (0, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch": 0}, "--max-batch 0; give 1 to"),
        ({"max_batch": 100_000}, "give 1 to"),
        ({"min_seconds": 0.0}, "rise from above 0"),
        ({"min_seconds": 1e-9}, "no sample"),
        ({"opt_seconds": 30.0}, "rise from above 0"),
        ({"max_seconds": 1e9, "opt_seconds": 1.0}, "at most 600"),
        ({"max_seconds": float("nan")}, "rise from above 0"),
        ({"streaming": True, "max_seconds": 1.5, "opt_seconds": 1.0}, "streaming profile"),
        ({"capabilities": ("8.9",)}, "give --rtx"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    install: Callable[[str], TensorRT], bundle: Path, settings: dict[str, Any], message: str
) -> None:
    install("tensorrt-11.4.0")
    with pytest.raises(ExportError, match=message):
        to_tensorrt(bundle, Settings(**settings))
    assert len(Bundle.load(bundle).files) == 3


@pytest.mark.parametrize("call", ["parse", "build_serialized_network", "set_timing_cache"])
def test_each_refusal_of_tensorrt_is_one_sentence_and_changes_nothing(
    install: Callable[[str], TensorRT],
    bundle: Path,
    tmp_path: Path,
    call: str,
    one_sentence: Callable[[str], None],
) -> None:
    trt = install("tensorrt-10.16.1")
    trt.wrong.add(call)
    before = (bundle / "bundle.json").read_bytes()
    with pytest.raises(ExportError) as caught:
        to_tensorrt(bundle, Settings(timing_cache=tmp_path / "cache"))
    one_sentence(str(caught.value))
    if call == "parse":
        assert "encoder.odd: Plugin not found" in str(caught.value)
    assert (bundle / "bundle.json").read_bytes() == before
    assert not (tmp_path / "cache").exists()


def test_what_is_missing_is_told(
    install: Callable[[str], TensorRT], bundle: Path, tone_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = install("tensorrt-10.3.0")
    with pytest.raises(ExportError, match="give fp16 or fp32"):
        to_tensorrt(bundle, Settings(), precision="int8")
    with pytest.raises(ExportError, match=r"no ONNX model in fp16; .*--precision fp16"):
        to_tensorrt(tone_bundle, Settings(), precision="fp16")
    with pytest.raises(ExportError, match=r"knows hardware compatibility ampere\+ only"):
        to_tensorrt(bundle, Settings(hardware="same-compute-capability"))
    trt.module.__version__ = "8.6.1"
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 is too old"):
        to_tensorrt(bundle, Settings())
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"asr-deploy\[tensorrt\].*Jetson"):
        to_tensorrt(bundle, Settings())


def test_without_a_driver_nothing_is_built(bundle: Path, one_sentence: Callable[[str], None]) -> None:
    try:
        driver.probe()
    except AsrError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    command = [sys.executable, "-c", "from asr_export.cli import main; main()", "to-tensorrt", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    one_sentence(done.stderr)
    assert "there is no NVIDIA driver here" in done.stderr


def test_the_command_needs_no_torch(bundle: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "sys.argv = ['asr-export', 'to-tensorrt', sys.argv[1], '--max-batch', '0']; "
        "from asr_export.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "give 1 to 512" in done.stderr
