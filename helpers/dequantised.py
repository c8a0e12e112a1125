"""A GGUF file as a folder that loads in a second: config, tokenizer and float32 weights, made once, kept in runs/.

Reading a GGUF file takes transformers ten seconds and more, most of it in going through the vocabulary entry by entry,
once for the config, once for the tokenizer and once for the weights. The folder holds the same numbers. Its name says
which file it was made of and what read it, so that it can't stand for another; it is safe to delete.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import transformers
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from . import ROOT


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dequantised_folder(gguf_file: Path) -> Path:
    """Where the folder of this GGUF file is, or would be."""
    return ROOT / "runs" / "models" / f"{sha256(gguf_file)[:16]}-transformers-{transformers.__version__}"


def can_keep(folder: Path) -> bool:
    """Whether the folder is still to be made, and can be."""
    return not folder.exists() and os.access(ROOT, os.W_OK)


def keep_dequantised(
    folder: Path, model: PreTrainedModel, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Make the folder of a GGUF file, whole or not at all; a full disk is no error, only the next load is slow.

    Args:
        model: as loaded from the file in float32; its config says that it was quantised, so it can't save itself.
        config, tokenizer: as read from the file.
    """
    from safetensors.torch import save_file

    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
        config.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        model.generation_config.save_pretrained(staging)
        tensors = {tensor.data_ptr(): (name, tensor) for name, tensor in reversed(model.state_dict().items())}
        save_file(dict(tensors.values()), staging / "model.safetensors", metadata={"format": "pt"})  # tied ones once
        for path in (staging, *staging.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)  # another user of this checkout may read it
        staging.rename(folder)
    except (OSError, SafetensorError):  # also where another process was faster
        if staging:
            shutil.rmtree(staging, ignore_errors=True)
