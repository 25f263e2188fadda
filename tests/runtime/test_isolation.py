"""The runtime knows nobody: no torch, no onnx, no sibling package; and dependencies point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asr_runtime

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "asr_runtime": ROOT / "runtime" / "asr_runtime",
    "asr_training": ROOT / "training" / "asr_training",
    "asr_export": ROOT / "export" / "asr_export",
    "asr_bench": ROOT / "benchmarks" / "asr_bench",
}
FORBIDDEN = {
    "asr_runtime": {"torch", "onnx", "matplotlib", "asr_training", "asr_export", "asr_bench"},
    "asr_training": {"asr_bench"},
    "asr_export": {"asr_bench"},
    "asr_bench": set(),
}


def imported(source: Path) -> set[str]:
    """Top-level names of all modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_source_imports_what_it_must_not(package: str) -> None:
    sources = list(PACKAGES[package].rglob("*.py"))
    assert sources
    for source in sources:
        assert not imported(source) & FORBIDDEN[package], source


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_whole_way_runs_where_torch_onnx_and_siblings_cannot_be_imported(tone_bundle: Path) -> None:
    code = f"""
import sys
for name in {sorted(FORBIDDEN["asr_runtime"])}:
    sys.modules[name] = None
import asr_runtime, asr_runtime.command
print(repr(asr_runtime.load(sys.argv[1], greedy=True).transcribe([0.0] * 16000, 16000).text))
"""
    assert python(code, str(tone_bundle)) == "''\n"


def test_import_loads_nothing_heavy() -> None:
    """What all names of asr_runtime add to NumPy's own: nothing that only some uses need."""
    code = "import sys; from asr_runtime import *; print(*{name.split('.')[0] for name in sys.modules})"
    heavy = {"onnxruntime", "soundfile", "soxr", "typer", "click", "rich", "pydantic", "torch", "onnx", "matplotlib"}
    assert not heavy & set(python(code).split())


def test_names_are_imported_when_they_are_asked_for() -> None:
    """So `asr-run` hears Ctrl-C before anything slow begins; see test_cli.py."""
    assert python("import sys, asr_runtime, asr_runtime.cli; print('numpy' in sys.modules)") == "False\n"
    names = "import asr_runtime as it; print({n for n in it.__all__ if n not in dir(it) or getattr(it, n) is None})"
    assert python(names) == "set()\n"
    modules = "import asr_runtime; print(asr_runtime.errors.AudioError.__name__, asr_runtime.decoder.__name__)"
    assert python(modules) == "AudioError asr_runtime.decoder\n"
    with pytest.raises(AttributeError, match="nothing"):
        asr_runtime.nothing  # noqa: B018
