"""The scenarios of speed on a bundle that hears tones: every figure is there, adds up, and says what it is of."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen, run
from time import perf_counter, sleep

import numpy as np
import onnx
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from asr_bench import gpu
from asr_bench.machine import Meanwhile, machine
from asr_bench.measure import STARTER, run_child, run_process
from asr_bench.results import METRICS
from asr_bench.scenarios.cold_start import drop_from_cache
from asr_bench.scenarios.memory import join
from asr_bench.scenarios.server import INSIDE, search, serve
from asr_bench.systems import Entry, load
from asr_runtime.errors import AsrError, EngineError

Bench = Callable[..., CompletedProcess[str]]


def seconds_of(manifest: Path) -> float:
    return sum(len(soundfile.read(path)[0]) for path in manifest.parent.glob("*.flac")) / 16000


def result(done: CompletedProcess[str], path: Path) -> dict:
    assert done.returncode == 0, done.stderr
    assert done.stdout == path.with_suffix(".md").read_text()
    assert all(line.startswith("asr-bench: ") for line in done.stderr.splitlines())
    found = json.loads(path.read_text())
    for point in found["points"]:
        assert point["rounds"].keys() <= METRICS.keys()
        assert {len(values) for values in point["rounds"].values()} == {found["rounds"]}
    return found


def test_throughput(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    results = manifest.parent / "results"
    options = ["--threads", 1, "--batch-size", 1, "--batch-size", 3, "--rounds", 2, "--greedy", "--peer", "asr_runtime"]
    done = bench("throughput", tone_bundle, manifest, *options, "--output", results)
    found = result(done, results / "throughput.json")
    assert [(point["key"]["threads"], point["key"]["batch_size"]) for point in found["points"]] == [(1, 1), (1, 3)]
    assert found["audio_seconds"] == pytest.approx(seconds_of(manifest), abs=0.1)
    assert found["options"] == {"greedy": True}
    for point in found["points"]:
        figures = point["rounds"]
        for wall, factor in zip(figures["wall_seconds"], figures["real_time_factor"], strict=True):
            assert factor == pytest.approx(wall / seconds_of(manifest), rel=0.01)
        assert min(figures["peak_mb"]) > 20
        assert (point["rates"]["wer"], point["rates"]["words"]) == (14.29, 7)
        assert point["device_used"].startswith("cpu (ONNX Runtime")
        assert 0 < point["limit"]["share"] < 1
        # Operations as in test_roofline.py over the least time for them: the speed of a core.
        assert 1e9 < 2 * 25 * (56 * 640 + 56 * 29) / point["limit"]["cpu_per_audio_second"] < 1e12
    assert "share of the limit" in done.stdout
    assert "GPU: not measured" in done.stdout or found["machine"]["gpu"] != "not measured"


def test_latency_of_one_stream_and_of_a_server(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    results = manifest.parent / "results"
    options = ["--rounds", 1, "--greedy", "--peer", "asr_runtime", "--requests", 20, "--workers", 2, "--bound", 5]
    done = bench("latency", tone_bundle, manifest, *options, "--output", results)
    points = result(done, results / "latency.json")["points"]
    single = [point for point in points if "pass" in point["key"]]
    assert [(point["key"]["audio"], point["key"]["pass"]) for point in single] == [
        ("0–3 s", "new shape"),
        ("0–3 s", "warm"),
    ]
    assert [point["recordings"] for point in single] == [3, 3]
    for point in single:
        p50, p90, p99 = (point["rounds"][f"p{name}_ms"][0] for name in (50, 90, 99))
        assert 0 < p50 <= p90 <= p99
    (served,) = [point for point in points if "bound_s" in point["key"]]
    assert served["key"]["threads"] == 2
    tries = {each["rate"]: each["inside"] for each in served["tries"]}
    assert served["rounds"]["rate"][0] in [pytest.approx(rate, rel=1e-3) for rate in tries if tries[rate] >= INSIDE]


def test_cold_start(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    results = manifest.parent / "results"
    done = bench("cold-start", tone_bundle, manifest, "--rounds", 1, "--greedy", "--output", results)
    kept, dropped = result(done, results / "cold-start.json")["points"]
    assert (kept["key"]["bundle"], dropped["key"]["bundle"]) == ("in memory", "on the disk")
    figures = {name: values[0] for name, values in kept["rounds"].items()}
    assert figures["wall_seconds"] > figures["interpreter_seconds"] > 0
    assert figures["import_seconds"] > 0 < figures["load_seconds"]
    assert figures["peak_mb"] > 20


def test_memory(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    results = manifest.parent / "results"
    done = bench("memory", tone_bundle, manifest, "--seconds", "2,30", "--greedy", "--output", results)
    points = result(done, results / "memory.json")["points"]
    assert [point["key"]["audio_seconds"] for point in points] == [2, 30]
    for point in points:
        assert point["rounds"]["peak_mb"][0] >= point["rounds"]["loaded_mb"][0] > 20


def test_pocketsphinx_and_torch_beside(
    bench: Bench, checkpoint_bundle: tuple[Path, Path], tiny_manifest: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pocketsphinx")
    bundle, checkpoint = checkpoint_bundle
    options = ["--threads", 1, "--batch-size", 2, "--rounds", 1, "--greedy", "--files", 2, "--output", tmp_path]
    done = bench(
        "throughput", bundle, tiny_manifest, *options, "--peer", "pocketsphinx", "--peer", f"torch={checkpoint}"
    )
    points = result(done, tmp_path / "throughput.json")["points"]
    assert [point["key"]["system"] for point in points] == ["asr_runtime", "pocketsphinx", "torch"]
    assert [point["key"]["batch_size"] for point in points] == [2, 1, 2]  # pocketsphinx knows no batches
    assert points[0]["rates"] == points[2]["rates"]  # the same weights hear the same
    assert points[1]["device_used"].startswith("cpu (pocketsphinx")
    assert "eager" in points[2]["device_used"]


def test_a_plain_loop_beside(bench: Bench, tone_bundle: Path, manifest: Path, tmp_path: Path) -> None:
    options = ["--threads", 1, "--threads", 2, "--batch-size", 2, "--rounds", 1, "--output", tmp_path]
    done = bench("throughput", tone_bundle, manifest, *options, "--peer", f"plain-loop={tone_bundle}")
    points = result(done, tmp_path / "throughput.json")["points"]
    assert [(point["key"]["system"], point["key"]["threads"]) for point in points] == [
        ("asr_runtime", 1),
        ("asr_runtime", 2),
        ("plain-loop", 1),
        ("plain-loop", 2),
    ]
    assert all(point["rates"] == points[0]["rates"] for point in points)  # the same model hears the same


@pytest.fixture
def nemo_model(tmp_path: Path) -> Path:
    """A CTC model in NeMo's format that hears "ca" in everything, with the files that both readers of it want."""
    nodes = [
        helper.make_node("Conv", ["audio_signal", "weights", "bias"], ["channels"], strides=[8]),
        helper.make_node("Transpose", ["channels"], ["frames"], perm=[0, 2, 1]),
        helper.make_node("LogSoftmax", ["frames"], ["logprobs"], axis=-1),
    ]
    inputs = [
        helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, ["batch", 80, "frames"]),
        helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, ["batch", "steps", 3])]
    weights = {"weights": np.zeros((3, 80, 1), np.float32), "bias": np.array([5, 0, 0], np.float32)}
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "nemo", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    told = {"vocab_size": "2", "normalize_type": "per_feature", "subsampling_factor": "8"}
    helper.set_model_props(model, {**told, "model_type": "EncDecCTCModelBPE"})
    folder = tmp_path / "nemo"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    for name in ("vocab.txt", "tokens.txt"):
        (folder / name).write_text("▁ca 0\nt 1\n<blk> 2\n", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "nemo-conformer-ctc", "features_size": 80}')
    return folder


