"""The bundle: everything that turns recordings into text, in one folder or one uncompressed zip (`NAME.asr`).

`bundle.json` names every other file with its size and SHA-256. Reading checks all of it before any parser sees a file,
so a bundle that came from anywhere can be refused in one sentence. `docs/bundle.md` is the format's description.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from asr_runtime.errors import BundleError
from asr_runtime.manifest import FORMAT, MANIFEST, MAX_FILES, SAFE_PATH, BundleFile, Json, Manifest, parse_manifest

__all__ = ["Bundle", "BundleFile", "Manifest", "NewFile", "update_bundle", "write_bundle"]

MAX_MANIFEST_BYTES = 4 << 20
COPY_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """A file `source` that is to go into a bundle as `path` (by default under its own name)."""

    source: Path
    role: str
    path: str = ""
    engine: str | None = None
    precision: str | None = None
    target: Json = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bundle(Manifest):
    """A bundle that passed all checks; its files lie under `folder`."""

    files: tuple[BundleFile, ...]
    folder: Path
    owner: object = field(default=None, repr=False, compare=False)  # keeps the private folder of a zip alive

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read a folder or `.asr` file and check it whole; raises BundleError.

        The files of a zip are copied, while they are checked, to a private temporary folder, since ONNX Runtime,
        KenLM and TensorRT all want paths; it goes when the bundle does.
        """
        path = Path(path)
        try:
            if path.is_dir():
                return _load_folder(path)
            if path.is_file():
                return _load_zip(path)
        except OSError as error:
            raise BundleError(f"{path}: the bundle cannot be read ({error}); make it readable.") from error
        raise BundleError(f"{path}: there is no bundle here; give a bundle folder or an .asr file.")

    def find(self, role: str, *, engine: str | None = None, precision: str | None = None) -> BundleFile | None:
        """The first file of that role (and engine and precision, where given), or None."""
        for file in self.files:
            if file.role == role and engine in (None, file.engine) and precision in (None, file.precision):
                return file
        return None

    def path(self, file: BundleFile) -> Path:
        """Where a file of this bundle lies on disk."""
        return self.folder / file.path


# --- reading ---------------------------------------------------------------------------------------------------------


def _load_folder(folder: Path) -> Bundle:
    present = _folder_files(folder)
    if MANIFEST not in present:
        raise BundleError(f"{folder}: this is not a bundle, it has no {MANIFEST}; give a folder made by asr-export.")
    manifest, files = _read_manifest(folder, (folder / MANIFEST).open("rb"))
    _check_names(folder, files, present)
    for file in files:
        with (folder / file.path).open("rb") as content:
            _check_content(folder, file, content)
    return Bundle(**_shallow(manifest), files=files, folder=folder)


def _folder_files(folder: Path) -> set[str]:
    """Relative names of all files; refuses links and whatever is neither file nor folder."""
    found: set[str] = set()
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            listed = list(islice(entries, 2 * MAX_FILES))
        for entry in listed:
            name = Path(entry.path).relative_to(folder).as_posix()
            if entry.is_symlink():
                raise BundleError(f"{folder}: {name} is a link; a bundle holds plain files only.")
            if entry.is_dir():
                waiting.append(Path(entry.path))
            elif entry.is_file():
                found.add(name)
            else:
                raise BundleError(f"{folder}: {name} is neither file nor folder; a bundle holds plain files only.")
            if len(found) + len(waiting) > MAX_FILES + 10:
                raise BundleError(f"{folder}: this holds more than {MAX_FILES} files; give the bundle's own folder.")
    return found


def _load_zip(path: Path) -> Bundle:
    try:
        with zipfile.ZipFile(path) as archive:
            return _extract(path, archive)
    except (zipfile.BadZipFile, struct.error, EOFError, LookupError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path}: this is not a whole .asr bundle ({error}); fetch or export it again.") from error


