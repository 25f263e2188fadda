"""Where a model to import lies: a file, a folder, or a hub's id, whose files are fetched first."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from asr_export.importers.files import first_line
from asr_runtime.errors import ExportError

ID = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:/([A-Za-z0-9][\w.-]{0,95}))?")
CARD, CARD_BYTES = "README.md", 1 << 20
LICENCE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]{1,100})[\"']?[ \t]*$", re.MULTILINE)
UNKNOWN = "not stated"


@dataclass(frozen=True)
class Found:
    """A model on this machine, with what its place says of it."""

    path: Path
    name: str
    source: str

    @property
    def licence(self) -> str:
        """What the head of the README beside the model says, as model hubs have it."""
        card = (self.path if self.path.is_dir() else self.path.parent) / CARD
        if card.is_symlink() or not card.is_file() or card.stat().st_size > CARD_BYTES:
            return UNKNOWN
        head = card.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").split("\n---", 1)[0]
        said = LICENCE.search(head) if head.startswith("---") else None
        return said[1] if said else UNKNOWN


@contextmanager
def local(model: str, main: Sequence[str], others: Sequence[str]) -> Iterator[Found]:
    """The model at a path, or of a hub: its files `main` (or the one that the id names) and `others`.

    What comes from the hub lies in a private folder until the end. Raises ExportError.
    """
    path, wanted = Path(model), ID.fullmatch(model)
    if path.exists() or not wanted or path.parent.is_dir():
        whole = path.resolve()
        yield Found(path, (whole if path.is_dir() else whole.parent).name or "model", UNKNOWN)
        return
    with tempfile.TemporaryDirectory(prefix="asr-import-") as work:
        folder = Path(work, wanted[1].split("/")[1])
        fetch(wanted[1], [wanted[2]] if wanted[2] else main, others, folder)
        yield Found(folder / wanted[2] if wanted[2] else folder, folder.name, f"hub: {wanted[1]}")


def fetch(identifier: str, main: Sequence[str], others: Sequence[str], folder: Path) -> None:
    """Copy files of a model hub into `folder`, as plain files; weights beside an ONNX file come with it."""
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise ExportError(
            f"{identifier}: there is no such file or folder, and to fetch it from a hub the package huggingface_hub is "
            "missing; install it with: pip install huggingface_hub"
        ) from None
    patterns = [*main, *(f"{name}[._]data" for name in main), *others, CARD]
    try:
        snapshot = Path(snapshot_download(identifier, allow_patterns=patterns))
    except Exception as error:  # errors of the hub, of the network and of the disk have no common kind
        raise ExportError(
            f"{identifier}: there is no such file or folder here, and the hub did not give it ({first_line(error)})."
        ) from None
    folder.mkdir()
    for file in snapshot.iterdir():
        if file.is_file() and any(file.match(pattern) for pattern in patterns):
            shutil.copyfile(file, folder / file.name)