@pytest.mark.parametrize(("peer", "package"), [("onnx-asr", "onnx_asr"), ("sherpa-onnx", "sherpa_onnx")])
def test_peers_with_a_model_in_a_folder(
    peer: str, package: str, nemo_model: Path, spell: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    pytest.importorskip(package)
    files = []
    for number, text in enumerate(["hello", "world wide", "web"]):
        files.append(str(tmp_path / f"{number}.flac"))
        soundfile.write(files[-1], spell(text), 16000)
    (setting,) = Entry(peer).settings(["cpu"], [], [2], [2])
    system = load(Entry(peer, str(nemo_model)).request(setting))
    assert list(system.texts(files)) == ["ca"] * 3
    assert system.device.startswith(f"cpu ({peer} ")
    for name in ("tokens.txt", "config.json"):
        (nemo_model / name).unlink()
    with pytest.raises(EngineError, match=r"tokens\.txt: there is no such file|no config\.json"):
        load(Entry(peer, str(nemo_model)).request(setting))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--peer", "hal"], "got the peer 'hal'; wanted one of asr_runtime, torch"),
        (["--peer", "torch"], "got 'torch'; wanted torch=CHECKPOINT"),
        (["--peer", "torch=absent"], "got 'torch=absent'; wanted torch=CHECKPOINT"),
        (["--device", "abacus"], "device 'abacus' is not known"),
        (["--precision", "int3"], "has no ONNX model in int3"),
    ],
)
def test_one_sentence_where_it_cannot_measure(
    bench: Bench, tone_bundle: Path, manifest: Path, options: list[str], said: str
) -> None:
    done = bench("throughput", tone_bundle, manifest, "--peer", "asr_runtime", *options, cwd=manifest.parent)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_greedy_and_a_beam_do_not_go_together(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    done = bench("memory", tone_bundle, manifest, "--greedy", "--beam-size", 5, cwd=manifest.parent)
    assert done.returncode == 2
    assert "greedy decoding has no beam" in " ".join(done.stderr.split())


# --- the instruments ----------------------------------------------------------------------------------------------


def test_a_process_is_counted_alone() -> None:
    here = np.ones(40_000_000)  # 320 MB in this process must not be counted in that one
    small = run_process(["-S", "-c", "print('hello')"])
    large = run_process(["-S", "-c", "x = bytearray(200_000_000)"])
    busy = run_process(["-S", "-c", "for _ in range(3_000_000): pass"])
    assert small.output.strip() == "hello"
    assert small.peak_mb < 60 < 200 < large.peak_mb < 260
    assert 0 < small.cpu < busy.cpu <= busy.wall * 1.5
    assert len(here)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_measured_ends_with_the_benchmark(
    tone_bundle: Path, manifest: Path, number: signal.Signals, code: int
) -> None:
    options = ["--rounds", "1000", "--greedy", "--peer", "asr_runtime", "--output", str(manifest.parent / "results")]
    command = ["-c", "from asr_bench.cli import main; main()", "throughput", str(tone_bundle), str(manifest), *options]
    with Popen([sys.executable, *command], stderr=PIPE, stdout=PIPE, text=True) as process:
        assert process.stderr
        assert "round 1 of 1000" in process.stderr.readline()
        process.send_signal(number)
        # The measured process has standard error, too: it ends only when that has ended.
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said


def test_a_process_that_nobody_asks_or_waits_for_ends_in_silence() -> None:
    unasked = run([sys.executable, "-m", "asr_bench.scenarios.throughput"], input="", capture_output=True, text=True)
    assert (unasked.returncode, unasked.stdout, unasked.stderr) == (1, "", "")
    unread, end = os.pipe()
    os.close(unread)
    command = [sys.executable, "-S", "-c", STARTER, str(os.getpid()), sys.executable, "-c", ""]
    assert run(command, stdout=end, stderr=PIPE, start_new_session=True).stderr == b""
    os.close(end)


def test_standard_input_reaches_the_process() -> None:
    assert run_process(["-c", "print(input() + '!')"], "given").output.strip() == "given!"


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(AsrError, match="ended with code 3"):
        run_process(["-c", "import sys; sys.exit(3)"])


def test_what_a_library_prints_does_not_spoil_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noisy.py").write_text(
        "import os\n"
        "from asr_bench.measure import answer_request\n"
        "def answer(request):\n"
        "    print('noise'); os.system('echo more noise')\n"
        "    return {'twice': 2 * request['number']}\n"
        "answer_request(answer)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_child("noisy", {"number": 4})[0] == {"twice": 8}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/stat")
