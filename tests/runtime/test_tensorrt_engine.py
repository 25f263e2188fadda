"""The TensorRT runner: what it calls exists in every version, its logic is right, and each failure is one sentence."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvidia import FULL, OUT_OF_MEMORY, Cuda, TensorRT

from asr_runtime import engines, load
from asr_runtime.bundle import Bundle, NewFile, update_bundle
from asr_runtime.engines import driver, pad, tensorrt
from asr_runtime.engines.target import Profile, Target
from asr_runtime.errors import AsrError, BundleError, EngineError

RATE = 16000
BULK = Profile(batch=(1, 4, 4), samples=(1600, RATE, 2 * RATE))
STREAMING = Profile(batch=(1, 1, 1), samples=(1600, 8000, RATE))
Make = Callable[..., tensorrt.TensorRTEngine]


class Machine:
    """What is installed on a machine with a GPU of compute capability 8.7."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tone_bundle: Path, folder: Path) -> None:
        self.monkeypatch, self.tone_bundle, self.folder = monkeypatch, tone_bundle, folder
        self.cuda = Cuda()
        gpu = driver.Gpu("Orin", "8.7", 8 << 30)
        monkeypatch.setattr(driver, "probe", lambda: driver.Driver("12.6", (gpu,)))
        self.install("tensorrt-10.3.0")

    def install(self, name: str, bindings: str = "cuda-bindings-13") -> TensorRT:
        self.trt = TensorRT(name, self.cuda)
        module = name.rsplit("-", 1)[0].replace("-", "_")
        for other in ("tensorrt", "tensorrt_lean", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            self.monkeypatch.setitem(sys.modules, other, self.trt.module if other == module else None)
        runtime = self.cuda.module(bindings)
        self.monkeypatch.setattr(tensorrt, "cuda_runtime", lambda: runtime)
        return self.trt

    def bundle(self, *profiles: Profile, **changes: Any) -> Bundle:
        profiles = profiles or (BULK,)
        self.trt.profiles = [
            {"waveform": list(zip(each.batch, each.samples, strict=True)), "lengths": [(size,) for size in each.batch]}
            for each in profiles
        ]
        plain = {"library": "tensorrt", "version": "10.3.0", "compute_capabilities": ("8.7",), "profiles": profiles}
        path = self.folder / f"bundle{len(list(self.folder.iterdir()))}"
        shutil.copytree(self.tone_bundle, path)
        return update_bundle(path, [engine_file(path, "a.engine", Target(**{**plain, **changes}))])

    def engine(self, *profiles: Profile, **changes: Any) -> tensorrt.TensorRTEngine:
        return tensorrt.TensorRTEngine(self.bundle(*profiles, **changes))


def engine_file(bundle: Path, name: str, target: Target) -> NewFile:
    """The bundle's ONNX model as what stands for an engine here."""
    model = bundle / "model.onnx"
    return NewFile(source=model, role="model", path=name, engine="tensorrt", precision="fp16", target=target.json())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tone_bundle: Path, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tone_bundle, tmp_path)


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.uniform(-0.5, 0.5, size).astype(np.float32) for size in (9_000, 1, 16_000, 0, 20_000, 640, 31_999)]


@pytest.fixture(scope="module")
def expected(tone_bundle: Path, waveforms: list[np.ndarray]) -> list[np.ndarray]:
    return engines.choose(Bundle.load(tone_bundle), "cpu").log_probs(*pad(waveforms))


