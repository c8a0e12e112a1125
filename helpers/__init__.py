"""Superscopes: amplify a vector from inside a language model and read, in words, what it means.

words        what things are called: components, methods, rows, settings, plans. Imports no torch
models       load a language model from any source and prove which of its modules are what
engine       the method: read a vector, put it in place of the placeholder, let the model write
lenses       what cheap lenses say of the same vectors
judging      what counts as a success, and how often chance alone would succeed
runs         long runs that can be stopped and resumed, on one process or many
experiments  the paper's experiments and their controls, one file each
figures      the style and the parts that all figures share
bench        tasks whose answers are known, as their authors publish them
app          one prompt in a browser or a notebook
cli          the command line

Imports point one way, down this list. A wing may import those above it, never those below.
"""

import os
import warnings
from importlib import import_module
from pathlib import Path

LONGEST_SHOWN = 400  # characters of what was given, in the message of an InputError
ROOT = Path(__file__).resolve().parent.parent  # the repository

# No telemetry from the libraries underneath; they read this when they are first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Torch's threads wait for each other at the end of every operation. By default a thread that waits spins for milliseconds,
# on a busy machine on the core of the one that is waited for; this is the shortest spin that costs nothing alone
# (benchmarks/neighbor.py). Read when torch is first imported.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "100000"
# Progress bars are plain text on purpose: widgets leave their state in executed notebooks.
warnings.filterwarnings("ignore", message="IProgress not found")


class InputError(ValueError):
    """Report bad input. The message names the parameter, what was given and what is allowed."""

    def __init__(self, parameter: str, given: object, allowed: str):
        shown = repr(given)
        shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[: LONGEST_SHOWN // 2]}…{shown[-20:]}"
        super().__init__(f"{parameter}={shown}: {allowed}")

    @classmethod
    def saying(cls, message: str) -> "InputError":
        """Rebuild the error from a message, as it arrives from another process."""
        error = cls.__new__(cls)
        ValueError.__init__(error, message)
        return error

    def __reduce__(self):
        return InputError.saying, (str(self),)


# The face: each name is imported when it is first used, so that `import helpers` takes no time.
_FACE = {
    "load_model": "models.load",
    "capture": "engine.activations",
    "capture_batch": "engine.activations",
    "interpret": "engine.interpret",
    "run": "engine.interpret",
    "score_texts": "engine.teacher",
    "relevancy": "engine.teacher",
    "score_labels": "engine.labels",
    "vocabulary": "lenses.logit",
    "with_lens": "lenses.columns",
    "sweep": "runs.sweep",
    "label": "runs.labels",
    "read": "runs.vectors",
    "believed": "runs.vectors",
    "make_plan": "words.plans",
    "TargetPrompt": "words.target",
    "Sampling": "words.decoding",
    "Contrast": "words.decoding",
    "choose": "judging.criteria",
    "believe": "runs.evidence",
    "Judge": "judging.judge",
    "similarity": "judging.judge",
}
__all__ = ["ROOT", "InputError", *_FACE]


def __getattr__(name: str):
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_FACE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
