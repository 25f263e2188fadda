"""Folders as onnx-asr and sherpa-onnx have them, with small models that learn here to hear tones as word pieces."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx.numpy_helper import from_array
from onnxruntime.quantization import quantize_dynamic
from torch import Tensor, nn
from torch.nn import functional as F

import asr_runtime
import asr_runtime.verify
from asr_export.cli import main
from asr_export.importers.nemo_front_end import NemoFrontEnd, settings
from asr_runtime.bundle import Bundle

PIECES = ["<unk>", "▁the", "▁c", "at", "▁d", "og", "s", "▁"]
CHARACTERS = [*"abcdef", " "]
SENTENCES = {"the cat": [1, 2, 3], "the dogs": [1, 4, 5, 6], "cats dog": [2, 3, 6, 4, 5]}
RATE = 16_000


class SmallCtc(nn.Module):
    """What NeMo's exports look like from outside; with `masks` its convolutions do not hear padding."""

    def __init__(self, mels: int, tokens: int, masks: bool) -> None:
        super().__init__()
        self.masks = masks
        self.first, self.second = nn.Conv1d(mels, 32, 3, 2, 1), nn.Conv1d(32, 32, 3, 2, 1)
        self.output = nn.Conv1d(32, tokens, 1)

    def forward(self, audio_signal: Tensor, length: Tensor | None = None) -> Tensor:
        x = self.keep(F.relu(self.first(audio_signal)), length, 2)
        x = self.keep(F.relu(self.second(x)), length, 4)
        return self.output(x).transpose(1, 2).log_softmax(-1)

    def keep(self, x: Tensor, length: Tensor | None, factor: int) -> Tensor:
        if not self.masks:
            return x
        frames = (length + factor - 1) // factor
        return x * (torch.arange(x.shape[2])[None] < frames[:, None])[:, None]


