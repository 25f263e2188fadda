"""Make hostile model files: `python tests/attacks/make.py FOLDER` writes one of each into FOLDER.

Each function is one attack. It gets an empty folder and returns what a victim would be given: a bundle, a language
model, a folder to import, weights. `ATTACKS` says what they are opened as and what the refusal has to say.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SECRET = b"a file of the victim's that no model may read" * 100
TOKENS = ["a", "b", ""]

Attack = Callable[[Path], Path]
ATTACKS: list[tuple[Attack, str, str]] = []


def opened_as(kind: str, refusal: str) -> Callable[[Attack], Attack]:
    """Register an attack."""

    def register(attack: Attack) -> Attack:
        ATTACKS.append((attack, kind, refusal))
        return attack

    return register


# --- parts -----------------------------------------------------------------------------------------------------------


def model(bias: TensorProto | None = None, nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """A graph with a bundle's signature: silence as log-probabilities of `TOKENS`, with a bias that an attack forms."""
    bias = bias or numpy_helper.from_array(np.zeros(3, np.float32), "bias")
    shape = numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "shape")
    body = [
        helper.make_node("ReduceSum", ["waveform"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
        *(nodes or [helper.make_node("Identity", ["bias"], ["used"])]),
        helper.make_node("Cast", ["lengths"], ["counts"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["counts", "shape"], ["column"]),
        helper.make_node("Mul", ["column", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "used"], ["log_probs"]),
        helper.make_node("Div", ["lengths", "lengths"], ["frames"]),
    ]
    graph = helper.make_graph(
        body,
        "attack",
        [
            helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["batch", "most", 3]),
            helper.make_tensor_value_info("frames", TensorProto.INT64, ["batch"]),
        ],
        [bias, shape, numpy_helper.from_array(np.float32(0), "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def elsewhere(location: str, offset: str = "0", length: str = "12") -> TensorProto:
    """A tensor of three numbers that says it lies in another file."""
    tensor = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def entry(path: str, content: bytes, **more: Any) -> dict[str, Any]:
    """A file as `bundle.json` names it, with its true size and SHA-256: an attacker can write both."""
    said = {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"role": "model", "engine": "onnx", "precision": "fp32", **said, **more}


def manifest(entries: list[dict[str, Any]], **more: Any) -> bytes:
    """A `bundle.json`."""
    said = {
        "name": "x",
        "language": "en",
        "licence": "x",
        "sample_rate": 16000,
        "tokens": TOKENS,
        "frame_seconds": 0.04,
    }
    return json.dumps({"format": 1, **said, "files": entries, **more}).encode()


def bundle(folder: Path, content: bytes, **more: Any) -> Path:
    """A bundle of one model whose `bundle.json` is right about it."""
    made = folder / "bundle"
    made.mkdir()
    (made / "model.onnx").write_bytes(content)
    (made / "bundle.json").write_bytes(manifest([entry("model.onnx", content)], **more))
    return made


def zipped(folder: Path, members: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    """An .asr file."""
    path = folder / "bundle.asr"
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def importable(folder: Path, graph: onnx.ModelProto | bytes, tokens: str = "a 0\nb 1\n<blk> 2\n") -> Path:
    """A folder as onnx-asr has it."""
    made = folder / "import"
    made.mkdir()
    (made / "model.onnx").write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
    (made / "vocab.txt").write_text(tokens)
    return made


# --- bundles: names and sizes ----------------------------------------------------------------------------------------


@opened_as("bundle", "not a plain relative path")
def names_a_file_above_the_bundle(folder: Path) -> Path:
    made = bundle(folder, b"x")
    (made / "bundle.json").write_bytes(manifest([entry("../secret", SECRET)]))
    (folder / "secret").write_bytes(SECRET)
    return made


@opened_as("bundle", "not a plain relative path")
def names_an_absolute_path(folder: Path) -> Path:
    made = bundle(folder, b"x")
    (folder / "secret").write_bytes(SECRET)
    (made / "bundle.json").write_bytes(manifest([entry(str(folder / "secret"), SECRET)]))
    return made


@opened_as("bundle", "is a link")
def links_out_of_the_bundle(folder: Path) -> Path:
    made = bundle(folder, SECRET)
    (folder / "secret").write_bytes(SECRET)
    (made / "model.onnx").unlink()
    (made / "model.onnx").symlink_to(folder / "secret")
    return made


@opened_as("bundle", "frame_seconds is")
def claims_frames_of_ages(folder: Path) -> Path:
    return bundle(folder, b"x", frame_seconds=1e300)


@opened_as("bundle", "bytes is")
def claims_more_bytes_than_any_disk_has(folder: Path) -> Path:
    made = bundle(folder, b"x")
    (made / "bundle.json").write_bytes(manifest([entry("model.onnx", b"x", bytes=1 << 62)]))
    return made


@opened_as("bundle", "files is not a list of 1 to 64")
def names_a_million_files(folder: Path) -> Path:
    made = bundle(folder, b"x")
    (made / "bundle.json").write_bytes(manifest([entry(f"{i}", b"") for i in range(20_000)]))
    return made


@opened_as("bundle", "tokens is not a list of 2 to 65536")
def has_a_million_tokens(folder: Path) -> Path:
    return bundle(folder, b"x", tokens=["", *map(str, range(100_000))])


@opened_as("bundle", "not valid JSON")
def nests_json_deeply(folder: Path) -> Path:
    made = bundle(folder, b"x")
    (made / "bundle.json").write_bytes(b"[" * 200_000)
    return made


@opened_as("bundle", "larger than")
def has_a_manifest_of_megabytes(folder: Path) -> Path:
    return bundle(folder, b"x", provenance={"x": "x" * (5 << 20)})


# --- bundles: zips ---------------------------------------------------------------------------------------------------


@opened_as("bundle", "is in the bundle but not named")
def zips_a_file_above(folder: Path) -> Path:
    content = model().SerializeToString()
    members = {"bundle.json": manifest([entry("model.onnx", content)]), "model.onnx": content, "../evil": b"x"}
    return zipped(folder, members)


@opened_as("bundle", "not a plain relative path")
def zips_and_names_a_file_above(folder: Path) -> Path:
    return zipped(folder, {"bundle.json": manifest([entry("../evil", b"x")]), "../evil": b"x"})


@opened_as("bundle", "is compressed")
def zips_a_bomb(folder: Path) -> Path:
    content = bytes(50 << 20)
    members = {"bundle.json": manifest([entry("model.onnx", content)]), "model.onnx": content}
    return zipped(folder, members, zipfile.ZIP_DEFLATED)


@opened_as("bundle", "is a link or folder")
def zips_a_link(folder: Path) -> Path:
    path = folder / "bundle.asr"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bundle.json", manifest([entry("model.onnx", b"/etc/passwd")]))
        link = zipfile.ZipInfo("model.onnx")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return path


@opened_as("bundle", "not a whole .asr bundle")
def cuts_a_zip(folder: Path) -> Path:
    content = model().SerializeToString()
    path = zipped(folder, {"bundle.json": manifest([entry("model.onnx", content)]), "model.onnx": content})
    path.write_bytes(path.read_bytes()[:-30])
    return path


@opened_as("bundle", "")
def lies_about_sizes_in_a_zip(folder: Path) -> Path:
    content = model().SerializeToString()
    path = zipped(folder, {"bundle.json": manifest([entry("model.onnx", content)]), "model.onnx": content})
    damaged = bytearray(path.read_bytes())
    place = damaged.rfind(b"PK\x01\x02")
    damaged[place + 20 : place + 28] = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    path.write_bytes(damaged)
    return path


# --- bundles: models -------------------------------------------------------------------------------------------------


@opened_as("bundle", "cannot load this model")
def keeps_weights_in_a_file_above(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    return bundle(folder, model(elsewhere("../secret")).SerializeToString())


@opened_as("bundle", "cannot load this model")
def keeps_weights_at_an_absolute_path(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    return bundle(folder, model(elsewhere(str(folder / "secret"))).SerializeToString())


@opened_as("bundle", "cannot load this model")
def keeps_weights_in_a_device(folder: Path) -> Path:
    return bundle(folder, model(elsewhere("/dev/zero")).SerializeToString())


@opened_as("bundle", "cannot load this model")
def keeps_weights_in_memory_of_the_process(folder: Path) -> Path:
    return bundle(folder, model(elsewhere("*/_ORT_MEM_ADDR_/*", offset="4096")).SerializeToString())


@opened_as("bundle", "cannot load this model")
def claims_a_tensor_of_petabytes(folder: Path) -> Path:
    tensor = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[1 << 48], raw_data=b"1234")
    return bundle(folder, model(tensor).SerializeToString())


@opened_as("bundle", "cannot load this model")
def claims_a_negative_size(folder: Path) -> Path:
    tensor = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[-3], raw_data=b"1234")
    return bundle(folder, model(tensor).SerializeToString())


@opened_as("bundle", "cannot load this model")
def cuts_a_model(folder: Path) -> Path:
    return bundle(folder, model().SerializeToString()[:-100])


@opened_as("bundle", "cannot load this model")
def is_no_model(folder: Path) -> Path:
    return bundle(folder, np.random.default_rng(1).bytes(5000))


@opened_as("bundle", "cannot load this model")
def calls_an_operator_of_its_own(folder: Path) -> Path:
    return bundle(folder, model(nodes=[helper.make_node("Run", ["bias"], ["used"], domain="evil")]).SerializeToString())


@opened_as("run", "ONNX Runtime failed on the model")
def makes_petabytes_when_it_runs(folder: Path) -> Path:
    size = numpy_helper.from_array(np.array([1 << 30, 1 << 20], np.int64))
    nodes = [
        helper.make_node("Constant", [], ["size"], value=size),
        helper.make_node("Identity", ["size"], ["hidden"]),
        helper.make_node("ConstantOfShape", ["hidden"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "bias"], ["used"]),
    ]
    return bundle(folder, model(nodes=nodes).SerializeToString())


@opened_as("run", "NaN")
def answers_with_what_is_no_number(folder: Path) -> Path:
    return bundle(folder, model(numpy_helper.from_array(np.full(3, np.nan, np.float32), "bias")).SerializeToString())


# --- language models -------------------------------------------------------------------------------------------------

HEADER = b"mmap lm http://kheafield.com/code format version 5\n\0".ljust(56, b"\0")
HEADER += struct.pack("<fffIIxxxxQ", 0, 1, -0.5, 1, 2**32 - 1, 1)


def language_model(folder: Path, counts: tuple[int, ...], order: int = 2, kind: int = 2) -> Path:
    """The header of a KenLM binary with these counts, and some zeros behind it."""
    parameters = struct.pack("<B3xfiB3xI", order, 1.5, kind, 1, 0)
    path = folder / "lm.binary"
    path.write_bytes(HEADER + parameters + struct.pack(f"<{len(counts)}Q", *counts) + bytes(4096))
    return path


@opened_as("language model", "grams")
def counts_more_words_than_there_are_bytes(folder: Path) -> Path:
    return language_model(folder, (100, 1 << 63))


@opened_as("language model", "its order is 200")
def has_an_order_of_two_hundred(folder: Path) -> Path:
    return language_model(folder, (3,) * 20, order=200)


@opened_as("language model", "")
def cuts_a_language_model(folder: Path) -> Path:
    whole = Path(__file__).parents[2] / "runtime" / "asr_runtime" / "bundles" / "english" / "lm.binary"
    path = folder / "lm.binary"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


@opened_as("language model", "")
def counts_n_grams_in_arpa_that_never_come(folder: Path) -> Path:
    path = folder / "lm.arpa"
    path.write_text("\\data\\\nngram 1=1000000000\nngram 2=5\n\n\\1-grams:\n-1\t<unk>\n")
    return path


# --- models to import ------------------------------------------------------------------------------------------------


@opened_as("import-onnx", "wanted a plain file beside the model")
def imports_weights_from_above(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    return importable(folder, model(elsewhere("../secret")))


@opened_as("import-onnx", "wanted a plain file beside the model")
def imports_weights_from_an_absolute_path(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    return importable(folder, model(elsewhere(str(folder / "secret"))))


@opened_as("import-onnx", "wanted a plain file beside the model")
def imports_weights_by_a_link(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    made = importable(folder, model(elsewhere("weights")))
    (made / "weights").symlink_to(folder / "secret")
    return made


@opened_as("import-onnx", "reach beyond")
def imports_weights_behind_a_file_s_end(folder: Path) -> Path:
    made = importable(folder, model(elsewhere("weights", offset="90", length="12")))
    (made / "weights").write_bytes(bytes(100))
    return made


@opened_as("import-onnx", "reach beyond")
def imports_weights_of_a_negative_length(folder: Path) -> Path:
    made = importable(folder, model(elsewhere("weights", length="-5")))
    (made / "weights").write_bytes(bytes(100))
    return made


@opened_as("import-onnx", "less than 2 GiB")
def imports_weights_that_are_mostly_holes(folder: Path) -> Path:
    made = importable(folder, model(elsewhere("weights", length=str(1 << 40))))
    with (made / "weights").open("wb") as sparse:
        sparse.truncate(1 << 40)
    return made


@opened_as("import-onnx", "wanted a plain file beside the model")
def hides_weights_in_an_inner_graph(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    inner = helper.make_node("Constant", [], ["x"], value=elsewhere("../secret"))
    branch = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])])
    always = helper.make_node("Constant", [], ["always"], value=numpy_helper.from_array(np.array(True)))
    either = helper.make_node("If", ["always"], ["used"], then_branch=branch, else_branch=branch)
    return importable(folder, model(nodes=[always, either]))


@opened_as("import-onnx", "no whole ONNX model")
def imports_noise(folder: Path) -> Path:
    return importable(folder, np.random.default_rng(1).bytes(5000))


@opened_as("import-onnx", "no plain file")
def imports_a_link(folder: Path) -> Path:
    made = importable(folder, model())
    (made / "model.onnx").rename(folder / "elsewhere.onnx")
    (made / "model.onnx").symlink_to(folder / "elsewhere.onnx")
    return made


@opened_as("import-onnx", "more than 4194304 bytes")
def imports_a_configuration_of_megabytes(folder: Path) -> Path:
    made = importable(folder, model())
    (made / "config.json").write_text(json.dumps({"model_type": "nemo-conformer-ctc", "x": "x" * (5 << 20)}))
    return made


@opened_as("import-onnx", "is a link")
def imports_tokens_by_a_link(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    made = importable(folder, nemo_model())
    (made / "vocab.txt").unlink()
    (made / "vocab.txt").symlink_to(folder / "secret")
    return made


@opened_as("import-seed", "nothing was run")
def imports_weights_that_run_code(folder: Path) -> Path:
    stream = io.BytesIO()
    stream.write(b"\x80\x02cos\nsystem\nX" + struct.pack("<I", 10) + b"touch evil" + b"\x85R.")
    path = folder / "weights.pth"
    path.write_bytes(stream.getvalue())
    return path


def odd_weights(folder: Path, form: Callable[[Any], Any], name: Any = "cnn.weight") -> Path:
    """Weights of one tensor, which an attack forms, under a name that may be none."""
    import torch

    path = folder / "weights.pth"
    torch.save({name: form(torch.ones(2, 2))}, path)
    return path


@opened_as("import-seed", "wanted a state_dict of names and plain tensors")
def imports_weights_that_are_sparse(folder: Path) -> Path:
    return odd_weights(folder, lambda ones: ones.to_sparse())


@opened_as("import-seed", "wanted a state_dict of names and plain tensors")
def imports_weights_without_numbers(folder: Path) -> Path:
    return odd_weights(folder, lambda ones: ones.to("meta"))


@opened_as("import-seed", "wanted a state_dict of names and plain tensors")
def imports_weights_that_are_quantised(folder: Path) -> Path:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch will make no more of them some day; it will read them still
        return odd_weights(folder, lambda ones: torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8))


@opened_as("import-seed", "wanted a state_dict of names and plain tensors")
def imports_weights_named_by_numbers(folder: Path) -> Path:
    return odd_weights(folder, lambda ones: ones, name=1)


@opened_as("import-seed", "of another model")
def imports_a_convolution_of_one_number(folder: Path) -> Path:
    import torch

    weights = {"cnn.weight": torch.tensor(1.0), "fc.weight": torch.ones(4, 64), "dense.3.weight": torch.ones(29, 4)}
    parts = {f"res_cnn.{i}.{part}": torch.ones(1) for i in range(5) for part in ("norm.weight", "conv.weight")}
    path = folder / "weights.pth"
    torch.save({**weights, **parts, "rnn.0.gru.weight_ih_l0": torch.ones(3, 1)}, path)
    return path


@opened_as("import-seed", "tensors that share their numbers")
def imports_weights_of_petabytes(folder: Path) -> Path:
    """A pickle of torch may say that one number is a tensor of any size, each step in it being none."""
    import torch

    def sized(*size: int) -> torch.Tensor:
        return torch.zeros(1).expand(*size)

    weights = {
        "cnn.weight": sized(1 << 20, 1, 3, 3),
        "fc.weight": sized(1 << 20, 64 << 20),
        "dense.3.weight": sized(29, 512),
        **{f"res_cnn.{i}.{part}": sized(1) for i in range(5) for part in ("norm.weight", "conv.weight")},
        "rnn.0.gru.weight_ih_l0": sized(3, 1),
    }
    path = folder / "weights.pth"
    torch.save(weights, path)
    return path


def nemo_model() -> onnx.ModelProto:
    """A graph as NeMo exports CTC models: each frame of features, of which there are as many as tokens, as logits."""
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3, "frames"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "frames", 3])
    node = helper.make_node("Transpose", ["features"], ["logits"], perm=[0, 2, 1])
    graph = helper.make_graph([node], "nemo", [features], [logits])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def transformers_folder(folder: Path, **files: Any) -> Path:
    """A folder of transformers with the `config.json` of a small model, and `files` that are JSON, by name."""
    made = folder / "model"
    made.mkdir()
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    small |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    config = {"model_type": "wav2vec2", "vocab_size": 4, "pad_token_id": 0, **small}
    vocabulary = {"<pad>": 0, "|": 1, "a": 2, "b": 3}
    for name, content in {"config": config, "vocab": vocabulary, **files}.items():
        (made / f"{name}.json").write_text(json.dumps(content))
    return made


def safetensors(**shapes: list[int]) -> bytes:
    """A file of float32 zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    said = json.dumps(header).encode()
    return struct.pack("<Q", len(said)) + said + bytes(end)


@opened_as("import-huggingface", "'../secret.safetensors'")
def imports_weights_that_an_index_has_above(folder: Path) -> Path:
    (folder / "secret.safetensors").write_bytes(safetensors(x=[4]))
    places = {"lm_head.bias": "../secret.safetensors", "lm_head.weight": "model-1.safetensors"}
    made = transformers_folder(folder, **{"model.safetensors.index": {"metadata": {}, "weight_map": places}})
    (made / "model-1.safetensors").write_bytes(safetensors(x=[4]))
    return made


@opened_as("import-huggingface", "got weights in ['model-1.safetensors']")
def imports_weights_that_an_index_has_in_a_list(folder: Path) -> Path:
    places = {"lm_head.bias": ["model-1.safetensors"]}
    made = transformers_folder(folder, **{"model.safetensors.index": {"metadata": {}, "weight_map": places}})
    (made / "model-1.safetensors").write_bytes(safetensors(x=[4]))
    return made


@opened_as("import-huggingface", "is a link")
def imports_weights_of_transformers_by_a_link(folder: Path) -> Path:
    (folder / "secret.safetensors").write_bytes(safetensors(x=[4]))
    made = transformers_folder(folder)
    (made / "model.safetensors").symlink_to(folder / "secret.safetensors")
    return made


@opened_as("import-huggingface", "is a link")
def imports_a_vocabulary_by_a_link(folder: Path) -> Path:
    made = transformers_folder(folder)
    (made / "vocab.json").rename(folder / "secret.json")
    (made / "vocab.json").symlink_to(folder / "secret.json")
    (made / "model.safetensors").write_bytes(safetensors(x=[4]))
    return made


@opened_as("import-huggingface", "conv_stride")
def imports_a_model_without_frames(folder: Path) -> Path:
    made = transformers_folder(folder)
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "conv_stride": [0] * 7}))
    (made / "model.safetensors").write_bytes(safetensors(x=[4]))
    return made


@opened_as("import-huggingface", "no weights in safetensors")
def imports_a_pickle_of_transformers(folder: Path) -> Path:
    made = folder / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"model_type": "wav2vec2", "auto_map": {"AutoConfig": "evil.Config"}}))
    (made / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\nX\n\0\0\0touch evil\x85R.")
    (made / "evil.py").write_text("open('evil', 'w')\n")
    return made


# --- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, config: bytes | None = None, **model: Any) -> Path:
    """A checkpoint with weights of no model, whose architecture an attack forms."""
    made = folder / "checkpoint"
    made.mkdir()
    said = {"format": 1, "features": {}, "model": model, "alphabet": "ab", "provenance": {}}
    (made / "config.json").write_bytes(config or json.dumps(said).encode())
    (made / "model.safetensors").write_bytes(safetensors(x=[4]))
    return made


@opened_as("checkpoint", "the checkpoint is damaged")
def nests_json_of_a_checkpoint_deeply(folder: Path) -> Path:
    return checkpoint(folder, b"[" * 200_000)


@opened_as("checkpoint", "recurrent_size is 1073741824")
def is_a_checkpoint_of_absurd_sizes(folder: Path) -> Path:
    return checkpoint(folder, architecture="crnn", recurrent_size=1 << 30)


@opened_as("checkpoint", "of another model")
def is_a_checkpoint_of_terabytes(folder: Path) -> Path:
    return checkpoint(folder, architecture="crnn", recurrent_size=16384, recurrent_layers=64)


@opened_as("checkpoint", "not a multiple of twice the 3 heads")
def is_a_checkpoint_of_heads_that_do_not_share_its_width(folder: Path) -> Path:
    return checkpoint(folder, architecture="convolution-attention", width=8, heads=3)


@opened_as("checkpoint", "the bands go from 7600.0 to 100.0 Hz")
def is_a_checkpoint_of_bands_that_end_before_they_begin(folder: Path) -> Path:
    said = {"format": 1, "features": {"low_hz": 7600.0, "high_hz": 100.0}, "model": {"architecture": "crnn"}}
    return checkpoint(folder, json.dumps({**said, "alphabet": "ab", "provenance": {}}).encode())


@opened_as("begin from", "not a multiple of twice the 3 heads")
def begins_with_heads_that_do_not_share_the_width(folder: Path) -> Path:
    recipe = {"features": {}, "model": {"architecture": "convolution-attention", "width": 8, "heads": 3}}
    return bundle(folder, model().SerializeToString(), provenance={"recipe": recipe})


@opened_as("begin from", "window is 600")
def begins_with_a_window_wider_than_its_transform(folder: Path) -> Path:
    recipe = {"features": {"fft": 512, "window": 600}, "model": {"architecture": "convolution-attention"}}
    return bundle(folder, model().SerializeToString(), provenance={"recipe": recipe})


@opened_as("begin from", "cannot read")
def begins_with_weights_from_above(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    bundle_of_ours = Path(__file__).parents[2] / "runtime" / "asr_runtime" / "bundles" / "english" / "bundle.json"
    provenance = json.loads(bundle_of_ours.read_text())["provenance"]
    return bundle(folder, model(elsewhere("../secret")).SerializeToString(), provenance=provenance)


# --- engines ---------------------------------------------------------------------------------------------------------


@opened_as("engine", "wanted them in the file itself")
def builds_an_engine_with_weights_from_above(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET)
    return bundle(folder, model(elsewhere("../secret")).SerializeToString())


@opened_as("engine", "less than 2 GiB")
def builds_an_engine_of_terabytes(folder: Path) -> Path:
    made = bundle(folder, b"x")
    with (made / "model.onnx").open("wb") as sparse:
        sparse.truncate(1 << 40)
    return made


@opened_as("engine", "no whole ONNX model")
def builds_an_engine_of_noise(folder: Path) -> Path:
    return bundle(folder, np.random.default_rng(1).bytes(5000))


@opened_as("engine", "TensorRT may not take it")
def builds_an_engine_of_a_loop_from_nowhere(folder: Path) -> Path:
    loop = helper.make_node("GRU", ["nothing.there", "w", "r"], ["used"], hidden_size=1 << 60)
    return bundle(folder, model(nodes=[loop]).SerializeToString())


if __name__ == "__main__":
    for attack, kind, _ in ATTACKS:
        place = Path(sys.argv[1]) / attack.__name__
        place.mkdir(parents=True)
        print(f"{kind}: {attack(place)}")
