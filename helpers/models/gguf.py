"""Keep a GGUF file as a folder that loads in a second: config, tokenizer and float32 weights, in runs/models/.

Reading a GGUF file takes transformers ten seconds and more. It goes through the vocabulary entry by entry, once for the
config, once for the tokenizer and once for the weights. The folder holds the same numbers. Its name says which file it
was made from and which libraries read that file; a list of checksums says what was written, and a folder that doesn't
match its list is not used. The folder is safe to delete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ROOT

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LARGEST_FILE = 500 << 20  # bytes of a GGUF file; the float32 weights of a larger one would take gigabytes on disk
CHECKSUMS = "checksums.json"
MADE_FROM = "dequantised_from.json"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; the file is read again only when it has changed."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_dequantised(gguf_file: Path) -> Path | None:
    """Return the folder made from this GGUF file, if it exists and is as it was written."""
    folder = _folder(gguf_file)
    try:
        written = json.loads((folder / CHECKSUMS).read_text())
        intact = MADE_FROM in written and all(sha256(folder / name) == digest for name, digest in written.items())
        return folder if intact else None
    except (OSError, ValueError):
        return None


def keep_dequantised(
    gguf_file: Path, model: PreTrainedModel, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write the folder of a small GGUF file, whole or not at all. A failure is no error: loading is slow then.

    Args:
        gguf_file: the file that the other arguments were read from.
        model: loaded in float32. Its config says that it was quantised, so it can't save itself.
        config: as read from the file.
        tokenizer: as read from the file.
    """
    from safetensors.torch import save_file

    folder, staging = _folder(gguf_file), None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
        config.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        model.generation_config.save_pretrained(staging)
        (staging / MADE_FROM).write_text(json.dumps(_read_types(gguf_file)))
        # By address, so that tied tensors are written once.
        tensors = {tensor.data_ptr(): (name, tensor) for name, tensor in reversed(model.state_dict().items())}
        save_file(dict(tensors.values()), staging / "model.safetensors", metadata={"format": "pt"})
        written = {path.name: sha256(path) for path in sorted(staging.iterdir())}
        (staging / CHECKSUMS).write_text(json.dumps(written, indent=1))
        for path in (staging, *staging.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)  # another user of this checkout may read it
        shutil.rmtree(folder, ignore_errors=True)  # left over when it doesn't match its list
        staging.rename(folder)
    except Exception:  # a full or read-only disk, or a faster process: the model is in memory all the same
        pass
    finally:
        if staging:
            shutil.rmtree(staging, ignore_errors=True)


def types_in(gguf_file: Path) -> dict[str, int]:
    """Count a GGUF file's tensors by type, as in {"Q4_1": 210, "F32": 61}."""
    if folder := find_dequantised(gguf_file):
        return json.loads((folder / MADE_FROM).read_text())
    return _read_types(gguf_file)


def _read_types(gguf_file: Path) -> dict[str, int]:
    from gguf import GGUFReader  # the library, not this module

    return dict(Counter(tensor.tensor_type.name for tensor in GGUFReader(gguf_file).tensors).most_common())


def is_worth_keeping(gguf_file: Path) -> bool:
    """Tell whether the file is small and has no folder yet."""
    return gguf_file.stat().st_size <= LARGEST_FILE and find_dequantised(gguf_file) is None


def _folder(gguf_file: Path) -> Path:
    readers = "-".join(f"{package}-{version(package)}" for package in ("transformers", "gguf"))
    return ROOT / "runs" / "models" / f"{sha256(gguf_file)[:16]}-{readers}"