def in_tones(numbers: list[int], seed: int = 0) -> np.ndarray:
    """120 ms of a tone for each token and 80 ms of nothing, over some noise."""
    rng, time = np.random.default_rng(seed), np.arange(RATE * 12 // 100) / RATE
    gap, fade = np.zeros(RATE * 8 // 100), 0.3 * np.minimum(1, np.minimum(time, time[::-1]) / 0.02)
    parts = [np.concatenate([gap, fade * np.sin(2 * np.pi * (400 + 450 * n) * time)]) for n in numbers]
    samples = np.concatenate([*parts, gap])
    return (samples + rng.normal(0, 0.01, len(samples))).astype(np.float32)


def trained(mels: int, tokens: int, masks: bool, window: float = 0.025) -> SmallCtc:
    """A model that hears tones, after some hundred steps."""
    torch.manual_seed(5)
    front_end, model = NemoFrontEnd(settings(mels, window, True)), SmallCtc(mels, tokens, masks)
    batches = [lesson(front_end, tokens, count) for count in (1, 3, 4, 5, 8, 12)]
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(240):
        features, frames, labels = batches[step % len(batches)]
        loss = F.nll_loss(model(features, frames).transpose(1, 2), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def lesson(front_end: NemoFrontEnd, tokens: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features [16, mels, frames], frames, and the token of each frame out [16, frames out] of texts of one length."""
    texts = np.random.default_rng(count).integers(0, tokens - 1, (16, count))
    waveform = torch.from_numpy(np.stack([in_tones(text.tolist(), seed) for seed, text in enumerate(texts)]))
    with torch.no_grad():
        features, frames = front_end(waveform, torch.full((16,), waveform.shape[1]))
    centres = (torch.arange(-(-features.shape[1] // 4)) * 0.04)[None]
    number, within = (centres / 0.2).long().clamp(max=count - 1), centres % 0.2
    spoken = torch.from_numpy(texts).gather(1, number.expand(16, -1))
    return features.transpose(1, 2), frames, torch.where(within > 0.08, spoken, tokens - 1)


def as_onnx(model: SmallCtc, mels: int, metadata: dict[str, str] | None = None, opset: int = 17) -> onnx.ModelProto:
    """The model as torch's exporter writes it, under NeMo's names."""
    file, inputs = io.BytesIO(), (torch.randn(2, mels, 64), torch.tensor([64, 50]))
    names, axes = ["audio_signal", "length"], {"audio_signal": {0: "b", 2: "t"}, "logprobs": {0: "b", 1: "u"}}
    if not model.masks:
        inputs, names = inputs[:1], names[:1]
    else:
        axes["length"] = {0: "b"}
    options = {"input_names": names, "output_names": ["logprobs"], "dynamic_axes": axes, "opset_version": opset}
    torch.onnx.export(model, inputs, file, dynamo=False, **options)
    made = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(made, metadata or {})
    return made


pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.fixture(scope="module")
def onnx_asr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, vocab.txt with the blank last, config.json, README.md with the licence."""
    folder = tmp_path_factory.mktemp("hub") / "small-ctc"
    folder.mkdir()
    onnx.save(as_onnx(trained(80, 9, True), 80), folder / "model.onnx")
    lines = [f"{token} {number}\n" for number, token in enumerate([*PIECES, "<blk>"])]
    (folder / "vocab.txt").write_text("".join(lines), encoding="utf-8")
    config = {"model_type": "nemo-conformer-ctc", "features_size": 80, "subsampling_factor": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-4.0\n---\n# Small\n")
    return folder


@pytest.fixture(scope="module")
def sherpa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx that describes itself and cannot be told lengths, as QuartzNet; characters with the space."""
    folder = tmp_path_factory.mktemp("sherpa") / "quartz"
    folder.mkdir()
    said = {
        "vocab_size": "7",
        "normalize_type": "per_feature",
        "subsampling_factor": "4",
        "model_type": "EncDecCTCModel",
    }
    onnx.save(as_onnx(trained(64, 8, False, window=0.02), 64, said), folder / "model.onnx")
    lines = [f"{token} {number}\n" for number, token in enumerate([*CHARACTERS, "<blk>"])]
    (folder / "tokens.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def bundles(onnx_asr_folder: Path, sherpa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundles")
    assert call("import-onnx", str(onnx_asr_folder), str(made / "pieces")) == 0
    assert call("import-onnx", str(sherpa_folder / "model.onnx"), str(made / "characters.asr")) == 0
    return made


def call(*arguments: str) -> int:
    kept, sys.argv = sys.argv, ["asr-export", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = kept
    return 0


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for seed, (text, numbers) in enumerate(SENTENCES.items()):
        made[text] = tmp_path / f"{seed}.wav"
        soundfile.write(made[text], in_tones(numbers, seed), RATE)
    return made


def test_a_folder_of_onnx_asr_becomes_a_bundle_that_says_where_it_came_from(bundles: Path) -> None:
    bundle = Bundle.load(bundles / "pieces")
    assert (bundle.name, bundle.licence, bundle.padding) == ("small-ctc", "cc-by-4.0", True)
    assert bundle.tokens == (*PIECES, "")
    assert bundle.frame_seconds == 0.04
    origin = bundle.provenance["import"]
    assert (origin["kind"], origin["mels"], origin["window_seconds"]) == ("onnx", 80, 0.025)
    figures = bundle.proofs["model.onnx"]["log_probs"]
    assert 0 < figures["max_difference"] <= figures["tolerance"]
    assert figures["original"] == "the ONNX file"
    assert figures["padding"] is True


def test_a_file_in_8_bits_is_judged_by_its_best_tokens(
    onnx_asr_folder: Path, tmp_path: Path, recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    shutil.copytree(onnx_asr_folder, folder)
    quantize_dynamic(folder / "model.onnx", folder / "model.int8.onnx")
    assert call("import-onnx", str(folder / "model.int8.onnx"), str(tmp_path / "b")) == 0
    assert "of frames have another best token" in capsys.readouterr().out
    bundle = Bundle.load(tmp_path / "b")
    assert [file.precision for file in bundle.files if file.role == "model"] == ["int8"]
    assert not bundle.padding  # what neighbours change cannot be told from rounding
    assert bundle.proofs["model.onnx"]["log_probs"]["frames_changed"] <= 0.1
    recognizer = asr_runtime.load(tmp_path / "b", greedy=True)
    assert {text: recognizer.transcribe(path).text for text, path in recordings.items()} == {t: t for t in SENTENCES}
    assert call("verify", str(tmp_path / "b"), "--against", str(folder / "model.int8.onnx")) == 0
    (outcome,) = asr_runtime.verify.verify(bundle)
    assert outcome.passed
    assert outcome.tolerance is None


def with_small_weights(model: onnx.ModelProto, **attributes: int) -> onnx.ModelProto:
    """The model with a product behind it whose weights, those of the identity, have 4 bits."""
    last, tokens = model.graph.node[-1], len(PIECES) + 1
    assert last.output[0] == "logprobs"
    last.output[0] = "before"
    weights = np.full((tokens, 16), 8, np.uint8)  # 8 is zero
    weights[np.arange(tokens), np.arange(tokens)] = 15
    packed = (weights[:, ::2] | weights[:, 1::2] << 4)[:, None]
    scales = np.full(tokens, 1 / 7, np.float32)
    model.graph.initializer.extend([from_array(packed, "weights"), from_array(scales, "scales")])
    shape = {"K": tokens, "N": tokens, "bits": 4, "block_size": 16, **attributes}
    inputs = ["before", "weights", "scales"]
    product = onnx.helper.make_node("MatMulNBits", inputs, ["after"], domain="com.microsoft", **shape)
    model.graph.node.extend([product, onnx.helper.make_node("LogSoftmax", ["after"], ["logprobs"], axis=-1)])
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.parametrize(("level", "precision"), [(0, "fp32"), (4, "int8")])
def test_weights_of_4_bits_have_the_strict_tolerance_unless_activations_are_rounded_too(
    onnx_asr_folder: Path, tmp_path: Path, level: int, precision: str
) -> None:
    folder = tmp_path / "small"
    shutil.copytree(onnx_asr_folder, folder)
    model = with_small_weights(onnx.load(folder / "model.onnx"), accuracy_level=level)
    onnx.save(model, folder / "model.onnx")
    assert call("import-onnx", str(folder), str(tmp_path / "b")) == 0
    bundle = Bundle.load(tmp_path / "b")
    assert [file.precision for file in bundle.files if file.role == "model"] == [precision]
    assert bundle.padding is (precision == "fp32")
    assert (bundle.proofs["model.onnx"]["log_probs"]["tolerance"] < 1e-3) is (precision == "fp32")


def test_verify_measures_again_and_compares_texts(
    onnx_asr_folder: Path,
    bundles: Path,
    recordings: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [json.dumps({"audio": str(path), "text": text.upper()}) for text, path in recordings.items()]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    command = ["verify", str(bundles / "pieces"), "--against", str(onnx_asr_folder)]
    assert call(*command, "--manifest", str(tmp_path / "m.jsonl")) == 0
    said = capsys.readouterr().out
    assert "differ from the ONNX file's by at most" in said
    for way in ("greedy", "beam_search"):
        assert f"{way}: 0 of {len(lines)} texts differ from the ONNX file's, WER 0.00 %" in said


def test_asr_run_reads_word_pieces_by_beam_search(bundles: Path, recordings: dict[str, Path]) -> None:
    command = [Path(sys.executable).parent / "asr-run", "--model", bundles / "pieces", "--batch-size", "3"]
    done = subprocess.run([*command, *recordings.values()], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [f"{path}\t{text}" for text, path in recordings.items()], done.stderr


@pytest.mark.parametrize("greedy", [True, False])
def test_words_have_times(bundles: Path, recordings: dict[str, Path], greedy: bool) -> None:
    transcript = asr_runtime.load(bundles / "pieces", greedy=greedy).transcribe(recordings["the dogs"])
    assert [word.word for word in transcript.words] == ["the", "dogs"]
    assert transcript.words[1].start == pytest.approx(0.28, abs=0.06)


def test_texts_are_those_of_onnx_asr(onnx_asr_folder: Path, recordings: dict[str, Path]) -> None:
    onnx_asr = pytest.importorskip("onnx_asr", reason="onnx-asr is not installed")
    theirs = onnx_asr.load_model("nemo-conformer-ctc", onnx_asr_folder)
    for text, path in recordings.items():
        assert theirs.recognize(path).strip() == text


def test_a_model_without_lengths_is_marked_and_run_without_padding(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.load(bundles / "characters.asr")
    assert bundle.padding is False
    assert bundle.tokens == (*CHARACTERS, "")
    assert bundle.provenance["import"]["window_seconds"] == 0.02
    assert bundle.proofs["model.onnx"]["log_probs"]["padding"] is False
    spoken = ["bad cafe", "a", "fed bee", "bad cafe"]
    sizes = [(in_tones([CHARACTERS.index(letter) for letter in text], i), RATE) for i, text in enumerate(spoken)]
    alone, together = (asr_runtime.load(bundles / "characters.asr", batch_size=size, threads=1) for size in (1, 4))
    texts = [each.text for each in together.transcribe(sizes)]
    assert texts == [each.text for each in alone.transcribe(sizes)]
    assert texts[0] == texts[3] == "bad cafe"
    assert call("inspect", str(bundles / "characters.asr")) == 0
    assert "no padding" in capsys.readouterr().out


def test_a_graph_with_masks_that_leak_is_found_out(tmp_path: Path, sherpa_folder: Path) -> None:
    """The lengths are an input, but nothing uses them: only measuring shows it."""
    model = onnx.load(sherpa_folder / "model.onnx")
    model.graph.input.append(onnx.helper.make_tensor_value_info("length", onnx.TensorProto.INT64, ["b"]))
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "tokens.txt").write_bytes((sherpa_folder / "tokens.txt").read_bytes())
    assert call("import-onnx", str(tmp_path), str(tmp_path / "bundle"), "--name", "leaks") == 0
    assert Bundle.load(tmp_path / "bundle").padding is False


def test_an_older_operator_set_is_converted(tmp_path: Path, onnx_asr_folder: Path, recordings: dict[str, Path]) -> None:
    onnx.save(as_onnx(trained(80, 9, True), 80, opset=13), tmp_path / "model.onnx")
    (tmp_path / "list").write_bytes((onnx_asr_folder / "vocab.txt").read_bytes())
    options = ["--tokens", str(tmp_path / "list"), "--name", "old", "--licence", "MIT", "--source", "here"]
    assert call("import-onnx", str(tmp_path / "model.onnx"), str(tmp_path / "bundle"), *options) == 0
    made = Bundle.load(tmp_path / "bundle")
    assert (made.name, made.licence, made.provenance["import"]["source"]) == ("old", "MIT", "here")
    assert made.provenance["import"]["subsampling_factor"] == 4  # measured: no file says it
    for text, path in recordings.items():
        assert asr_runtime.load(tmp_path / "bundle").transcribe(path).text == text


def test_weights_in_a_file_beside_the_model_go_into_the_bundle(onnx_asr_folder: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_asr_folder / "model.onnx")
    options = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    onnx.save(model, tmp_path / "model.onnx", **options)
    (tmp_path / "vocab.txt").write_bytes((onnx_asr_folder / "vocab.txt").read_bytes())
    assert call("import-onnx", str(tmp_path), str(tmp_path / "bundle")) == 0
    assert [file.path for file in Bundle.load(tmp_path / "bundle").files] == ["model.onnx", "check.json"]


def test_without_normalisation_features_are_as_they_are(onnx_asr_folder: Path, tmp_path: Path) -> None:
    assert call("import-onnx", str(onnx_asr_folder), str(tmp_path / "b"), "--normalise", "none") == 0
    assert Bundle.load(tmp_path / "b").provenance["import"]["normalise"] == "none"


Change = Callable[[Path], object]


def rewrite(name: str, change: Callable[[str], str]) -> Change:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


REFUSED: list[tuple[Change, list[str], str]] = [
    (lambda folder: (folder / "model.onnx").unlink(), [], "there is no plain file here"),
    (lambda folder: (folder / "vocab.txt").unlink(), [], "give the model's list of tokens with --tokens"),
    (rewrite("vocab.txt", lambda text: text + "more 9\n"), [], "got 10 tokens, wanted 9"),
    (rewrite("vocab.txt", lambda text: text.replace("<blk>", "blk")), [], "no token is the blank"),
    (rewrite("vocab.txt", lambda text: text.replace("og 5", "og 4")), [], "the numbers are not 0 to 8"),
    (rewrite("vocab.txt", lambda text: text.replace("og", "at")), [], "stands twice"),
    (rewrite("config.json", lambda _: "{"), [], "this is no JSON"),
    (rewrite("config.json", lambda text: text.replace("ctc", "tdt")), [], "wanted one of NeMo with CTC"),
    (
        rewrite("config.json", lambda text: text.replace('"subsampling_factor": 4', '"subsampling_factor": 2')),
        [],
        "correct",
    ),
    (rewrite("config.json", lambda text: text.replace(": 4", ": -4")), [], "wanted a whole number from 1 to 1000"),
    (lambda folder: None, ["--window-seconds", "3"], "got a window of 3.0 seconds"),
    (lambda folder: None, ["--normalise", "all_features"], "wanted per_feature or none"),
    (lambda folder: None, ["--tokens", "none.txt"], "none.txt: there is no such file"),
]


@pytest.mark.parametrize(("change", "options", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_what_cannot_be_is_said_in_one_sentence(
    change: Change,
    options: list[str],
    message: str,
    onnx_asr_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in onnx_asr_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    assert call("import-onnx", str(folder), str(tmp_path / "bundle"), *options) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_a_graph_of_another_kind_is_refused_with_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bundles: Path
) -> None:
    assert call("import-onnx", str(bundles / "pieces" / "model.onnx"), str(tmp_path / "b")) == 1
    assert "got inputs waveform, lengths and outputs log_probs, frames" in capsys.readouterr().err


def test_a_hub_id_asks_for_the_package_or_reads_its_cache(
    onnx_asr_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own cache on disk, offline: what a second import of a model finds."""
    repository = tmp_path / "models--someone--small-ctc"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    for file in onnx_asr_folder.iterdir():
        (repository / "snapshots" / ("0" * 40) / file.name).symlink_to(file)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [Path(sys.executable).parent / "asr-export", "import-onnx", "someone/small-ctc", tmp_path / "bundle"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=180)
    if "huggingface_hub is missing" in done.stderr:
        pytest.skip("huggingface_hub is not installed")
    assert done.returncode == 0, done.stderr
    made = Bundle.load(tmp_path / "bundle")
    assert (made.name, made.licence) == ("small-ctc", "cc-by-4.0")
    assert made.provenance["import"]["source"] == "hub: someone/small-ctc"
