"""The runtime alone: an environment with just what `pip install asr-deploy[cpu]` would bring recognises speech.

The environment is a fresh one, filled from the distributions that are installed here by following the requirements
that the package states, so it needs no network and takes a second.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import asr_runtime
from asr_runtime import _decoder

HEAVY = {"torch", "onnx", "matplotlib", "safetensors", "tensorboard", "jiwer", "hypothesis"}


def required(name: str, extras: frozenset[str] = frozenset(), seen: dict[str, Distribution] | None = None) -> set[str]:
    """Canonical names of all distributions that installing `name[extras]` here would bring, itself included."""
    found = {} if seen is None else seen
    try:
        found[canonicalize_name(name)] = package = distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    for line in package.requires or []:
        requirement = Requirement(line)
        wanted = any(not requirement.marker or requirement.marker.evaluate({"extra": extra}) for extra in {*extras, ""})
        if wanted and canonicalize_name(requirement.name) not in found:
            required(requirement.name, frozenset(requirement.extras), found)
    return set(found)


def test_nothing_heavy_is_asked_for() -> None:
    runtime = required("asr-deploy", frozenset({"cpu"}))
    assert {"numpy", "onnxruntime", "soundfile", "soxr"} <= runtime
    assert not runtime & HEAVY
    assert "onnxruntime" not in required("asr-deploy")
    assert "torch" in required("asr-deploy", frozenset({"train"}))  # the search itself finds it where it is asked for


def link_distribution(name: str, site: Path) -> None:
    """Make everything of an installed distribution importable from `site`."""
    package = distribution(name)
    roots = {file.parts[0] for file in package.files or [] if file.parts[0] != ".."}
    for root in roots - {"__pycache__"}:
        target = site / root
        if not target.exists():
            target.symlink_to(Path(str(package.locate_file(root))))


@pytest.fixture(scope="module")
def lonely_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the runtime, its requirements and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in required("asr-deploy", frozenset({"cpu"})) - {"asr-deploy"}:
        link_distribution(name, site)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(asr_runtime.__file__).parent, site / "asr_runtime", ignore=ignore)
    compiled = Path(_decoder.__file__)
    shutil.copy(compiled, site / "asr_runtime" / compiled.name)
    return folder / "bin" / "python"


def test_it_recognises_speech_without_torch(
    lonely_python: Path, tone_bundle: Path, arpa: Path, spell: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "cat.flac", spell("cat"), 16000)
    code = "import sys; from asr_runtime.cli import main; main()"
    command = [str(lonely_python), "-I", "-c", code, "--model", str(tone_bundle), "--lm", str(arpa)]
    done = subprocess.run([*command, str(tmp_path / "cat.flac")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "cat\n"), done.stderr


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what a process has mapped")
def test_onnxruntime_for_c_programs_is_not_loaded(lonely_python: Path, tone_bundle: Path) -> None:
    """The wheel has the engine twice; docs/runtime.md says that the second, 35 MB, may be deleted."""
    code = (
        "import sys, numpy, asr_runtime\n"
        "asr_runtime.load(sys.argv[1]).transcribe(numpy.zeros(16000, numpy.float32), 16000)\n"
        "print('onnxruntime' in (maps := open('/proc/self/maps').read()), 'libonnxruntime.so' in maps)"
    )
    command = [str(lonely_python), "-I", "-c", code, str(tone_bundle)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True False\n"


def test_nothing_heavy_can_be_imported(lonely_python: Path) -> None:
    code = f"import importlib.util as u; print([name for name in {sorted(HEAVY)} if u.find_spec(name)])"
    done = subprocess.run([str(lonely_python), "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
