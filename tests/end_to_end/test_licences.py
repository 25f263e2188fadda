"""The compiled module contains works of others; their licences must come along wherever it is installed."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_installation_carries_every_licence() -> None:
    texts = [ROOT / "LICENSE", ROOT / "NOTICE", *(path for path in (ROOT / "licenses").rglob("*") if path.is_file())]
    package = distribution("asr-deploy")
    installed = {str(file).partition("/licenses/")[2]: file for file in package.files or []}
    for text in texts:
        name = text.relative_to(ROOT).as_posix()
        assert name in installed, f"{name} is not in the installed package; install it again if it is older"
        assert Path(str(package.locate_file(installed[name]))).read_bytes() == text.read_bytes()


def test_the_notice_names_each_text_that_is_there() -> None:
    named = set(re.findall(r"licenses/[\w./-]*\w", (ROOT / "NOTICE").read_text(encoding="utf-8"))) - {"licenses/"}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "licenses").rglob("*") if path.is_file()}
    assert there
    assert named == there