def test_what_others_do_meanwhile_is_told_apart() -> None:
    watch = Meanwhile()
    end = perf_counter() + 0.5
    while perf_counter() < end:  # own work does not count
        pass
    cores = watch.cores()
    assert cores is not None
    assert 0 <= cores <= (os.cpu_count() or 1)


def test_the_machine_is_described() -> None:
    found = machine()
    assert found["cores"] >= 1
    assert found["power"]
    assert found["versions"]["numpy"] == np.__version__
    json.dumps(found)


def test_without_a_gpu_nothing_is_measured() -> None:
    if gpu.describe() != gpu.NOT_MEASURED:
        pytest.skip("there is a GPU")
    with gpu.watched() as figures:
        pass
    assert figures == {}


@pytest.mark.gpu
def test_a_gpu_is_watched() -> None:
    if gpu.describe() == gpu.NOT_MEASURED:
        pytest.skip("no GPU, or no nvidia-ml-py")
    assert gpu.describe()["memory_mb"] > 0
    with gpu.watched() as figures:
        sleep(0.5)
    assert figures["gpu_samples"] >= 2
    assert figures["gpu_memory_mb"] > 0


def test_recordings_are_joined_to_the_sample(manifest: Path) -> None:
    files = [str(path) for path in sorted(manifest.parent.glob("*.flac"))]
    joined, rate = soundfile.read(join(files, 10.5, manifest.parent / "joined.wav"))
    assert (len(joined), rate) == (168_000, 16000)
    first = soundfile.read(files[0])[0]
    np.testing.assert_allclose(joined[: len(first)], first, atol=1e-4)


