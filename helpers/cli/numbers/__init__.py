"""The numbers of README.md and docs/: each a function that returns markdown, made from data/ and benchmarks/results/.

Links are relative to the repository.
"""

from . import benchmarks, found, papers_items, tasks  # noqa: F401 they register their numbers
from .parts import NUMBERS

__all__ = ["NUMBERS"]
