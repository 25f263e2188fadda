"""What can go wrong for a user: each message is one sentence with what was got, what was wanted and what to do."""

from collections.abc import Sequence

MOST_FAULTS = 10  # of those in one file that are told


class AsrError(Exception):
    """Any error that input, files or the machine can cause; the CLIs print it without a traceback."""


class BundleError(AsrError):
    """A bundle that cannot be read, fails its checks or is of another version."""


class AudioError(AsrError):
    """A recording that is missing, is not audio, or has no usable samples."""


class EngineError(AsrError):
    """An engine or device that cannot be had here, or that failed."""


class DecoderError(AsrError):
    """Log-probabilities, a language model, a lexicon or a setting that the decoder cannot take."""


class RecipeError(AsrError):
    """A recipe, manifest or checkpoint that training cannot use."""


class ExportError(AsrError):
    """A model that cannot be exported, or whose export failed its proofs."""


def sentence(error: OSError | UnicodeError | ModuleNotFoundError, extra: str) -> str:
    """What the system, a text that is no UTF-8 or a package that is missing means for a user of `asr-deploy[extra]`."""
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is missing; install it with: pip install 'asr-deploy[{extra}]'"
    if isinstance(error, UnicodeError):
        return f"got a text that is not UTF-8 ({error}); convert it."
    return f"{error.filename or 'a file'}: got {error.strerror or error}; see that it can be read or written."


def listed(faults: Sequence[str]) -> list[str]:
    """The first faults of a file's lines, and where there are several, how many there are in all."""
    count = f"{len(faults)} lines have such faults"
    more = f", of which these are the first {MOST_FAULTS}" if len(faults) > MOST_FAULTS else ""
    return [*faults[:MOST_FAULTS], *([f"{count}{more}."] if len(faults) > 1 else [])]
