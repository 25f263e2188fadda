"""What the README and --help say of the commands holds: with the runtime alone, and with the bundle that ships."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[2] / "samples" / "quick-and-eager.ogg"
RUN = "from asr_runtime.cli import main; main()"


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("asr_export", "asr-export", "export"),
        ("asr_training", "asr-train", "train"),
        ("asr_bench", "asr-bench", "bench"),
    ],
)
def test_a_command_whose_extra_is_missing_says_so_in_one_sentence(package: str, command: str, extra: str) -> None:
    done = python(f"import sys; sys.modules['typer'] = None; from {package}.cli import main; main()", "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{command}: typer is missing; install it with: pip install 'asr-deploy[{extra}]'\n"


def test_the_sample_comes_out_whole_also_with_a_hot_word_that_says_how_it_sounds() -> None:
    done = python(RUN, SAMPLE, "--quiet", "--hotword", "kubernetes=cooper net ease")
    assert (done.stdout, done.stderr, done.returncode) == ("she was quick and very eager\n", "", 0)


def test_the_bundle_that_ships_is_verified_by_its_name() -> None:
    done = python(RUN, "--verify", "english")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("passed: cpu")
