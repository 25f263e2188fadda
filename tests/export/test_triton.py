"""`to-triton`: the files are what Triton's own schema takes, and its Python model makes text of waveforms."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from asr_export.cli import app
from asr_export.pack import add_language_model
from asr_export.triton import Settings, to_triton
from asr_runtime import load
from asr_runtime.bundle import Bundle, NewFile, update_bundle, write_bundle
from asr_runtime.errors import AsrError, ExportError

pytest.importorskip("tritonclient", reason="Triton's schema of configurations is in the package tritonclient")
from triton_backend import Server, read_config

RATE = 16000
NAMES = ("tones", "tones-acoustic")
ENGINE = {
    "library": "tensorrt",
    "version": "10.16.1.11",
    "compute_capabilities": ["8.9"],
    "profiles": [
        {"batch": [1, 1, 1], "samples": [1600, 16000, 32000]},
        {"batch": [1, 8, 8], "samples": [1600, 160000, 320000]},
    ],
    "hardware": "none",
    "version_compatible": False,
}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Server]]:
    """Starts a server of a repository, whose module the Python models import."""
    models = []

    def start(repository: Path) -> Server:
        server = Server(repository)
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server.module)
        monkeypatch.delitem(sys.modules, "asr_runtime.triton", raising=False)
        load_model = server.load

        def remembered(name: str) -> Any:
            models.append(load_model(name))
            return models[-1]

        server.load = remembered  # type: ignore[method-assign]
        return server

    yield start
    for model in models:
        model.finalize()
    sys.modules.pop("asr_runtime.triton", None)


@pytest.fixture
def repository(tone_bundle: Path, tmp_path: Path) -> Path:
    assert to_triton(tone_bundle, tmp_path / "models", Settings()) == NAMES
    return tmp_path / "models"


def with_engine(tone_bundle: Path, folder: Path, **changes: Any) -> Path:
    """The bundle with an engine file whose content nobody reads."""
    bundle = Bundle.load(tone_bundle)
    files = [
        NewFile(source=bundle.path(file), role=file.role, engine=file.engine, precision=file.precision)
        for file in bundle.files
    ]
    write_bundle(folder / "bundle", bundle, files)
    (folder / "model.plan").write_bytes(b"engine")
    engine = NewFile(
        source=folder / "model.plan", role="model", engine="tensorrt", precision="fp16", target={**ENGINE, **changes}
    )
    update_bundle(folder / "bundle", [engine])
    return folder / "bundle"


def test_the_configurations_are_by_tritons_schema(repository: Path) -> None:
    asked, served = (read_config(repository / name) for name in NAMES)
    assert asked.backend == "python"
    assert asked.HasField("dynamic_batching")
    assert asked.input[0].allow_ragged_batch  # recordings of other lengths join a batch
    assert (served.backend, served.default_model_filename) == ("onnxruntime", "model.onnx")
    assert served.HasField("dynamic_batching")
    assert [each.batch_size for each in served.model_warmup] == [1, 16]
    assert sorted(path.name for path in repository.iterdir()) == sorted(NAMES)  # nothing else is left


def test_waveforms_of_all_lengths_become_the_texts_that_asr_run_gives(
    repository: Path, serve: Callable[[Path], Server], spell: Callable[[str], np.ndarray], tone_bundle: Path
) -> None:
    server = serve(repository)
    waveforms = [spell(text) for text in ("cat", "a dog ran", "hi there")]
    waveforms.append(np.tile(spell("so it goes "), 20))  # 27 s: more than one window
    found = server.infer(server.load("tones"), "tones", [{"waveform": each[None]} for each in waveforms])
    expected = [load(tone_bundle).transcribe(each, RATE) for each in waveforms]
    assert expected[1].text == "a dog ran"
    assert [each["text"][0, 0].decode() for each in found] == [each.text for each in expected]
    said = json.loads(found[1]["transcript"][0, 0])
    assert [word["start"] for word in said["words"]] == [word.start for word in expected[1].words]
    assert said["device"] == "triton"
    batches = server.models["tones-acoustic"].batches
    assert max(batch for batch, _ in batches) > 1  # together
    assert all(samples % RATE == 0 for _, samples in batches)  # few shapes


def test_a_padded_batch_in_one_request(
    repository: Path, serve: Callable[[Path], Server], spell: Callable[[str], np.ndarray]
) -> None:
    server = serve(repository)
    long, short = spell("long words"), spell("hi")
    padded = np.stack([long, np.r_[short, np.full(len(long) - len(short), 0.5)].astype(np.float32)])
    lengths = np.array([[len(long)], [len(short)]])
    (found,) = server.infer(server.load("tones"), "tones", [{"waveform": padded, "lengths": lengths}])
    assert found["text"].tolist() == [[b"long words"], [b"hi"]]


def test_a_request_that_cannot_be_heard_leaves_the_others_alone(
    repository: Path,
    serve: Callable[[Path], Server],
    spell: Callable[[str], np.ndarray],
    one_sentence: Callable[[str], None],
) -> None:
    server = serve(repository)
    good = spell("good")[None]
    too_long = {"waveform": good, "lengths": np.array([[good.shape[1] + 1]])}
    no_numbers = {"waveform": np.full_like(good, np.nan)}
    found = server.infer(server.load("tones"), "tones", [too_long, {"waveform": good}, no_numbers])
    assert found[1]["text"].tolist() == [[b"good"]]
    for error in (found[0], found[2]):
        one_sentence(error)
    assert "lengths" in found[0]


def test_a_model_that_fails_is_one_sentence_in_each_response_and_the_next_request_works(
    repository: Path, serve: Callable[[Path], Server], spell: Callable[[str], np.ndarray]
) -> None:
    server = serve(repository)
    model, served = server.load("tones"), server.models["tones-acoustic"]
    requests = [{"waveform": spell(text)[None]} for text in ("a", "bc")]
    session, served.session = served.session, None  # type: ignore[assignment]
    for error in server.infer(model, "tones", requests):
        assert "tones-acoustic failed in Triton" in error
    served.session = session
    assert [each["text"].tolist() for each in server.infer(model, "tones", requests)] == [[[b"a"]], [[b"bc"]]]


def test_the_language_model_goes_along(
    tone_bundle: Path, tmp_path: Path, arpa: Path, serve: Callable[[Path], Server], cat_or_cut: np.ndarray
) -> None:
    bundle = with_engine(tone_bundle, tmp_path)
    add_language_model(bundle, arpa, decoder={"alpha": 2.0})
    to_triton(bundle, tmp_path / "models", Settings())
    server = serve(tmp_path / "models")
    (found,) = server.infer(server.load("tones"), "tones", [{"waveform": cat_or_cut[None]}])
    assert found["text"].tolist() == [[b"cat"]]
    packed = {file.role for file in Bundle.load(tmp_path / "models/tones/1/bundle").files}
    assert packed == {"language_model", "card"}  # the model itself lies there once


def test_an_engine_is_served_with_its_own_limits(tone_bundle: Path, tmp_path: Path) -> None:
    bundle = with_engine(tone_bundle, tmp_path)
    engine = next(file.path for file in Bundle.load(bundle).files if file.engine == "tensorrt")
    to_triton(bundle, tmp_path / "models", Settings(file=engine))
    served = read_config(tmp_path / "models/tones-acoustic")
    assert (served.backend, served.max_batch_size) == ("tensorrt", 8)
    assert list(served.instance_group[0].profile) == ["1"]  # the one for batches
    assert not served.parameters
    assert (tmp_path / "models/tones-acoustic/1/model.plan").read_bytes() == b"engine"
    assert read_config(tmp_path / "models/tones").max_batch_size == 8


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"library": "tensorrt-rtx"}, "TensorRT-RTX"),
        ({"profiles": [{"batch": [1, 8, 8], "samples": [1600, 16000, 160000]}]}, "--max-seconds 20"),
    ],
)
def test_an_engine_that_would_fail_there_is_refused(
    tone_bundle: Path, tmp_path: Path, changes: dict[str, Any], fault: str, one_sentence: Callable[[str], None]
) -> None:
    bundle = with_engine(tone_bundle, tmp_path, **changes)
    with pytest.raises(AsrError, match=fault) as caught:
        to_triton(bundle, tmp_path / "models", Settings(file="model.plan"))
    one_sentence(str(caught.value))
    assert not (tmp_path / "models").exists()


def test_nothing_is_overwritten_unasked(repository: Path, tone_bundle: Path) -> None:
    (repository / "another").mkdir()
    before = (repository / "tones" / "config.pbtxt").read_text()
    with pytest.raises(ExportError, match="lies here already"):
        to_triton(tone_bundle, repository, Settings(max_batch=4))
    assert (repository / "tones" / "config.pbtxt").read_text() == before
    to_triton(tone_bundle, repository, Settings(max_batch=4), force=True)
    assert read_config(repository / "tones").max_batch_size == 4
    assert sorted(path.name for path in repository.iterdir()) == ["another", *NAMES]
    with pytest.raises(ExportError, match="no model of Triton"):
        to_triton(tone_bundle, repository, Settings(name="another"), force=True)


@pytest.mark.parametrize(
    "wrong",
    [["--name", "a b"], ["--max-batch", "0"], ["--model", "none.onnx"], ["--instances", "99"], ["--delay", "-1"]],
)
def test_wrong_options_are_one_sentence(tone_bundle: Path, tmp_path: Path, wrong: list[str]) -> None:
    result = CliRunner().invoke(app, ["to-triton", str(tone_bundle), str(tmp_path / "models"), *wrong])
    assert isinstance(result.exception, AsrError), result.output
    assert not (tmp_path / "models").exists()


def test_the_command_says_what_it_wrote(tone_bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["to-triton", str(tone_bundle), str(tmp_path / "models"), "--name", "english"])
    assert result.exit_code == 0, result.output
    assert "english and english-acoustic" in result.output