def test_a_dropped_bundle_can_still_be_read(tone_bundle: Path) -> None:
    before = {path: path.read_bytes() for path in tone_bundle.iterdir()}
    drop_from_cache(tone_bundle)
    assert {path: path.read_bytes() for path in tone_bundle.iterdir()} == before


# --- the server ---------------------------------------------------------------------------------------------------


def test_a_server_counts_from_the_arrival() -> None:
    lock = threading.Lock()

    def transcribe(file: str) -> None:
        with lock:
            sleep(0.2)

    arrivals = np.array([0.0, 0.0, 0.0, 1.6])
    latencies = serve(transcribe, ["a"] * 4, arrivals, workers=2)
    # Three at once wait for each other; the last comes to a server that rests.
    assert np.sort(latencies[:3]) == pytest.approx([0.2, 0.4, 0.6], abs=0.18)  # a busy machine adds some
    assert latencies[3] == pytest.approx(0.2, abs=0.18)


@given(st.floats(0.001, 0.099) | st.floats(0.11, 2.0))
def test_the_search_finds_the_edge(edge: float) -> None:
    rate, tries = search(lambda rate: {"rate": rate, "inside": 1.0 if rate <= edge else 0.5}, most=1.0)
    assert len(tries) == 6
    assert rate == 0.0 if edge < 0.1 else 0.95 * min(edge, 1.0) <= rate <= edge
