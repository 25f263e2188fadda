from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from asr_export.cli import main
from asr_export.signals import speech_like
from asr_runtime.bundle import Bundle, Manifest, NewFile, update_bundle, write_bundle
from asr_runtime.recognizer import is_pronounced

ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<unk>
0\t<s>\t-0.3
-1.0\t</s>
-0.6\tred\t-0.2
-0.6\tcar\t-0.2

\\2-grams:
-0.2\t<s> red
-0.2\tred car
-0.2\tcar </s>

\\end\\
"""


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    assert call(["to-onnx", str(checkpoint), str(path), "--licence", "CC0-1.0"]) == 0
    return path


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "small.arpa"
    path.write_text(ARPA)
    return path


def call(arguments: Sequence[str]) -> int:
    """Run the command in this process; return its exit code."""
    kept, sys.argv = sys.argv, ["asr-export", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = kept
    return 0


def refused(arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("asr-export: ")
    assert err.count("\n") == 1


def test_to_onnx_prints_and_stores_the_proof(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["to-onnx", str(checkpoint), str(tmp_path / "tiny.asr"), "--name", "mine", "--language", "de"]) == 0
    out = capsys.readouterr().out
    assert "log-probabilities differ from PyTorch's by at most" in out
    bundle = Bundle.load(tmp_path / "tiny.asr")
    assert (bundle.name, bundle.language, bundle.licence) == ("mine", "de", "not stated")
    assert "".join(bundle.tokens) == "' abcdefghijklmnopqrstuvwxyz"
    assert bundle.frame_seconds == 0.04
    figures = bundle.proofs["model.onnx"]["log_probs"]
    assert 0 < figures["max_difference"] <= figures["tolerance"] == 1e-4
    assert figures["shortest_samples"] == 0


def test_the_runtime_takes_the_bundle(bundle: Path, tmp_path: Path) -> None:
    import asr_runtime

    soundfile.write(tmp_path / "a.wav", speech_like(16_000, 16_000, 1), 16_000)
    transcript = asr_runtime.load(bundle, greedy=True).transcribe(tmp_path / "a.wav")
    assert transcript.duration == pytest.approx(1.0)


def test_recordings_join_the_proof(checkpoint: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", speech_like(11_025, 22_050, 1), 22_050)
    assert call(["to-onnx", str(checkpoint), str(tmp_path / "b"), "--recording", str(tmp_path / "a.flac")]) == 0
    assert Bundle.load(tmp_path / "b").proofs["model.onnx"]["log_probs"]["utterances"] == 15


@pytest.mark.parametrize(("weights", "precision"), [("fp16", "fp32-w16"), ("int8", "fp32-w8")])
def test_weights_can_be_stored_compactly(
    weights: str, precision: str, checkpoint: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["to-onnx", str(checkpoint), str(tmp_path / "b"), "--weights", weights]) == 0
    assert "rounding the weights changed log-probabilities by at most" in capsys.readouterr().out
    made, plain = Bundle.load(tmp_path / "b"), Bundle.load(bundle)
    assert made.files[0].precision == precision
    assert made.files[0].bytes < plain.files[0].bytes
    assert 0 < made.proofs["model.onnx"]["rounding"]["max_difference"] < 0.5


def test_a_failed_proof_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_export.graph.masked", lambda graph, features, *_: features)
    refused(["to-onnx", str(checkpoint), str(tmp_path / "b")], "failed its proof, so nothing was written", capsys)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_without_force(
    checkpoint: Path, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (bundle / "bundle.json").read_bytes()
    with monkeypatch.context() as patched:  # it is told before the work, which is long
        patched.setattr("asr_export.to_onnx.author", None)
        refused(["to-onnx", str(checkpoint), str(bundle)], "lies here already", capsys)
        for command in ("import-seed", "import-onnx", "import-huggingface"):
            refused([command, "no/model", str(bundle)], "lies here already", capsys)
    assert (bundle / "bundle.json").read_bytes() == before
    assert call(["to-onnx", str(checkpoint), str(bundle), "--licence", "CC0-1.0", "--force"]) == 0


def test_broken_checkpoints_are_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["to-onnx", str(tmp_path / "none"), str(tmp_path / "b")], "give the folder of a checkpoint", capsys)
    (tmp_path / "run" / "best").mkdir(parents=True)
    refused(["to-onnx", str(tmp_path / "run"), str(tmp_path / "b")], f"{tmp_path / 'run' / 'best'} say", capsys)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (damaged / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:1000])
    refused(["to-onnx", str(damaged), str(tmp_path / "b")], "the checkpoint is damaged", capsys)


def test_files_to_pack_are_checked(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["to-onnx", str(checkpoint), str(tmp_path / "b")]
    refused([*command, "--card", str(tmp_path / "none")], "there is no such file", capsys)
    (tmp_path / "junk").write_bytes(b"junk")
    refused([*command, "--lm", str(tmp_path / "junk")], "as a language model", capsys)
    refused([*command, "--recording", str(tmp_path / "junk")], "junk", capsys)
    assert not (tmp_path / "b").exists()


def test_the_language_model_goes_in_with_to_onnx_or_later(checkpoint: Path, tmp_path: Path, arpa: Path) -> None:
    card = tmp_path / "card.txt"
    card.write_text("What it is.")
    path = tmp_path / "b"
    assert call(["to-onnx", str(checkpoint), str(path), "--lm", str(arpa), "--card", str(card)]) == 0
    assert [(file.role, file.path) for file in Bundle.load(path).files] == [
        ("model", "model.onnx"),
        ("card", "card.md"),
        ("language_model", "lm.arpa"),
        ("check", "check.json"),
    ]
    words = tmp_path / "words.txt"
    words.write_text("red\ncar\n")
    settings = ["--alpha", "0.5", "--beta", "1", "--beam-size", "7"]
    assert call(["add-lm", str(path), str(arpa), "--lexicon", str(words), *settings, "--force"]) == 0
    bundle = Bundle.load(path)
    assert bundle.decoder == {"alpha": 0.5, "beta": 1.0, "beam_size": 7}
    assert bundle.find("lexicon") is not None
    assert len(bundle.files) == 5
    assert bundle.proofs


def test_pronunciations_go_in_before_or_after_the_language_model(
    bundle: Path, arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = NewFile(source=bundle / "model.onnx", role="model", engine="onnx", precision="fp32")
    phonemes = ("K", "AA", "R", "EH", "D", " ", "")
    manifest = Manifest(
        name="spoken", language="en", licence="CC0-1.0", sample_rate=16000, tokens=phonemes, frame_seconds=0.04
    )
    sounds, more = tmp_path / "sounds.txt", tmp_path / "more.txt"
    sounds.write_text("red\tR EH D\ncar\tK AA R\n")
    more.write_text("red\tR EH D\nread\tR EH D\ncar\tK AA R\n")
    write_bundle(tmp_path / "b", manifest, [model])
    path = str(tmp_path / "b")
    refused(["add-lm", path, str(arpa)], "wanted its words as a lexicon with pronunciations", capsys)
    assert call(["add-lexicon", path, str(sounds)]) == 0
    assert call(["add-lm", path, str(arpa)]) == 0
    refused(["add-lexicon", path, str(more)], "there is a lexicon already", capsys)
    assert call(["add-lexicon", path, str(more), "--force"]) == 0
    assert call(["add-lm", path, str(arpa), "--lexicon", str(sounds), "--force"]) == 0
    assert sorted(file.role for file in Bundle.load(path).files) == ["language_model", "lexicon", "model"]
    (tmp_path / "bad.txt").write_text("red\tR EH X\n")
    refused(["add-lexicon", path, str(tmp_path / "bad.txt"), "--force"], "the token 'X' for 'red'", capsys)


def test_to_onnx_takes_the_pronunciations_with_the_language_model(
    checkpoint: Path, arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds, path = tmp_path / "sounds.txt", tmp_path / "b"
    command = ["to-onnx", str(checkpoint), str(path), "--lexicon", str(sounds)]
    sounds.write_text("red\tr e X\n")
    refused(command, "the token 'X' for 'red'", capsys)
    refused([*command, "--lm", str(arpa)], "the token 'X' for 'red'", capsys)
    assert not path.exists()
    sounds.write_text("red\tr e d\ncar\tk a r\n")
    assert call([*command, "--lm", str(arpa)]) == 0
    bundle = Bundle.load(path)
    assert sorted(file.role for file in bundle.files) == ["check", "language_model", "lexicon", "model"]
    assert is_pronounced(bundle)


def test_add_lm_refuses_what_does_not_fit(
    bundle: Path, tmp_path: Path, arpa: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["add-lm", str(tmp_path), str(arpa)], "not a bundle", capsys)
    refused(["add-lm", str(bundle), str(tmp_path / "none")], "none", capsys)
    refused(["add-lm", str(bundle), str(arpa), "--beam-size", "0"], "got beam_size 0", capsys)
    assert call(["add-lm", str(bundle), str(arpa)]) == 0
    refused(["add-lm", str(bundle), str(arpa)], "there is a language_model already", capsys)


def test_verify_without_a_checkpoint_replays_what_the_bundle_carries(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["verify", str(bundle)]) == 0
    assert capsys.readouterr().out.startswith("passed: cpu, ONNX Runtime")
    assert call(["verify", str(bundle), "--manifest", str(tmp_path / "m.jsonl")]) == 2
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    check = json.loads((other / "check.json").read_text())
    check["utterances"][0]["greedy"] += "x"
    (tmp_path / "check.json").write_text(json.dumps(check))
    update_bundle(other, [NewFile(source=tmp_path / "check.json", role="check")], force=True)
    assert call(["verify", str(other)]) == 1
    assert "  best path: expected " in capsys.readouterr().out


def test_wrong_usage_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["lm", str(tmp_path / "text"), str(tmp_path / "lm"), "--prune", "0 x"]) == 2
    assert call(["to-onnx"]) == 2
    assert call(["to-onnx", str(tmp_path), str(tmp_path / "b"), "--weights", "int4"]) == 2
    assert call(["nothing"]) == 2


def test_inspect_shows_what_is_in_the_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    parts = ["tiny (en), licence CC0-1.0", "29: ' <space> a b c", "<blank>", "16000 Hz, 40 ms a frame", "its defaults"]
    for part in [*parts, "model.onnx, ", "(onnx, fp32)", "recipe          tiny", "--json"]:
        assert part in out, part
    assert len(out.splitlines()) < 12
    assert call(["inspect", str(bundle), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["licence"] == "CC0-1.0"
    assert told["provenance"]["recipe"] == {"name": "tiny"}
    assert 0 < told["proofs"]["model.onnx"]["log_probs"]["max_difference"] <= 1e-4
    graph = told["graphs"]["model.onnx"]
    assert graph["opsets"] == {"ai.onnx": 17}
    assert (graph["nodes"]["MatMul"], graph["nodes"]["Conv"]) == (13, 5)
    assert graph["inputs"][0] == "waveform float [batch, samples]"


@pytest.mark.parametrize(("missing", "option"), [(("onnx",), ()), ((), ("--json",))])
def test_inspect_needs_no_torch(bundle: Path, missing: tuple[str, ...], option: tuple[str, ...]) -> None:
    code = (
        f"import sys; [sys.modules.__setitem__(name, None) for name in {('torch', 'onnxruntime', *missing)}]; "
        f"sys.argv = {['asr-export', 'inspect', str(bundle), *option]}; from asr_export.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "model.onnx" in done.stdout


def test_a_bundle_that_comes_along_is_known_by_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(["inspect", "english"]) == 0
    out = capsys.readouterr().out
    assert "english (en), licence" in out and "language model  lm.binary, " in out
    assert "% (dev.jsonl, " in out and "where its settings were chosen" in out
    refused(["inspect", "englisch"], "englisch: there is no such bundle", capsys)
    refused(["verify", "englisch"], "one that comes along: english", capsys)
    refused(["to-triton", "englisch", "models"], "one that comes along: english", capsys)
    refused(["tune", "english", "none.jsonl", "--force"], "belongs to the installation; give --out", capsys)
    refused(["doctor", "englisch"], "one that comes along: english", capsys)


def test_inspect_refuses_a_damaged_bundle(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b"
    assert call(["to-onnx", str(checkpoint), str(path)]) == 0
    model = path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    refused(["inspect", str(path)], "another SHA-256", capsys)
    manifest = json.loads((path / "bundle.json").read_text())
    model.write_bytes(b"\xff" * manifest["files"][0]["bytes"])
    manifest["files"][0]["sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
    (path / "bundle.json").write_text(json.dumps(manifest))
    refused(["inspect", str(path), "--json"], "model.onnx: this is no whole ONNX model", capsys)


def test_inspect_shows_what_other_programs_wrote(
    bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "b"
    shutil.copytree(bundle, path)
    manifest = json.loads((path / "bundle.json").read_text())
    manifest["proofs"] = {"x": 3, "y": {"seen": None}, "z": [1, {"a": 2}]}
    manifest["provenance"] = {"recipe": "by hand", "years": [2025], "tune": {"wer": 0.5}}
    (path / "bundle.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert call(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    for part in ("recipe          by hand", "50.0 % (a manifest)"):
        assert part in out, part
    assert call(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["proofs"], told["provenance"]) == (manifest["proofs"], manifest["provenance"])


def test_a_recipe_told_as_text_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    told = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, told)
    config = json.loads((told / "config.json").read_text())
    (told / "config.json").write_text(json.dumps({**config, "provenance": {"recipe": "by hand"}}))
    assert call(["to-onnx", str(told), str(tmp_path / "b")]) == 0
    made = Bundle.load(tmp_path / "b")
    assert (made.name, made.provenance["recipe"]) == ("model", "by hand")


def test_what_the_system_refuses_is_one_sentence(
    bundle: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    refused(["to-onnx", str(checkpoint), str(tmp_path / "file" / "b")], "file", capsys)
    refused(["to-onnx", str(checkpoint), str(tmp_path / "b"), "--card", "a" * 300], "a" * 300, capsys)
    (tmp_path / "m.jsonl").write_bytes(b'{"audio": "a.wav", "text": "caf\xe9"}')
    refused(["verify", str(bundle), "--against", str(checkpoint), "--manifest", str(tmp_path / "m.jsonl")], "", capsys)


def test_a_missing_package_is_one_sentence(bundle: Path) -> None:
    code = (
        "import sys; sys.modules['onnx'] = None; "
        f"sys.argv = ['asr-export', 'inspect', {str(bundle)!r}, '--json']; from asr_export.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "onnx is missing" in done.stderr
    assert "asr-deploy[export]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_provenance_tells_no_folders(checkpoint: Path) -> None:
    from asr_export.to_onnx import without_folders

    recipe = {"data": {"train": [{"path": "/home/me/speech/train.jsonl", "repeat": 2}]}, "name": "x"}
    assert without_folders(recipe) == {"data": {"train": [{"path": "train.jsonl", "repeat": 2}]}, "name": "x"}


def test_the_graph_of_the_bundle_is_valid_onnx(bundle: Path) -> None:
    onnx.checker.check_model(str(bundle / "model.onnx"), full_check=True)
    model = onnx.load(bundle / "model.onnx")
    assert not any(np.isnan(onnx.numpy_helper.to_array(each)).any() for each in model.graph.initializer)
