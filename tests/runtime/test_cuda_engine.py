"""`--device cuda`: never the CPU in silence, nodes elsewhere counted, inputs and outputs bound."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from asr_runtime import engines
from asr_runtime.bundle import Bundle
from asr_runtime.engines import cuda, driver, pad
from asr_runtime.engines.cuda import CudaEngine
from asr_runtime.errors import EngineError

# the CPU twice, in `on_cpu`
pytestmark = pytest.mark.filterwarnings("ignore:Duplicate provider:UserWarning")
GPU_WHEEL = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver answers and that has only the GPU wheel, as far as its metadata say."""
    found = driver.Driver("13.0", (driver.Gpu("H100", "9.0", 80 << 30),))
    monkeypatch.setattr(driver, "probe", lambda: found)
    monkeypatch.setattr(cuda, "_is_installed", lambda name: name == "onnxruntime-gpu")


@pytest.fixture
def on_cpu(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's provider and memory in place of the GPU's: all else of the engine is real."""
    monkeypatch.setattr(cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(cuda, "OPTIONS", {})
    bound = cuda.run_bound
    monkeypatch.setattr(cuda, "run_bound", lambda session, x, lengths: bound(session, x, lengths, "cpu"))


def test_bound_runs_with_buckets_of_lengths_equal_plain_ones(
    tone_bundle: Path, on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.load(tone_bundle)
    engine, plain = CudaEngine(bundle), engines.choose(bundle, "cpu")
    shapes = set()
    bound = cuda.run_bound
    monkeypatch.setattr(cuda, "run_bound", lambda s, x, n: (shapes.add(x.shape[1]), bound(s, x, n))[1])
    random = np.random.default_rng(0)
    for sizes in ([9_000, 1], [15_999], [16_000], [16_001, 0], [30_000]):
        batch = pad([random.uniform(-0.5, 0.5, size).astype(np.float32) for size in sizes])
        for a, b in zip(engine.log_probs(*batch), plain.log_probs(*batch), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert shapes == {16_000, 32_000}
    assert engine.description.startswith("ONNX Runtime ")
    assert engine.description.endswith("fp32, H100")


def test_nodes_elsewhere_are_counted_and_named(tone_bundle: Path) -> None:
    """On a CPU session all nodes are elsewhere."""
    bundle = Bundle.load(tone_bundle)
    session, _ = cuda.new_session(bundle.folder / "model.onnx", False, ["CPUExecutionProvider"])
    elsewhere = cuda.nodes_elsewhere(session)
    if not elsewhere:
        pytest.skip("this ONNX Runtime does not tell where nodes run")
    assert elsewhere["LogSoftmax"] == 1
    assert " nodes on the CPU (" in cuda.told(elsewhere)
    assert cuda.told(type(elsewhere)()) == ""


@pytest.mark.parametrize(
    ("there", "message"),
    [(("onnxruntime",), "is the CPU build"), (("onnxruntime", "onnxruntime-gpu"), "both installed and overwrite each")],
)
def test_wrong_wheels_are_told(
    tone_bundle: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(cuda, "_is_installed", lambda name: name in there)
    with pytest.raises(EngineError, match=message + r".*pip install .asr-deploy\[gpu\]"):
        engines.choose(Bundle.load(tone_bundle), "cuda")


def test_installed_wheels_are_seen() -> None:
    assert cuda._is_installed("numpy")
    assert not cuda._is_installed("no-such-package")


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_session_that_took_the_cpu_is_refused(
    tone_bundle: Path, gpu: None, one_sentence: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """With either wheel, where no CUDA is: ONNX Runtime itself would go on, on the CPU."""
    if GPU_WHEEL and Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="took the CPU in place of the GPU") as caught:
        engines.choose(Bundle.load(tone_bundle), "cuda")
    one_sentence(str(caught.value))
    assert capfd.readouterr().out == ""


def test_without_a_driver_the_real_wheel_is_not_asked(tone_bundle: Path, one_sentence: Callable[[str], None]) -> None:
    try:
        driver.probe()
    except EngineError:
        with pytest.raises(EngineError, match="device cuda cannot be had: there is no NVIDIA driver") as caught:
            engines.choose(Bundle.load(tone_bundle), "cuda")
        one_sentence(str(caught.value))
    else:
        pytest.skip("this machine has a GPU")


def test_a_failure_while_running_is_one_sentence(
    tone_bundle: Path, on_cpu: None, one_sentence: Callable[[str], None]
) -> None:
    engine = CudaEngine(Bundle.load(tone_bundle))
    with pytest.raises(EngineError, match="ONNX Runtime failed on the GPU") as caught:
        cuda.run_bound(engine._session, np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int64))
    one_sentence(str(caught.value))


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives(tone_bundle: Path) -> None:
    try:
        driver.probe()
    except EngineError as error:
        pytest.skip(str(error))
    if not cuda._is_installed("onnxruntime-gpu"):
        pytest.skip(f"onnxruntime-gpu is not installed, only {metadata.version('onnxruntime')}")
    bundle = Bundle.load(tone_bundle)
    batch = pad([np.random.default_rng(0).uniform(-0.5, 0.5, 9_000).astype(np.float32)])
    (got,), (wanted,) = (engines.choose(bundle, device).log_probs(*batch) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(got, wanted, atol=2e-2)
