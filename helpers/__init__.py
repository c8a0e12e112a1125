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
ledger       what has been read of some plans, on disk batch by batch
stopping     Ctrl-C, SIGTERM and full disks: requests first, then ends
runs         the loop with a ledger: stopped, killed, resumed
cluster      the same on Dask workers
progress     one bar; in a log, lines
readings     a model's readings: of a ledger, or taken from earlier results
effects      successes beside chance, with intervals and tests
context      from which layer on an entity is there, and what is legible before
findings     the tables behind each figure, and the sentences that follow from them
plots        every figure, from finished tables
can_it_speak what a new model can say, before a long sweep
parameters   the notebooks' parameters, and the plans that they mean
notebooks    one notebook through papermill
reproduce    the notebooks of the paper, and what they publish
status       what runs have left, and what of it can go
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

    @classmethod
    def saying(cls, message: str) -> "InputError":
        """One whose message is known already: from another process."""
        error = cls.__new__(cls)
        ValueError.__init__(error, message)
        return error

    def __reduce__(self):
        return InputError.saying, (str(self),)
