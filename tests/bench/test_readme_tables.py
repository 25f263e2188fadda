"""The README's tables are those of the committed results."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tables(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(root / "scripts" / "readme-tables"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_tables_are_those_of_the_results() -> None:
    done = tables(ROOT, "--check")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("README.md", "scripts/readme-tables"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    return tmp_path


def test_a_table_that_was_changed_is_found_and_written_anew(copy: Path) -> None:
    before = (copy / "README.md").read_text()
    begin = before.index("| asr_runtime |")
    (copy / "README.md").write_text(before[:begin] + "| asr_runtime | 0 % |\n" + before[begin:])
    done = tables(copy, "--check")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert tables(copy).returncode == 0
    assert (copy / "README.md").read_text() == before
    assert tables(copy, "--check").returncode == 0