def agree(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# --- numbers and versions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bindings", ["cuda-bindings-12", "cuda-bindings-13"])
@pytest.mark.parametrize("name", FULL)
def test_every_version_gives_the_log_probabilities(
    machine: Machine, waveforms: list[np.ndarray], expected: list[np.ndarray], name: str, bindings: str
) -> None:
    machine.install(name, bindings)
    version = name.rsplit("-", 1)[1]
    engine = machine.engine(version=version)
    agree(engine.log_probs(*pad(waveforms)), expected)
    assert (engine.device, engine.batch_size) == ("tensorrt", 4)
    assert engine.description == f"TensorRT {version}, fp16, Orin"


@pytest.mark.parametrize("name", ["tensorrt-lean-11.4.0", "tensorrt-11.4.0"])
def test_an_engine_for_later_versions_runs_on_the_lean_module_too(
    machine: Machine, waveforms: list[np.ndarray], expected: list[np.ndarray], name: str
) -> None:
    machine.install(name)
    engine = machine.engine(version="11.1.0", version_compatible=True)
    agree(engine.log_probs(*pad(waveforms)), expected)


def test_rtx_engines_run_on_their_own_module(
    machine: Machine, waveforms: list[np.ndarray], expected: list[np.ndarray]
) -> None:
    machine.install("tensorrt-rtx-1.7.1")
    engine = machine.engine(library="tensorrt-rtx", version="1.7.1", compute_capabilities=("8.6", "8.7"))
    agree(engine.log_probs(*pad(waveforms)), expected)


def test_the_recognizer_runs_on_it(machine: Machine, spell: Callable[[str], np.ndarray]) -> None:
    bundle = machine.bundle()
    recognizer = load(bundle.folder, "tensorrt", greedy=True, threads=2)
    texts = [each.text for each in recognizer.transcribe([(spell(text), RATE) for text in ("cat", "a dog", "me")])]
    assert texts == ["cat", "a dog", "me"]
    assert recognizer.transcribe(spell("on"), RATE).device == "tensorrt"


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_batches_beyond_the_profile_are_split_and_longer_audio_is_refused(
    machine: Machine, waveforms: list[np.ndarray], expected: list[np.ndarray]
) -> None:
    engine = machine.engine()
    agree(engine.log_probs(*pad(waveforms * 3)), expected * 3)
    with pytest.raises(EngineError, match=r"2\.50 s of audio are more than the 2\.00 s .*--max-seconds"):
        engine.log_probs(*pad([np.zeros(40_000, np.float32)]))
    assert engine.log_probs(*pad([])) == []


def test_each_request_goes_to_the_smallest_profile_that_takes_it(machine: Machine) -> None:
    engine = machine.engine(STREAMING, BULK)

    def taken(batch: int, samples: int) -> Profile:
        return engine._lane_for(batch, samples).profile

    assert taken(1, 5_000) == STREAMING
    assert taken(1, 17_000) == BULK
    assert taken(3, 5_000) == BULK
    assert [row.shape for row in engine.log_probs(*pad([np.zeros(700, np.float32)]))] == [(2, 29)]


def test_shapes_that_repeat_are_captured_once(machine: Machine, waveforms: list[np.ndarray]) -> None:
    engine = machine.engine()
    for _ in range(4):  # four kinds of lengths within one second are one shape
        for size in (9_000, 12_000, 15_000, 16_000):
            engine.log_probs(*pad([np.ones(size, np.float32)]))
    calls = machine.cuda.calls
    assert calls.count("cudaGraphInstantiate") == 1
    assert calls.count("cudaGraphLaunch") == 15
    before = len([call for call in calls if call == "cudaMemcpyAsync"])
    engine.log_probs(*pad([np.ones(3_000, np.float32)]))
    assert len([call for call in machine.cuda.calls if call == "cudaMemcpyAsync"]) == before


def test_captured_graphs_see_new_samples(
    machine: Machine, waveforms: list[np.ndarray], expected: list[np.ndarray]
) -> None:
    engine = machine.engine()
    for _ in range(3):
        for waveform, wanted in zip(waveforms, expected, strict=True):
            agree(engine.log_probs(*pad([waveform])), [wanted])


def test_graphs_are_few(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "GRAPHS", 2)
    engine = machine.engine()
    for _ in range(2):
        for batch in (1, 2, 3, 4):
            for _ in range(2):
                engine.log_probs(*pad([np.ones(9_000, np.float32)] * batch))
    assert len(machine.cuda.graphs) == 2


def test_an_engine_that_cannot_be_captured_runs_without(
    machine: Machine, waveforms: list[np.ndarray], expected: list[np.ndarray]
) -> None:
    engine = machine.engine()
    machine.trt.wrong.add("capture")
    for _ in range(3):
        agree(engine.log_probs(*pad(waveforms)), expected)
    assert machine.cuda.calls.count("cudaStreamBeginCapture") == 1
    assert "cudaGraphLaunch" not in machine.cuda.calls


def test_results_are_not_overwritten_by_the_next_batch(machine: Machine, waveforms: list[np.ndarray]) -> None:
    engine = machine.engine()
    (first,) = engine.log_probs(*pad(waveforms[:1]))
    kept = first.copy()
    engine.log_probs(*pad([np.ones(9_000, np.float32)]))
    np.testing.assert_array_equal(first, kept)


def test_all_memory_is_freed(machine: Machine, waveforms: list[np.ndarray]) -> None:
    engine = machine.engine(STREAMING, BULK)
    for _ in range(2):
        engine.log_probs(*pad(waveforms))
    assert machine.cuda.memory
    assert machine.cuda.graphs
    del engine
    gc.collect()
    assert not machine.cuda.memory
    assert not machine.cuda.graphs
    assert not machine.cuda.streams


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "10.13.3"}, r"for TensorRT 10\.13\.3 and compute capability 8\.7, and here are tensorrt 10\.3\.0"),
        (
            {"compute_capabilities": ("8.9",)},
            r"capability 8\.9, and here are tensorrt 10\.3\.0 and compute capability 8",
        ),
        ({"library": "tensorrt-rtx"}, r"here are no tensorrt-rtx that can be imported"),
        ({"version": "10.13.3", "version_compatible": True}, "10.13.3 or later"),
        ({"version": "9.3.0", "version_compatible": True}, "9.3.0 or later"),
    ],
)
def test_engines_for_others_are_refused_before_tensorrt_sees_them(
    machine: Machine, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message + r".*asr-export to-tensorrt"):
        machine.engine(**changes)
    assert not machine.cuda.calls


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"hardware": "ampere+", "compute_capabilities": ("8.0",)}, True),
        ({"version": "10.0.1", "version_compatible": True}, True),
        ({"hardware": "same-compute-capability"}, True),
    ],
)
def test_compatible_engines_are_taken(machine: Machine, changes: dict[str, Any], fits: bool) -> None:
    assert machine.engine(**changes).device == "tensorrt"


