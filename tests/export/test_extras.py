"""The extra `export` must bring all that the exporter imports, in asr_training, too; `huggingface` the hub's part."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="Python reads TOML from 3.11 on")

OURS = ("asr_export", "asr_training", "asr_runtime")
BROUGHT_BY = {"huggingface_hub": "huggingface-hub", "cuda": "cuda-bindings", "google": "onnx"}  # google.protobuf
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def imported(file: Path) -> Iterator[str]:
    """Modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module in OURS)


def source(module: str) -> Path | None:
    spec = find_spec(module) if find_spec(module.partition(".")[0]) else None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def reached(modules: set[str]) -> set[str]:
    """Foreign top-level modules that modules of ours import, directly or through others of ours."""
    seen: set[str] = set()
    waiting, foreign = set(modules), set()
    while waiting:
        seen.add(module := waiting.pop())
        if module.partition(".")[0] not in OURS:
            foreign.add(module.partition(".")[0])
        elif file := source(module):
            waiting |= set(imported(file)) - seen
    return foreign - set(sys.stdlib_module_names)


def declared(extra: str, python: str) -> set[str]:
    """Names of what installing asr-deploy[extra] asks for."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"][extra]]
    wanted = [Requirement(line) for line in lines]
    environment = {"python_version": python}
    return {canonicalize_name(each.name) for each in wanted if not each.marker or each.marker.evaluate(environment)}


def test_the_extra_export_brings_what_is_imported() -> None:
    folder = Path(str(source("asr_export"))).parent
    files = [file.relative_to(folder.parent).with_suffix("") for file in folder.rglob("*.py")]
    foreign = reached({".".join(file.parts) for file in files if file.name != "__init__"})
    assert {"torch", "onnx", "numpy", "safetensors", "tomli"} <= foreign  # the search itself finds them
    on_gpus = {BROUGHT_BY[name] for name in ("cuda",)}  # imported where an engine runs, and not else
    wanted = {BROUGHT_BY.get(name, name) for name in foreign}
    assert wanted - on_gpus - declared("video", "3.10") <= declared("export", "3.10") | declared("huggingface", "3.10")
    assert on_gpus <= declared("tensorrt", "3.10")
