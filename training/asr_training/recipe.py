"""Recipes: everything that decides a training run, as frozen dataclasses read from TOML.

A recipe has the tables `[data]`, `[features]`, `[model]`, `[augment]` and `[training]`; each key is a field below, with
its unit. An unknown key, a wrong type or an unknown architecture is a `RecipeError` that names it.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from asr_runtime.errors import RecipeError
from asr_training.schedule import SCHEDULES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ALPHABET = "' abcdefghijklmnopqrstuvwxyz"
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Source:
    """A manifest (JSON lines), a LibriSpeech folder or a folder of shards, and how often an epoch goes through it."""

    path: str
    repeat: int = 1
    spliced: float = 0.0  # besides, so many times its audio with the words in another order; wants cuts, see splice.py


@dataclass(frozen=True)
class Data:
    """Where speech and text come from. Relative paths start at the folder that `asr-train` is called in."""

    train: tuple[Source, ...]
    validation: tuple[Source, ...]
    alphabet: str = ALPHABET  # one token a character; the blank is added behind them
    pronunciations: str = ""  # a file of words, tabs and phonemes: what the intermediate layer learns, or
    spoken: bool = False  # the model itself: its alphabet is the phonemes, each of one character, and the space
    lower_case: bool = True
    longest_seconds: float = 17.0  # longer recordings are left out of training
    shards_at_once: int = 8  # of training data in shards: so many are mixed, and sorted by length, together

    @property
    def for_evaluation(self) -> Data:
        """The same without what only the loss of training needs."""
        return self if self.spoken else dataclasses.replace(self, pronunciations="")


@dataclass(frozen=True)
class Features:
    """The front end: power spectrum in mel bands, with or without a logarithm."""

    sample_rate: int = 16000
    mels: int = 80
    fft: int = 512
    window: int = 400  # samples
    hop: int = 160  # samples
    low_hz: float = 20.0
    high_hz: float = 7600.0
    log: bool = True
    floor: float = 1e-6  # added to the power before the logarithm
    normalise: bool = True  # per utterance: subtract each band's mean, divide by one standard deviation


@dataclass(frozen=True)
class CRNN:
    """Residual convolutions over time and frequency, then bidirectional GRUs; one frame out for two in."""

    architecture: str = "crnn"
    channels: int = 32
    blocks: int = 5
    convolutions: int = 1  # per residual block
    activation: str = "relu"  # or "gelu"
    recurrent_layers: int = 5
    recurrent_size: int = 512  # per direction
    dropout: float = 0.1


@dataclass(frozen=True)
class ConvolutionAttention:
    """Depthwise convolution blocks with a few attention layers between them; one frame out for four in."""

    architecture: str = "convolution-attention"
    stem: int = 384
    width: int = 256
    blocks: int = 9
    expansion: int = 3
    kernel: int = 15
    heads: int = 4
    attention_every: int = 3
    dropout: float = 0.1
    phonemes: int = 0  # what the intermediate layer tells apart, besides the blank; 0: the alphabet's characters
    subframes: int = 1  # frames of log-probabilities for four feature frames: 1, 2 or 4; finer for fast speech
    conditioned: bool = False  # what the intermediate layer found goes into the blocks behind it


ARCHITECTURES = {"crnn": CRNN, "convolution-attention": ConvolutionAttention}
Model = CRNN | ConvolutionAttention


@dataclass(frozen=True)
class Augment:
    """Changes of the log-mel features, drawn anew for each utterance and epoch. 0 turns one off."""

    speed: float = 0.0  # largest change of speed, as a share: 0.14 is 1/1.14 to 1.14
    warp: float = 0.0  # largest stretch of the frequency axis, as a share, drawn for its low and its high end
    noise: float = 0.0  # probability of a steady coloured noise floor
    quieter: float = 0.0  # most decibels to turn it down by; what falls below the front end's floor is lost
    telephone: float = 0.0  # probability that what lies above some 3300 to 3900 hertz is lost
    frequency_masks: int = 0
    frequency_width: int = 20  # mel bands
    time_masks_per_second: float = 0.0
    time_width: int = 25  # frames
    full_after: float = 0.0  # share of the run after which augmentation is at full strength


@dataclass(frozen=True)
class Training:
    """How the weights are fitted."""

    epochs: int = 25
    batch_utterances: int = 0  # utterances in a batch, or
    batch_seconds: float = 0.0  # seconds of padded audio in a batch
    learning_rate: float = 5e-4
    accumulate: int = 1  # batches whose gradients make one step
    schedule: str = "constant"  # or "linear" or "cosine": to 0 at the end
    flat: float = 0.0  # share of the run before the descent begins
    warmup_steps: int = 0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    intermediate_weight: float = 0.0  # share of a second CTC loss at two thirds of the blocks
    discriminative: float = 0.0  # weight of all texts' likelihood, taken off that of the right one; see denominator.py
    consistency: float = 0.0  # weight of what two changed versions of an utterance disagree in; 0: there is one
    bfloat16: bool = False  # autocast of matrix products; weights stay float32
    float16: bool = False  # the same in float16, with a scaled loss; for GPUs without bfloat16
    ema: float = 0.0  # decay of the moving average of weights that is validated and kept; 0: none
    patience: int = 0  # validations in a row without a lower WER that end the run; 0: it goes on
    seed: int = 1
    validate_every_minutes: float = 0.0  # besides the end of each epoch; 0: only there
    threads: int = 0  # 0: as many as PyTorch takes
    workers: int = 0  # threads that read and change batches ahead, so many steps of them; 0: none

    @property
    def views(self) -> int:
        """How many changed versions of each utterance a step hears."""
        return 2 if self.consistency else 1


@dataclass(frozen=True)
class Recipe:
    """A whole training run."""

    name: str
    data: Data
    model: Model
    features: Features = field(default_factory=Features)
    augment: Augment = field(default_factory=Augment)
    training: Training = field(default_factory=Training)

    @property
    def views_differ(self) -> bool:
        """Whether two views of an utterance, at one speed, are heard as different ones."""
        changes = self.augment
        masks = changes.frequency_masks or changes.time_masks_per_second
        return bool(
            masks or changes.warp or changes.noise or changes.quieter or changes.telephone or self.model.dropout
        )


T = TypeVar("T")


def from_table(kind: type[T], table: Any, where: str) -> T:
    """Make a dataclass from a table of plain values; `where` names the table in errors."""
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: got {table!r}, wanted a table of keys and values")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}; the keys are {', '.join(known)}")
    values = {key: convert(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in values:
            raise RecipeError(f"{where}: the key {f.name!r} is missing; add it")
    return kind(**values)


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, which is a plain type, a dataclass, a tuple of one type or the union of models."""
    if hint is Model or isinstance(hint, types.UnionType):
        name = value.get("architecture") if isinstance(value, dict) else value
        if name not in ARCHITECTURES:
            raise RecipeError(f"{where}: unknown architecture {name!r}; take one of {', '.join(ARCHITECTURES)}")
        return from_table(ARCHITECTURES[name], value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where}: got {value!r}, wanted a list")
        return tuple(convert(typing.get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return from_table(typing.cast(type, hint), value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{where}: got {value!r}, wanted a value of type {hint.__name__}")
    return value


# The least and the most that a number of a recipe may be, by table and key.
BOUNDS: dict[type, dict[str, tuple[float, float]]] = {
    Source: {"repeat": (1, 10_000), "spliced": (0, 10_000)},
    Data: {"longest_seconds": (0.01, 3600), "shards_at_once": (1, 1_000_000)},
    Features: {
        "sample_rate": (1000, 1_000_000),
        "mels": (1, 1024),
        "fft": (2, 65536),
        "window": (2, 65536),
        "hop": (1, 65536),
        "low_hz": (0, 500_000),
        "high_hz": (0, 500_000),
        "floor": (1e-30, 1),
    },
    CRNN: {
        "channels": (1, 4096),
        "blocks": (1, 256),
        "convolutions": (1, 16),
        "recurrent_layers": (1, 64),
        "recurrent_size": (1, 16384),
        "dropout": (0, 0.95),
    },
    ConvolutionAttention: {
        "stem": (1, 16384),
        "width": (2, 16384),
        "blocks": (1, 256),
        "expansion": (1, 64),
        "kernel": (1, 1023),
        "heads": (1, 256),
        "attention_every": (1, 256),
        "dropout": (0, 0.95),
        "phonemes": (0, 10_000),
        "subframes": (1, 4),
    },
    Augment: {
        "speed": (0, 1),
        "warp": (0, 0.33),  # beyond it bands would change places
        "noise": (0, 1),
        "quieter": (0, 100),
        "telephone": (0, 1),
        "frequency_masks": (0, 100),
        "frequency_width": (0, 1024),
        "time_masks_per_second": (0, 100),
        "time_width": (1, 100_000),
        "full_after": (0, 1),
    },
    Training: {
        "epochs": (1, 1_000_000),
        "batch_utterances": (0, 1_000_000),
        "batch_seconds": (0, 1_000_000),
        "learning_rate": (1e-12, 10),
        "accumulate": (1, 10_000),
        "ema": (0, 0.999999),
        "patience": (0, 1_000_000),
        "flat": (0, 0.999),  # the schedule divides by the rest
        "warmup_steps": (0, 1_000_000_000),
        "weight_decay": (0, 10),
        "clip_norm": (1e-9, 1e9),
        "intermediate_weight": (0, 0.99),
        "discriminative": (0, 1),
        "consistency": (0, 10),
        "seed": (0, 2**31 - 1),  # a step's own seed is made of it and of the step's number in 64 bits
        "validate_every_minutes": (0, 1_000_000),
        "threads": (0, 1024),
        "workers": (0, 1024),
    },
}


def check(recipe: Recipe) -> Recipe:
    """The recipe itself, if its values can be computed with and go together."""
    for name in ("data", "augment", "training"):
        check_bounds(name, getattr(recipe, name))
    for source in (*recipe.data.train, *recipe.data.validation):
        check_bounds("data", source)
    check_data(recipe.data)
    check_acoustics(recipe.features, recipe.model)
    check_training(recipe.training, recipe.model)
    augment = recipe.augment
    if augment.frequency_masks and augment.frequency_width > recipe.features.mels:
        raise RecipeError(f"[augment]: frequency_width is {augment.frequency_width}; take 0 to {recipe.features.mels}")
    if (augment.quieter or augment.telephone) and not recipe.features.log:
        raise RecipeError("[augment]: quieter and telephone are for logarithmic features; leave them out or set log")
    return recipe


def check_acoustics(features: Features, model: Model) -> None:
    """Refuse a front end or a model that cannot be computed, be it of a recipe, a checkpoint or a bundle."""
    check_bounds("features", features)
    check_bounds("model", model)
    check_features(features)
    check_model(model)


def check_training(training: Training, model: Model) -> None:
    """Refuse settings of the loop that contradict each other or the model."""
    if (training.batch_utterances > 0) == (training.batch_seconds > 0):
        raise RecipeError("[training]: set either batch_utterances or batch_seconds to more than 0, not both or none")
    if training.schedule not in SCHEDULES:
        raise RecipeError(f"[training]: unknown schedule {training.schedule!r}; take one of {', '.join(SCHEDULES)}")
    if training.bfloat16 and training.float16:
        raise RecipeError("[training]: bfloat16 and float16 are both true; take one of them")
    if training.intermediate_weight and isinstance(model, CRNN):
        raise RecipeError(
            "[training]: intermediate_weight is for convolution-attention, the only one with such a layer; leave it out"
        )


def check_bounds(name: str, table: Any) -> None:
    """Refuse a number of a recipe's table that is out of bounds or no number."""
    for key, (least, most) in BOUNDS[type(table)].items():
        value = getattr(table, key)
        if not least <= value <= most:
            raise RecipeError(f"[{name}]: {key} is {value}; take {least:g} to {most:g}")


def check_data(data: Data) -> None:
    """Refuse data that cannot be trained on."""
    for name in ("train", "validation"):
        if not getattr(data, name):
            raise RecipeError(f"[data]: the list {name} is empty; name a manifest or a LibriSpeech folder")
    if any(source.spliced for source in data.validation):
        raise RecipeError("[data]: spliced is for training data, and validation has it; leave it out there")
    if not data.alphabet or len(set(data.alphabet)) != len(data.alphabet):
        raise RecipeError("[data]: the alphabet is empty or names a character twice; name each once")
    if data.spoken and not data.pronunciations:
        raise RecipeError("[data]: spoken is true without pronunciations; name a file that asr-train pronounce makes")


def check_model(model: Model) -> None:
    """Refuse a model whose parts do not fit together."""
    if isinstance(model, CRNN):
        if model.activation not in ("relu", "gelu"):
            raise RecipeError(f"[model]: unknown activation {model.activation!r}; take relu or gelu")
    elif model.width % (2 * model.heads):
        raise RecipeError(f"[model]: width {model.width} is not a multiple of twice the {model.heads} heads")
    elif model.kernel % 2 == 0:
        raise RecipeError(f"[model]: kernel is {model.kernel}; take an odd number")
    elif model.subframes not in (1, 2, 4):
        raise RecipeError(f"[model]: subframes is {model.subframes}; take 1, 2 or 4")
    elif model.conditioned and model.subframes > 1:
        raise RecipeError(f"[model]: subframes is {model.subframes} and conditioned is true; take 1 with it")


def check_features(features: Features) -> None:
    """Refuse a front end that cannot be computed."""
    if features.window % 2 or not 0 < features.window <= features.fft:
        raise RecipeError(f"[features]: window is {features.window}; take an even number up to fft, {features.fft}")
    if not 0 <= features.low_hz < features.high_hz <= features.sample_rate / 2:
        bounds = f"{features.low_hz} to {features.high_hz} Hz"
        raise RecipeError(f"[features]: the bands go from {bounds}; stay within half of {features.sample_rate} Hz")


def read_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by the name of one that comes with the package, or from a TOML file."""
    path = Path(name_or_path)
    if not path.suffix and (RECIPES / f"{name_or_path}.toml").is_file():
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise RecipeError(f"no recipe {name_or_path!r}: neither a TOML file nor one of {names}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"recipe {path} cannot be read as TOML: {error}; mend it") from None
    recipe = from_table(Recipe, {"name": path.stem, **table}, f"recipe {path.name}")
    try:
        return check(recipe)
    except RecipeError as error:
        raise RecipeError(f"recipe {path.name}: {error}") from None
