"""The whole path: train, export, pack, run; each step by its command, as a user takes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asr_training
from asr_training.checkpoint import load_checkpoint, read_json

SCRIPTS = Path(sys.executable).parent


def run(command: str, *arguments: str | Path, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands from the interpreter's environment."""
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        [SCRIPTS / command, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=180
    )
    assert fails == bool(result.returncode), result.stderr
    return result


@pytest.fixture(scope="module")
def work(tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run `runs/tiny`, its bundle `tiny` and the recordings."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_manifest.parent, folder / "tiny-data")
    recipe = (Path(asr_training.__file__).parent / "recipes" / "tiny.toml").read_text()
    (folder / "tiny.toml").write_text(recipe.replace("tiny/train.jsonl", "tiny-data/train.jsonl"))
    run("asr-train", "fit", "tiny.toml", cwd=folder)
    run("asr-export", "to-onnx", "runs/tiny/best", "tiny", "--licence", "CC0-1.0", cwd=folder)
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "tiny-data" / "train.jsonl").read_text().splitlines()]


def test_the_recipe_learns_its_sentences_by_heart(work: Path) -> None:
    position = read_json(work / "runs" / "tiny" / "last" / "training.json")
    assert position["best_wer"] == 0
    assert position["rows"][-1]["train_loss"] < 0.2 * position["rows"][0]["train_loss"]
    assert len((work / "runs" / "tiny" / "epochs.txt").read_text().splitlines()) == 61
    assert list((work / "runs" / "tiny" / "tensorboard").glob("events*"))
    assert load_checkpoint(work / "runs" / "tiny" / "best").provenance["data"]["utterances"] == 8


@pytest.mark.parametrize("search", [["--greedy"], ["--no-lm"]])
def test_the_training_text_comes_back(work: Path, search: list[str]) -> None:
    files = [f"tiny-data/{row['audio']}" for row in rows(work)]
    result = run("asr-run", "--model", "tiny", *search, *files, cwd=work)
    expected = [f"{file}\t{row['text']}" for file, row in zip(files, rows(work), strict=True)]
    assert result.stdout.splitlines() == expected
    assert "real-time factor" in result.stderr


def test_a_language_model_goes_into_the_bundle_and_the_text_still_comes_back(work: Path) -> None:
    if not shutil.which("lmplz", path=f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"):
        pytest.skip("KenLM's tools are not installed; scripts/install-kenlm installs them")
    (work / "text.txt").write_text("".join(f"{row['text']}\n" for row in rows(work)) * 5)
    options = ["--order", "2", "--prune", "0", "--vocabulary-minimum", "1", "--discount-fallback", "--memory", "64M"]
    run("asr-export", "lm", "text.txt", "lm.binary", *options, cwd=work)
    shutil.copytree(work / "tiny", work / "with-lm")
    run("asr-export", "add-lm", "with-lm", "lm.binary", "--alpha", "0.5", "--beta", "0.5", cwd=work)
    files = [f"tiny-data/{row['audio']}" for row in rows(work)]
    result = run("asr-run", "--model", "with-lm", "--format", "json", *files, cwd=work)
    found = json.loads(result.stdout)
    assert [transcript["text"] for transcript in found] == [row["text"] for row in rows(work)]
    for transcript in found:
        assert " ".join(word["word"] for word in transcript["words"]) == transcript["text"]
        times = [time for word in transcript["words"] for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert times[-1] <= transcript["duration"]
        assert all(0 <= word["confidence"] <= 1 for word in transcript["words"])


def test_the_bundle_says_what_was_proved(work: Path) -> None:
    shown = run("asr-export", "inspect", "tiny", "--json", cwd=work).stdout
    assert "GRU" in shown
    assert "CC0-1.0" in shown
    manifest = json.loads((work / "tiny" / "bundle.json").read_text())
    assert manifest["proofs"]
    assert "tiny" in json.dumps(manifest["provenance"])


def test_a_broken_file_does_not_keep_the_others_back(work: Path) -> None:
    (work / "broken.wav").write_bytes(b"no audio")
    first = rows(work)[0]
    files = ["missing.wav", "broken.wav", f"tiny-data/{first['audio']}"]
    result = run("asr-run", "--model", "tiny", "--greedy", *files, cwd=work, fails=True)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [f"{files[2]}\t{first['text']}"]
    lines = result.stderr.splitlines()
    assert "missing.wav" in lines[0]
    assert "broken.wav" in lines[1]