def test_the_engine_that_fits_is_found_among_others(machine: Machine) -> None:
    bundle = machine.bundle(compute_capabilities=("9.0",))
    other = Target(library="tensorrt", version="10.3.0", compute_capabilities=("8.7",), profiles=(BULK,))
    file = engine_file(bundle.folder, "b.engine", other)
    assert tensorrt.TensorRTEngine(update_bundle(bundle.folder, [file])).device == "tensorrt"
    with pytest.raises(EngineError, match="no TensorRT engine in int8"):
        tensorrt.TensorRTEngine(Bundle.load(bundle.folder), precision="int8")


def test_without_an_engine_it_says_how_to_build_one(machine: Machine, tone_bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"has no TensorRT engine; .*asr-export to-tensorrt"):
        tensorrt.TensorRTEngine(Bundle.load(tone_bundle))


@pytest.mark.parametrize(
    "damage",
    [
        {"profiles": []},
        {"profiles": [{"batch": [1, 2], "samples": [1, 2, 3]}]},
        {"profiles": [{"batch": [1, 2, 1], "samples": [1, 2, 3]}]},
        {"profiles": [{"batch": [1, 2, 2.5], "samples": [1, 2, 3]}]},
        {"profiles": 3},
        {"version": "ten"},
        {"version": None},
        {"compute_capabilities": ["sm87"]},
        {"library": "onnx"},
        {"hardware": []},
        {"version_compatible": "yes"},
        {"unknown": 1},
    ],
)
def test_a_target_that_makes_no_sense_is_a_sentence(damage: dict[str, Any]) -> None:
    right = Target(library="tensorrt", version="10.3.0", compute_capabilities=("8.7",), profiles=(BULK,)).json()
    assert Target.read("a.engine", right).profiles == (BULK,)
    with pytest.raises(BundleError, match=r"a\.engine: what the engine was built for cannot be read"):
        Target.read("a.engine", {**right, **damage})


# --- failures --------------------------------------------------------------------------------------------------------

