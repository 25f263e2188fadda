"""A bundle as the beginning of a run: the weights of its ONNX model, back as PyTorch names and lays them out.

The graph is one that asr-export wrote (its names are those of the layers), so that what it did to the weights can be
undone: products are stored turned, queries are scaled, and matrices may have 16 or 8 bits. The intermediate layer of
training is not in the file, unless the model is conditioned on it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asr_runtime.bundle import Bundle
from asr_runtime.errors import BundleError, RecipeError
from asr_training.checkpoint import Checkpoint
from asr_training.model import AcousticModel, Attention
from asr_training.recipe import ConvolutionAttention, Features, Model, check_acoustics, convert, from_table
from asr_training.text import Alphabet

# Where the graph's name of a layer is not the model's.
NAMES = {"encoder.stem.norm": "encoder.stem", "encoder.output": "logits"}
NAMES |= {"encoder.intermediate": "encoder.condition.found", "encoder.condition": "encoder.condition.layer"}
# The precisions whose files hold the weights by name; others compute in what they store.
PRECISIONS = ("fp32", "fp32-w16", "fp32-w8")


def load_bundle(path: Path) -> Checkpoint:
    """The model of a bundle of the convolution and attention family, with float32 weights.

    Raises RecipeError for a bundle of another family, one that asr-export did not make of a checkpoint, or one that
    cannot be read.
    """
    try:
        bundle = Bundle.load(path)
    except BundleError as error:
        raise RecipeError(f"cannot begin from this bundle: {error}") from None
    recipe = bundle.provenance.get("recipe")
    file = next((f for p in PRECISIONS if (f := bundle.find("model", engine="onnx", precision=p))), None)
    if not isinstance(recipe, dict) or file is None:
        raise RecipeError(f"{path} was not made of a checkpoint of asr-train in 32 bits; give the checkpoint itself")
    features = from_table(Features, recipe.get("features"), f"the recipe in {path}")
    architecture: Model = convert(Model, recipe.get("model"), f"the recipe in {path}")
    if not isinstance(architecture, ConvolutionAttention):
        raise RecipeError(f"{path} holds a {architecture.architecture} model; give the checkpoint that it was made of")
    check_acoustics(features, architecture)
    model = AcousticModel(features, architecture, len(bundle.tokens))
    stored = initializers(bundle.path(file))
    with torch.no_grad():
        for name, layer in model.encoder.named_modules(prefix="encoder"):
            take(layer, NAMES.get(name, name), stored)
    alphabet = Alphabet("".join(token for token in bundle.tokens if token))
    return Checkpoint(model.eval(), features, architecture, alphabet, dict(bundle.provenance))


def initializers(path: Path) -> dict[str, Tensor]:
    """The arrays of an ONNX file by name, those with bits less widened to float32."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError:
        raise RecipeError("beginning from a bundle needs onnx; install it (pip install onnx)") from None
    try:
        graph = onnx.load(path, load_external_data=False).graph
        if any(array.data_location == onnx.TensorProto.EXTERNAL for array in graph.initializer):
            raise RecipeError(f"cannot read {path.name}: it has its weights in other files; export the bundle again")
        arrays = {array.name: numpy_helper.to_array(array) for array in graph.initializer}
    except (DecodeError, ValueError, TypeError) as error:
        raise RecipeError(f"cannot read {path.name} ({error}); export the bundle again") from None
    stored = {}
    for name, array in arrays.items():
        plain, _, kind = name.rpartition(".")
        if kind == "fp16":
            stored[plain] = torch.from_numpy(array.astype(np.float32))
        elif kind == "int8":
            stored[plain] = torch.from_numpy(array.astype(np.float32) * arrays[f"{plain}.scale"])
        elif array.dtype == np.float32:
            stored[name] = torch.from_numpy(array.copy())
    return stored


def take(layer: nn.Module, name: str, stored: dict[str, Tensor]) -> None:
    """Fill the weight and bias that `layer` has itself from those that the graph has under `name`."""
    for part, parameter in layer.named_parameters(recurse=False):
        value = stored.get(f"{name}.{part}")
        if value is None:
            if name == NAMES["encoder.intermediate"]:
                continue  # is learnt anew
            raise RecipeError(f"the bundle's model has no {name}.{part}; give the checkpoint that it was made of")
        if isinstance(layer, nn.Linear) and part == "weight":
            value = value.t()
        if value.shape != parameter.shape:
            got, wanted = [*value.shape], [*parameter.shape]
            raise RecipeError(f"the bundle's {name}.{part} is {got}, and {wanted} by its recipe; export it again")
        parameter.copy_(value)
    if isinstance(layer, Attention):
        unscale_queries(layer, name, stored)


def unscale_queries(layer: Attention, name: str, stored: dict[str, Tensor]) -> None:
    """Take the factor 1 / √(head size), which the graph has in the rows of the queries, out of the stored weights."""
    factor = (layer.config.width // layer.config.heads) ** 0.5
    stored[f"{name}.queries_keys_values.weight"][:, : layer.config.width] *= factor
    stored[f"{name}.queries_keys_values.bias"][: layer.config.width] *= factor
