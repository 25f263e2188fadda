"""What `bundle.json` says: the model's description and its files, every field checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from asr_runtime.errors import BundleError

FORMAT = 1
MANIFEST = "bundle.json"
ROLES = ("model", "language_model", "lexicon", "card", "check")
ENGINES = ("onnx", "tensorrt")

MAX_FILES = 64
MAX_FILE_BYTES = 16 << 30
MAX_TOKENS = 1 << 16
MAX_TEXT = 1000  # characters of a name, language, licence or token
SAMPLE_RATES = (4_000, 192_000)  # hertz
FRAME_SECONDS = (0.001, 1.0)

# One to four parts of plain ASCII, none beginning with a dot: no `..`, no drive, no separator of another system.
SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,3}")
SHA256 = re.compile(r"[0-9a-f]{64}")

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """One file of a bundle.

    `path` is relative to the bundle, with `/`. `engine` and `precision` are for role `model`; `target` says what an
    engine file was built for (TensorRT version, compute capability, profile limits).
    """

    role: str
    path: str
    bytes: int
    sha256: str
    engine: str | None = None
    precision: str | None = None
    target: Json = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `bundle.json` says of the model: `tokens` has the blank as `""`, `frame_seconds` is one frame's length.

    `padding` is False for a model whose results change with padding: its batches hold recordings of one length.
    """

    name: str
    language: str
    licence: str
    sample_rate: int
    tokens: tuple[str, ...]
    frame_seconds: float
    padding: bool = True
    decoder: Json = field(default_factory=dict)
    provenance: Json = field(default_factory=dict)
    proofs: Json = field(default_factory=dict)

    @property
    def blank(self) -> int:
        """Index of the blank token."""
        return self.tokens.index("")


def parse_manifest(where: Path, content: Any) -> tuple[Manifest, tuple[BundleFile, ...]]:
    """Check the content of a `bundle.json`; `where` is named in errors. Raises BundleError."""
    check = _Check(where)
    check.that(isinstance(content, dict), f"{MANIFEST} is not an object")
    version = content.get("format")
    if type(version) is not int or version != FORMAT:
        raise BundleError(
            f"{where}: this bundle has format {version!r:.80}, this asr-deploy reads {FORMAT}; "
            "export it again or install the asr-deploy that made it."
        )
    check.keys(content, Manifest, {"format", "files"}, "the bundle")
    manifest = Manifest(
        name=check.text(content, "name"),
        language=check.text(content, "language"),
        licence=check.text(content, "licence"),
        sample_rate=int(check.number(content, "sample_rate", SAMPLE_RATES, whole=True)),
        tokens=_tokens(check, content["tokens"]),
        frame_seconds=check.number(content, "frame_seconds", FRAME_SECONDS),
        padding=check.boolean(content, "padding", True),
        decoder=check.object(content, "decoder"),
        provenance=check.object(content, "provenance"),
        proofs=check.object(content, "proofs"),
    )
    return manifest, _files(check, content["files"])


def _tokens(check: _Check, tokens: Any) -> tuple[str, ...]:
    sane = isinstance(tokens, list) and 2 <= len(tokens) <= MAX_TOKENS
    check.that(sane, f"tokens is not a list of 2 to {MAX_TOKENS} strings")
    for token in tokens:
        check.that(_is_text(token) and len(token) <= MAX_TEXT, f"token {token!r:.80} is not a short text")
    check.that(len(set(tokens)) == len(tokens), "a token stands twice")
    check.that("" in tokens, 'tokens has no blank ("")')
    return tuple(tokens)


def _files(check: _Check, entries: Any) -> tuple[BundleFile, ...]:
    sane = isinstance(entries, list) and 1 <= len(entries) <= MAX_FILES
    check.that(sane, f"files is not a list of 1 to {MAX_FILES} files")
    files = tuple(_file(check, entry) for entry in entries)
    # Two names that differ in case alone are one file on some systems.
    names = [file.path.lower() for file in files] + [MANIFEST]
    check.that(len(set(names)) == len(names), f"two files have one name, or one is {MANIFEST}")
    return files


def _file(check: _Check, entry: Any) -> BundleFile:
    check.that(isinstance(entry, dict), "an entry of files is not an object")
    check.keys(entry, BundleFile, set(), "a file")
    path, digest, role = check.text(entry, "path"), check.text(entry, "sha256"), check.text(entry, "role")
    check.that(SAFE_PATH.fullmatch(path), f"{path!r:.120} is not a plain relative path inside the bundle")
    check.that(SHA256.fullmatch(digest), f"sha256 of {path} is not 64 hexadecimal digits")
    check.that(role in ROLES, f"role {role!r:.80} of {path} is none of {', '.join(ROLES)}")
    engine = check.text(entry, "engine") if role == "model" else None
    check.that(engine in (None, *ENGINES), f"engine {engine!r:.80} of {path} is none of {', '.join(ENGINES)}")
    return BundleFile(
        role=role,
        path=path,
        bytes=int(check.number(entry, "bytes", (0, MAX_FILE_BYTES), whole=True)),
        sha256=digest,
        engine=engine,
        precision=check.text(entry, "precision") if role == "model" else None,
        target=check.object(entry, "target"),
    )


class _Check:
    """Checks of single fields; a fault is one BundleError that names the bundle."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def that(self, holds: object, fault: str) -> None:
        if not holds:
            raise BundleError(f"{self.where}: in {MANIFEST}, {fault}; export the bundle again.")

    def keys(self, entry: Json, kind: type, more: set[str], owner: str) -> None:
        """The keys are the fields of the dataclass `kind` and `more`; fields with a default may be left out."""
        known = {item.name for item in fields(kind)} | more
        required = known - {item.name for item in fields(kind) if _has_default(item)}
        for key in entry:
            self.that(key in known, f"{owner} has an unknown key {key!r:.80}")
        for key in sorted(required):
            self.that(key in entry, f"{owner} has no {key!r}")

    def text(self, entry: Json, key: str) -> str:
        value = entry.get(key)
        self.that(_is_text(value) and 0 < len(str(value)) <= MAX_TEXT, f"{key} is {value!r:.80}, not a short text")
        return str(value)

    def number(self, entry: Json, key: str, limits: tuple[float, float], *, whole: bool = False) -> float:
        value: Any = entry.get(key)
        sane = type(value) in ((int,) if whole else (int, float)) and limits[0] <= value <= limits[1]
        kind = "a whole number" if whole else "a number"
        self.that(sane, f"{key} is {value!r:.80}, not {kind} from {limits[0]} to {limits[1]}")
        return value  # type: ignore[no-any-return]

    def boolean(self, entry: Json, key: str, otherwise: bool) -> bool:
        value: Any = entry.get(key, otherwise)
        self.that(isinstance(value, bool), f"{key} is {value!r:.80}, not true or false")
        return bool(value)

    def object(self, entry: Json, key: str) -> dict[str, Any]:
        value: Any = entry.get(key, {})
        self.that(isinstance(value, dict), f"{key} is {value!r:.80}, not an object")
        return dict(value)


def _is_text(value: Any) -> bool:
    """A string that can be written as UTF-8: JSON can hold halves of surrogate pairs, which cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _has_default(item: Field[Any]) -> bool:
    return item.default is not MISSING or item.default_factory is not MISSING
