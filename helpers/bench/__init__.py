"""Tasks with ground truth, as their authors publish them: what a reading says, beside what no vector says.

tasks        cases with known answers; the folders they are read from; which are usable
rules        when a text says a word
patchscopes  attribute tasks: does the continuation say the subject's attribute?
lens         single words that are on the model's mind, by lenses and by readings
workspace    concepts of several tokens
settings     what is measured, and how
measure      ask, read, count
tables       rates beside chance with the same tries
figure       one figure per benchmark
"""

from importlib import import_module
from types import ModuleType

NAMES = ("patchscopes", "lens", "workspace")


def get(name: str) -> ModuleType:
    """Return a benchmark: NAME, QUESTION, REPOSITORY, RULE, COMBINE and `tasks`."""
    return import_module(f".{name}", __name__)