def _extract(path: Path, archive: zipfile.ZipFile) -> Bundle:
    members = {member.filename: member for member in archive.infolist()[: MAX_FILES + 2]}
    if len(members) > MAX_FILES + 1:
        raise BundleError(f"{path}: this holds more than {MAX_FILES} files; give an .asr file made by asr-export.")
    if len(members) != len(archive.infolist()):
        raise BundleError(f"{path}: a name stands in it twice; export the bundle again.")
    for member in members.values():
        _check_member(path, member)
    if MANIFEST not in members:
        raise BundleError(f"{path}: this is not a bundle, it has no {MANIFEST}; give an .asr file made by asr-export.")
    manifest, files = _read_manifest(path, archive.open(MANIFEST))
    _check_names(path, files, set(members))
    owner = _PrivateFolder()
    for file in files:
        target = owner.path / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(file.path) as content, target.open("xb") as copy:
            _check_content(path, file, content, copy)
    return Bundle(**_shallow(manifest), files=files, folder=owner.path, owner=owner)


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    if member.compress_type != zipfile.ZIP_STORED:
        raise BundleError(f"{path}: {member.filename} is compressed; an .asr file stores its files as they are.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or member.is_dir():
        raise BundleError(f"{path}: {member.filename} is a link or folder; a bundle holds plain files only.")


class _PrivateFolder:
    """A temporary folder for this user alone that goes with its last owner, or with the process."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="asr-bundle-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _read_manifest(where: Path, stream: Any) -> tuple[Manifest, tuple[BundleFile, ...]]:
    with stream:
        text = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{where}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes; this is no real bundle.")
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: {MANIFEST} is not valid JSON ({error}); export the bundle again.") from error
    return parse_manifest(where, content)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _check_names(where: Path, files: tuple[BundleFile, ...], present: set[str]) -> None:
    named = {file.path for file in files} | {MANIFEST}
    if extra := sorted(present - named):
        raise BundleError(f"{where}: {extra[0]} is in the bundle but not named in {MANIFEST}; take it out.")
    if missing := sorted(named - present):
        raise BundleError(f"{where}: {missing[0]} is named in {MANIFEST} but not there; fetch the bundle again.")


def _check_content(where: Path, file: BundleFile, content: Any, copy: BinaryIO | None = None) -> None:
    """Compare size and SHA-256 with the manifest's, reading no more than it says; copy on the way if wanted."""
    digest, size = hashlib.sha256(), 0
    while size <= file.bytes and (block := content.read(COPY_BYTES)):
        digest.update(block)
        size += len(block)
        if copy:
            copy.write(block)
    if size != file.bytes:
        relation = "more" if size > file.bytes else f"only {size}"
        raise BundleError(
            f"{where}: {file.path} has {relation} where {MANIFEST} says {file.bytes} bytes; fetch it again."
        )
    if digest.hexdigest() != file.sha256:
        raise BundleError(f"{where}: {file.path} has another SHA-256 than {MANIFEST} says; fetch the bundle again.")


# --- writing ---------------------------------------------------------------------------------------------------------


def write_bundle(path: str | Path, manifest: Manifest, files: Iterable[NewFile], *, force: bool = False) -> Bundle:
    """Write a bundle: a zip where `path` ends in `.asr`, else a folder. Returns it as read back.

    It is written beside `path` and renamed when whole. What lies there already is refused, or with `force` replaced
    if it is a bundle. Raises BundleError.
    """
    path = Path(path)
    refuse_overwrite(path, force)
    with _beside(path) as work:
        folder = work / "bundle"
        folder.mkdir()
        entries = [_copy_in(folder, file) for file in files]
        content = {"format": FORMAT, **_shallow(manifest), "files": [_entry(file) for file in entries]}
        if manifest.padding:
            del content["padding"]  # the usual case, which readers of before know
        parse_manifest(path, json.loads(json.dumps(content)))
        (folder / MANIFEST).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        put_in_place(_zipped(folder) if path.suffix == ".asr" else folder, path, work)
    return Bundle.load(path)


def update_bundle(
    path: str | Path,
    files: Iterable[NewFile] = (),
    *,
    force: bool = False,
    decoder: Json | None = None,
    provenance: Json | None = None,
    proofs: Json | None = None,
) -> Bundle:
    """Add files to the bundle at `path` and merge keys into its objects; atomic like `write_bundle`.

    A bundle has one language model, one lexicon, one card, and one model for each engine, precision and target: a
    file that would be the second, or has the name of one, replaces the first with `force`, else BundleError.
    """
    bundle, new = Bundle.load(path), list(files)
    taken = replaced_files(path, bundle, new, force)
    kept = [file for file in bundle.files if file not in taken]
    merged = replace(
        bundle,
        decoder={**bundle.decoder, **(decoder or {})},
        provenance={**bundle.provenance, **(provenance or {})},
        proofs={**bundle.proofs, **(proofs or {})},
    )
    return write_bundle(path, merged, [*(_as_new(bundle, file) for file in kept), *new], force=True)


def refuse_overwrite(path: Path, force: bool) -> None:
    """Raise BundleError unless `write_bundle` may write to `path`: what takes long asks before it begins."""
    if not path.exists():
        return
    if not force:
        raise BundleError(f"{path}: something lies here already; give another path, or --force to replace it.")
    is_bundle = (path / MANIFEST).is_file() if path.is_dir() else zipfile.is_zipfile(path)
    if not is_bundle:
        raise BundleError(f"{path}: what lies here is not a bundle, so it is not replaced; give another path.")


def replaced_files(path: str | Path, bundle: Bundle, new: Sequence[NewFile], force: bool) -> list[BundleFile]:
    """The files of the bundle at `path` whose places `new` ones take, as `update_bundle` says.

    Without `force` any is a BundleError: what takes long asks before it begins.
    """
    slots, names = {_slot(file) for file in new}, {file.path or file.source.name for file in new}
    taken = [file for file in bundle.files if _slot(file) in slots or file.path in names]
    if taken and not force:
        raise BundleError(f"{path}: there is a {taken[0].role} already ({taken[0].path}); give --force to replace it.")
    return taken


def _slot(file: BundleFile | NewFile) -> tuple[str, str | None, str | None, str]:
    return file.role, file.engine, file.precision, json.dumps(file.target, sort_keys=True)


def _as_new(bundle: Bundle, file: BundleFile) -> NewFile:
    kept = {name: getattr(file, name) for name in ("role", "path", "engine", "precision", "target")}
    return NewFile(source=bundle.path(file), **kept)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A private folder on the same file system as `path`, gone afterwards."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
            yield Path(work)
    except OSError as error:
        raise BundleError(f"{path}: the bundle cannot be written ({error}); nothing was changed.") from error


def _copy_in(folder: Path, file: NewFile) -> BundleFile:
    path = file.path or file.source.name
    if not SAFE_PATH.fullmatch(path):
        raise BundleError(f"{path!r:.120} is no name for a file in a bundle; use letters, digits, '.', '_' and '-'.")
    target = folder / path
    if target.exists():
        raise BundleError(f"two files are to be {path} in one bundle; give one of them another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with file.source.open("rb") as source, target.open("xb") as copy:
        while block := source.read(COPY_BYTES):
            digest.update(block)
            copy.write(block)
        size = copy.tell()
    kept = {name: getattr(file, name) for name in ("role", "engine", "precision", "target")}
    return BundleFile(path=path, bytes=size, sha256=digest.hexdigest(), **kept)


def _entry(file: BundleFile) -> dict[str, Any]:
    """A file's entry in `bundle.json`, without what is not set."""
    return {name: value for name, value in _shallow(file).items() if value not in (None, {})}


def _shallow(item: Any) -> dict[str, Any]:
    kind = Manifest if isinstance(item, Manifest) else type(item)
    return {entry.name: getattr(item, entry.name) for entry in fields(kind)}


def _zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_STORED, strict_timestamps=False) as members:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                members.write(file, file.relative_to(folder).as_posix())
    return archive


def put_in_place(made: Path, path: Path, work: Path) -> None:
    """Rename `made` to `path`; a folder cannot be renamed over another, so the old steps aside first, into `work`."""
    if not path.is_dir():
        made.rename(path)
        return
    path.rename(work / "replaced")
    try:
        made.rename(path)
    except OSError:
        (work / "replaced").rename(path)
        raise
