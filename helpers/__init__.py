"""Superscopes: amplify a vector from inside a language model and read, in words, what it means.

hooks        record and patch module outputs, for the length of a `with` block
catalogue    small real models that install from packages
sources      find a model's files, wherever they are
dequantised  a GGUF file as a folder that loads in a second
families     which modules of a block are what, and the proof that they add up
models       load a language model from any source
activations  run a source prompt, keep what its blocks produced
components   what is read: a block's vectors, guidance, sums, and controls
plans        what to interpret: prompts × tokens × components × layers × amplifiers, in order
superscopes  the method: prefix → placeholder → new tokens, and the one loop over a plan
scoring      the judge: cosine of sentence embeddings, success counts, the rotation null
results      the files: prompts in, CSV and JSON out
experiments  the paper's experiments and their controls, as plans
readings     a model's readings, made now or taken from earlier results
effects      successes beside chance, with intervals and tests
context      from which layer on an entity is there, and what is legible before
findings     the tables behind each figure, and the sentences that follow from them
plots        every figure, from finished tables
can_it_speak what a new model can say, before a long sweep
reproduce    the notebooks of the paper through papermill
app          one prompt in a browser or a notebook
"""

import os
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the repository

# No telemetry from the libraries underneath; read when they are first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Progress bars are plain text on purpose: widgets leave their state in executed notebooks.
warnings.filterwarnings("ignore", message="IProgress not found")


class InputError(ValueError):
    """Bad input. The message names the parameter, what was given and what is allowed."""

    def __init__(self, parameter: str, given: object, allowed: str):
        super().__init__(f"{parameter}={given!r}: {allowed}")
