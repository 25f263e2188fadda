"""Bundles: what is written comes back; every attack and accident is refused in one sentence, before any parser."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_runtime.bundle import Bundle, Manifest, NewFile, update_bundle, write_bundle
from asr_runtime.errors import BundleError

MANIFEST = Manifest(
    name="tiny",
    language="en",
    licence="CC0-1.0",
    sample_rate=16000,
    tokens=("'", " ", "a", "ß", ""),
    frame_seconds=0.04,
    decoder={"alpha": 0.7},
    provenance={"recipe": "tiny"},
)


def new_file(folder: Path, name: str, content: bytes, role: str = "model") -> NewFile:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    kind = {"engine": "onnx", "precision": "fp32"} if role == "model" else {}
    return NewFile(source=folder / name, role=role, **kind)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = new_file(tmp_path / "made", "model.onnx", b"weights" * 1000)
    write_bundle(tmp_path / "tiny", MANIFEST, [model])
    return tmp_path / "tiny"


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / "bundle.json").read_text())
    change(content)
    (folder / "bundle.json").write_text(json.dumps(content))


def refused(path: Path, *words: str) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("name", ["tiny", "tiny.asr"])
def test_what_is_written_comes_back(tmp_path: Path, name: str) -> None:
    model = new_file(tmp_path / "made", "model.onnx", b"weights" * 1000)
    card = NewFile(
        source=new_file(tmp_path / "made", "README.md", b"", "card").source, role="card", path="docs/card.md"
    )
    write_bundle(tmp_path / name, MANIFEST, [model, card])
    bundle = Bundle.load(tmp_path / name)
    assert Manifest(**{key: getattr(bundle, key) for key in Manifest.__dataclass_fields__}) == MANIFEST
    assert [(file.role, file.path) for file in bundle.files] == [("model", "model.onnx"), ("card", "docs/card.md")]
    found = bundle.find("model", engine="onnx")
    assert found is not None
    assert bundle.path(found).read_bytes() == b"weights" * 1000
    assert bundle.find("model", precision="fp16") is None
    assert bundle.blank == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", name]


@pytest.mark.parametrize("padding", [True, False])
def test_whether_padding_changes_results_is_kept_by_updates(tmp_path: Path, padding: bool) -> None:
    model = new_file(tmp_path / "made", "model.onnx", b"weights")
    write_bundle(tmp_path / "tiny", replace(MANIFEST, padding=padding), [model])
    update_bundle(tmp_path / "tiny", decoder={"beta": 1.0})
    assert Bundle.load(tmp_path / "tiny").padding is padding
    edit(tmp_path / "tiny", lambda content: content.update(padding=1))
    refused(tmp_path / "tiny", "padding is 1, not true or false")


def test_a_zip_stores_its_files_and_its_private_copy_goes_with_the_bundle(tmp_path: Path) -> None:
    write_bundle(tmp_path / "tiny.asr", MANIFEST, [new_file(tmp_path / "made", "model.onnx", b"x" * 99)])
    with zipfile.ZipFile(tmp_path / "tiny.asr") as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
    bundle = Bundle.load(tmp_path / "tiny.asr")
    private = bundle.folder
    assert private.stat().st_mode & 0o077 == 0
    del bundle
    assert not private.exists()


def test_nothing_is_overwritten_without_force_and_only_bundles_with_it(folder: Path, tmp_path: Path) -> None:
    before = (folder / "bundle.json").read_bytes()
    model = new_file(tmp_path / "made", "model.onnx", b"other")
    with pytest.raises(BundleError, match="already"):
        write_bundle(folder, MANIFEST, [model])
    assert (folder / "bundle.json").read_bytes() == before
    write_bundle(folder, MANIFEST, [model], force=True)
    assert (folder / "model.onnx").read_bytes() == b"other"
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(BundleError, match="not a bundle"):
        write_bundle(photos, MANIFEST, [model], force=True)
    assert (photos / "cat.jpg").read_bytes() == b"cat"


def test_a_failed_write_leaves_the_old_bundle_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    missing = NewFile(source=tmp_path / "absent.onnx", role="model", engine="onnx", precision="fp32")
    with pytest.raises(BundleError, match=r"absent\.onnx"):
        write_bundle(folder, MANIFEST, [missing], force=True)
    Bundle.load(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "tiny"]


@pytest.mark.parametrize("name", ["tiny", "tiny.asr"])
def test_a_language_model_is_added_and_replaced_only_with_force(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_bundle(path, MANIFEST, [new_file(tmp_path / "made", "model.onnx", b"weights")])
    first = new_file(tmp_path / "made", "first.klm", b"first", "language_model")
    second = new_file(tmp_path / "made", "second.klm", b"second", "language_model")
    bundle = update_bundle(path, [first], decoder={"beta": 1.0}, proofs={"equal": 1e-6})
    assert (bundle.decoder, bundle.proofs) == ({"alpha": 0.7, "beta": 1.0}, {"equal": 1e-6})
    with pytest.raises(BundleError, match=r"first\.klm"):
        update_bundle(path, [second])
    bundle = update_bundle(path, [second], force=True)
    assert [file.path for file in bundle.files] == ["model.onnx", "second.klm"]
    assert bundle.path(bundle.files[1]).read_bytes() == b"second"


def test_models_of_other_precision_lie_side_by_side(folder: Path, tmp_path: Path) -> None:
    source = new_file(tmp_path / "made", "model.fp16.onnx", b"half").source
    half = NewFile(source=source, role="model", engine="onnx", precision="fp16", target={"opset": 20})
    bundle = update_bundle(folder, [half])
    found = bundle.find("model", precision="fp16")
    assert found is not None
    assert found.target == {"opset": 20}
    assert len(bundle.files) == 2


# --- refused: accidents ----------------------------------------------------------------------------------------------


def test_missing_foreign_and_empty_places(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "no bundle here")
    refused(tmp_path, "no bundle.json")
    (tmp_path / "text.asr").write_text("hello")
    refused(tmp_path / "text.asr", "not a whole .asr bundle")
    (tmp_path / "empty.asr").touch()
    refused(tmp_path / "empty.asr", "not a whole .asr bundle")


def test_another_format_is_named(folder: Path) -> None:
    edit(folder, lambda content: content.update(format=7))
    refused(folder, "format 7", "reads 1")


def test_changed_short_long_and_missing_files(folder: Path) -> None:
    model = folder / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(b"W" + content[1:])
    refused(folder, "model.onnx", "SHA-256")
    model.write_bytes(content[:-1])
    refused(folder, "model.onnx", "only 6999", "7000")
    model.write_bytes(content + b"!")
    refused(folder, "model.onnx", "more", "7000")
    model.unlink()
    refused(folder, "model.onnx", "not there")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": NaN}', '{"format": 1, "format": 1}', "[" * 99999])
def test_a_manifest_that_is_no_manifest(folder: Path, text: str) -> None:
    (folder / "bundle.json").write_text(text)
    refused(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", True),
        ("format", "1"),
        ("format", 10**400),
        ("sample_rate", 0),
        ("sample_rate", 16000.5),
        ("sample_rate", 10**400),
        ("frame_seconds", -1),
        ("frame_seconds", "0.04"),
        ("tokens", []),
        ("tokens", ["a", "b"]),
        ("tokens", ["a", "a", ""]),
        ("tokens", ["a", 1, ""]),
        ("tokens", "abc"),
        ("tokens", ["\ud800", ""]),
        ("name", "\ud800"),
        ("name", ""),
        ("name", None),
        ("decoder", []),
        ("files", []),
        ("files", {}),
        ("files", [None]),
        ("files", [{}] * 65),
        ("surprise", 1),
    ],
)
def test_a_wrong_field_is_named(folder: Path, key: str, value: object) -> None:
    edit(folder, lambda content: content.update({key: value}))
    refused(folder, key.removesuffix("s"))


# --- refused: attacks ------------------------------------------------------------------------------------------------

OUTSIDE = [
    "../secret",
    "/etc/passwd",
    "a/../../secret",
    "C:\\x",
    "..\\x",
    "a//b",
    "./a",
    ".hidden",
    "a\0b",
    "",
    "ü",
    "a\n",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_lead_out_of_the_bundle(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    edit(folder, lambda content: content["files"][0].update(path=path, bytes=6, sha256=digest))
    refused(folder)


def test_links_files_that_nobody_named_and_pipes(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder.parent / "elsewhere").write_bytes(content)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")
    refused(folder, "model.onnx is a link")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").write_bytes(content)
    (folder / "more").symlink_to(folder.parent)
    refused(folder, "more is a link")
    (folder / "more").unlink()
    (folder / "weights.bin").write_bytes(b"external data")
    refused(folder, "weights.bin", "not named")
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "pipe")
    refused(folder, "pipe is neither")


def test_two_names_for_one_file_and_the_manifest_naming_itself(folder: Path) -> None:
    edit(folder, lambda content: content["files"].append({**content["files"][0], "path": "MODEL.onnx"}))
    refused(folder, "two files have one name")
    edit(folder, lambda content: content.update(files=[{**content["files"][0], "path": "bundle.json"}]))
    refused(folder, "bundle.json")


def test_a_folder_of_thousands_is_left_at_once(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).touch()
    refused(tmp_path, "more than 64 files")


def rezip(folder: Path, target: Path, compression: int = zipfile.ZIP_STORED) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(target, "w", compression)
    for file in folder.iterdir():
        archive.write(file, file.name)
    return archive


def test_zips_with_compression_links_doubles_extras_and_strange_names(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.asr"
    rezip(folder, path, zipfile.ZIP_DEFLATED).close()
    refused(path, "compressed")
    with rezip(folder, path) as archive:
        archive.writestr("../evil", "x")
    refused(path, "../evil", "not named")
    with rezip(folder, path) as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    refused(path, "link")
    with rezip(folder, path) as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(folder / "model.onnx", "model.onnx")
    refused(path, "twice")
    with rezip(folder, path) as archive:
        for number in range(200):
            archive.writestr(str(number), "")
    refused(path, "more than 64 files")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_zip_or_manifest_is_refused_or_whole(folder: Path, data: st.DataObject) -> None:
    """Any cut or changed byte: either BundleError or, where no meaning changed, the very same files."""
    path = folder.parent / "damaged.asr"
    if not path.exists():
        rezip(folder, path).close()
    original = path.read_bytes()
    content = bytearray(original)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        # The ends of a zip hold its structure, the middle is the model.
        place = data.draw(st.one_of(st.integers(-400, -1), st.integers(0, 1200), st.integers(0, len(original))))
        if content:
            content[place % len(content)] = data.draw(st.integers(0, 255))
    damaged = folder.parent / "try.asr"
    damaged.write_bytes(content)
    try:
        bundle = Bundle.load(damaged)
    except BundleError as error:
        assert "\n" not in str(error)
        return
    assert (bundle.folder / bundle.files[0].path).read_bytes() == b"weights" * 1000


def test_loading_survives_moving_the_folder(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "moved")
    assert Bundle.load(tmp_path / "moved").name == "tiny"
