from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from asr_training.checkpoint import Checkpoint, load_checkpoint, newest, write_checkpoint
from asr_training.cli import main, trained
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, Features
from asr_training.text import Alphabet


def program(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `asr-train` as users do."""
    command = [sys.executable, "-c", "from asr_training.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def asr_train(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `asr-train` in this process, which has imported PyTorch already."""
    command, out, err, code = ["asr-train", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as here, redirect_stdout(out), redirect_stderr(err):
        here.setattr(sys, "argv", command)
        here.chdir(cwd or ".")
        try:
            main()
        except SystemExit as end:
            if isinstance(end.code, str):  # which the interpreter would print
                print(end.code, file=err)
            code = 1 if isinstance(end.code, str) else end.code or 0
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small untrained model."""
    torch.manual_seed(0)
    features, config = Features(mels=20), CRNN(channels=2, blocks=1, recurrent_layers=1, recurrent_size=8)
    model = AcousticModel(features, config, 29)
    folder = tmp_path_factory.mktemp("checkpoint") / "last"
    alphabet = Alphabet("' abcdefghijklmnopqrstuvwxyz")
    write_checkpoint(folder, Checkpoint(model, features, config, alphabet, {"recipe": "small"}), {}, {})
    return folder


def test_evaluate_prints_rates_by_source(checkpoint: Path, tiny_manifest: Path) -> None:
    result = asr_train("evaluate", checkpoint, tiny_manifest, "--verbose")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["all", "chords"]
    assert "WER" in lines[0]
    assert "8 utterances" in lines[0]
    assert any("the dog ran home" in line for line in lines)


def test_fit_prints_the_table_and_the_best(tiny_manifest: Path, tmp_path: Path) -> None:
    tiny_toml(tmp_path, tiny_manifest)
    result = program("fit", "mine.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "WER all" in result.stdout
    assert "best weights: runs/mine/best" in result.stdout
    assert "<h2>The worst 8 utterances</h2>" in (tmp_path / "runs" / "mine" / "report.html").read_text()


def test_fit_begins_with_the_weights_of_a_checkpoint(tiny_manifest: Path, tmp_path: Path) -> None:
    recipe = tiny_toml(tmp_path, tiny_manifest)
    assert asr_train("fit", recipe, cwd=tmp_path).returncode == 0
    recipe.write_text(recipe.read_text().replace("[data]", '[data]\nalphabet = "\' abcdefghijklmnopqrstuvwxyzäö"'))
    result = asr_train("fit", recipe, "--from", "runs/mine/best", "--out", "tuned", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "29 of its 31 tokens keep their weights, 'äö' begin at random" in result.stderr
    assert "best weights: tuned/best" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fit", "no-such-recipe"], "no-such-recipe"),
        (["fit", "tiny", "--out", "run"], "tiny/train.jsonl"),
        (["fit", "tiny", "--device", "tpu"], "tpu"),
        (["evaluate", "no-checkpoint", "m.jsonl"], "no-checkpoint"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str], named: str, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    result = asr_train(*arguments, cwd=tmp_path)
    assert result.returncode not in (0, 130)
    one_sentence(result.stderr)
    assert named in result.stderr


def tiny_toml(folder: Path, manifest: Path) -> Path:
    recipe = (Path(sys.modules["asr_training"].__file__ or "").parent / "recipes" / "tiny.toml").read_text()
    path = folder / "mine.toml"
    path.write_text(recipe.replace("tiny/train.jsonl", str(manifest)).replace("epochs = 60", "epochs = 2"))
    return path


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    (tmp_path / "file").write_text("in the way")
    result = asr_train("fit", tiny_toml(tmp_path, tiny_manifest), "--out", tmp_path / "file" / "run")
    assert result.returncode not in (0, 130)
    one_sentence(result.stderr)
    assert "file/run" in result.stderr


def test_a_full_disk_is_one_sentence(tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
    code = f"{limit}; from asr_training.cli import main; main()"
    command = [sys.executable, "-B", "-c", code, "fit", tiny_toml(tmp_path, tiny_manifest), "--out", tmp_path / "run"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert result.returncode == 1, result
    one_sentence(result.stderr)
    assert "cannot be read or written" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_device_that_is_not_here_is_no_other_device(tmp_path: Path, one_sentence: Callable[[str], None]) -> None:
    result = asr_train("fit", "tiny", "--device", "cuda", cwd=tmp_path)
    assert result.returncode != 0
    one_sentence(result.stderr)
    assert "cuda" in result.stderr


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("config.json", b"{", "config.json"),
        ("config.json", b'{"format": 99}', "format 99"),
        ("config.json", b'{"format": 1}', "lacks"),
        ("model.safetensors", b"nothing", "model.safetensors"),
        ("model.safetensors", None, "model.safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(
    checkpoint: Path, tmp_path: Path, file: str, content: bytes | None, named: str, one_sentence: Callable[[str], None]
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    result = asr_train("evaluate", folder, "m.jsonl")
    assert result.returncode != 0
    one_sentence(result.stderr)
    assert named in result.stderr


def test_a_checkpoint_comes_back_as_it_was_written(checkpoint: Path) -> None:
    first, second = load_checkpoint(checkpoint), load_checkpoint(checkpoint)
    assert first.provenance == {"recipe": "small"}
    assert not first.model.training
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


def test_a_checkpoint_survives_a_cut_between_the_renames(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "last"
    shutil.copytree(checkpoint, tmp_path / "last.old")
    (tmp_path / "last.part").mkdir()
    assert newest(folder) == tmp_path / "last.old"
    shutil.copytree(checkpoint, folder)
    assert newest(folder) == folder


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_synthesis_makes_a_manifest_and_takes_up_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a small test\nof the voices\n")
    assert program("synthesize", tmp_path / "lines.txt", tmp_path / "out").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "synthetic.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["a small test", "of the voices"]
    times = [(tmp_path / "out" / row["audio"]).stat().st_mtime_ns for row in rows]
    (tmp_path / "lines.txt").write_text("a small test\nof the voices\nand one more\n")
    result = program("synthesize", tmp_path / "lines.txt", tmp_path / "out", "--processes", "2")
    assert "3 recordings" in result.stdout
    (tmp_path / "lines.txt").write_text("a small test\nanother sentence\n")
    result = program("synthesize", tmp_path / "lines.txt", tmp_path / "out")
    assert result.returncode == 1 and "line 2 is 'of the voices' there, and 'another sentence' in" in result.stderr
    (tmp_path / "lines.txt").write_text("\n")
    result = program("synthesize", tmp_path / "lines.txt", tmp_path / "new")
    assert result.returncode == 1 and "holds no sentences" in result.stderr and not (tmp_path / "new").exists()
    assert [(tmp_path / "out" / row["audio"]).stat().st_mtime_ns for row in rows] == times


def test_english_is_the_bundle_that_comes_along_and_other_names_are_paths() -> None:
    assert (trained(Path("english")) or Path()).joinpath("bundle.json").is_file()
    assert trained(Path("nowhere")) == Path("nowhere")
    assert trained(None) is None