TENSORRT_FAULTS = (
    "deserialize_cuda_engine",
    "create_execution_context",
    "set_optimization_profile_async",
    "set_tensor_address",
    "set_input_shape",
    "get_tensor_shape",
    "execute_async_v3",
    "is_shape_inference_io",
    "tokens",
)
CUDA_FAULTS = (
    "cudaSetDevice",
    "cudaStreamCreate",
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaMemcpyAsync",
    "cudaStreamSynchronize",
    "cudaGraphLaunch",
)


def used(machine: Machine) -> None:
    engine = machine.engine()
    for _ in range(3):
        engine.log_probs(*pad([np.ones(9_000, np.float32)]))


@pytest.mark.parametrize("call", TENSORRT_FAULTS)
def test_each_refusal_of_tensorrt_is_one_sentence(
    machine: Machine, call: str, one_sentence: Callable[[str], None]
) -> None:
    machine.trt.wrong.add(call)
    with pytest.raises(EngineError) as caught:
        used(machine)
    one_sentence(str(caught.value))
    if call not in ("get_tensor_shape", "is_shape_inference_io", "tokens"):
        assert f"{call} failed" in str(caught.value)


@pytest.mark.parametrize("call", CUDA_FAULTS)
def test_each_error_of_cuda_is_one_sentence_and_frees_what_was_taken(
    machine: Machine, call: str, one_sentence: Callable[[str], None]
) -> None:
    machine.cuda.fail[call] = OUT_OF_MEMORY
    with pytest.raises(EngineError, match=f"CUDA failed in {call} .cudaErrorMemoryAllocation") as caught:
        used(machine)
    one_sentence(str(caught.value))
    del caught
    gc.collect()
    assert not machine.cuda.memory


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_capture_that_fails_is_done_without(
    machine: Machine, waveforms: list[np.ndarray], expected: list[np.ndarray], call: str
) -> None:
    machine.cuda.fail[call] = OUT_OF_MEMORY
    engine = machine.engine()
    for _ in range(3):
        agree(engine.log_probs(*pad(waveforms)), expected)


def test_every_call_to_cuda_can_fail(machine: Machine) -> None:
    """The lists above leave none out."""
    used(machine)
    graphs = {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"}
    releases = {"cudaFree", "cudaFreeHost", "cudaGraphDestroy", "cudaGraphExecDestroy", "cudaStreamDestroy"}
    gc.collect()
    assert set(machine.cuda.calls) - releases == set(CUDA_FAULTS) | graphs


# --- the driver ------------------------------------------------------------------------------------------------------

LIBCUDA = """
#include <string.h>
int cuInit(unsigned flags) { return %(init)d; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = %(count)d; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 8; return 0; }
int cuDeviceGetAttribute(int *value, int kind, int device) { *value = kind == 75 ? 8 : kind == 76 ? 7 : -1; return 0; }
int cuGetErrorString(int code, const char **text) { *text = "no CUDA-capable device"; return 0; }
"""


@pytest.fixture
def libcuda(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Compiles a library with the driver's functions."""

    def made(init: int = 0, count: int = 1, source: str = LIBCUDA) -> str:
        path = tmp_path / f"libcuda-{init}-{count}-{len(source)}.so"
        text = source % {"init": init, "count": count} if "%" in source else source
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
        subprocess.run(command, input=text, text=True, check=True)
        return str(path)

    yield made


def test_the_driver_tells_gpus_and_version(libcuda: Callable[..., str]) -> None:
    found = driver.probe(libcuda(count=2))
    assert found == driver.Driver("12.6", (driver.Gpu("Orin", "8.7", 8),) * 2)


def test_a_driver_that_does_not_work_is_one_sentence(
    libcuda: Callable[..., str], one_sentence: Callable[[str], None]
) -> None:
    for library, message in (
        (libcuda(init=100), r"cuInit: no CUDA-capable device, error 100"),
        (libcuda(count=0), "shows no GPU"),
        (libcuda(source="int nothing;"), "has no cuInit"),
        ("libcuda-none.so", "there is no NVIDIA driver here"),
    ):
        with pytest.raises(EngineError, match=message) as caught:
            driver.probe(library)
        one_sentence(str(caught.value))


@pytest.mark.gpu
def test_the_driver_of_this_machine_answers() -> None:
    try:
        assert driver.probe().gpus[0].memory > 1 << 30
    except AsrError as error:
        pytest.skip(f"{error}")
