"""Where files go, what a model's folder is called, and how a file is written: whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import ROOT, InputError


def at_home(path: str | Path) -> Path:
    """Return a path with ~ as the user's home; as it is where ~NAME is no user: `Path.expanduser` raises then."""
    return Path(os.path.expanduser(path))


def slug(model: str, revision: str = "", adapter: str = "", quantization: str = "", **others) -> str:
    """Return what a model's folder of results is called: an alias, a folder's or file's name, owner--name.

    What makes another model of it (`settings.SourceOptions`) follows: llama@v2+lora-4bit.
    """
    path = at_home(model.rpartition(":")[2] if model.endswith(".gguf") else model)
    if path.suffix == ".gguf":
        name = path.stem
    else:
        name = path.resolve().name if os.path.isdir(path) else model.replace("/", "--")
    parts = [
        name,
        revision and f"@{revision.replace('/', '--')}",
        adapter and f"+{at_home(adapter).resolve().name}",
    ]
    return "".join([*parts, quantization and f"-{quantization}"]).lower()


def results_folder(model: str, out_dir: str | Path = "", **source_options) -> Path:
    """Return where a model's results go: `out_dir` (relative to the repository), or data/<model>/."""
    return ROOT / (at_home(out_dir) if out_dir else Path("data") / slug(model, **source_options))


def cache_folder() -> Path:
    """Return where what can be made again is kept: $SUPERSCOPES_CACHE, or a folder in the user's cache folder."""
    if chosen := os.environ.get("SUPERSCOPES_CACHE"):
        return at_home(chosen)
    return at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "superscopes"


def in_repository(path: str | Path) -> Path:
    """Return a path as settings give it: relative to the repository, with ~ for the user's home."""
    return ROOT / at_home(path)


def shown(path: Path) -> str:
    """Return a path as a user of this folder writes it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def json_of(path: Path) -> Path:
    """Return the JSON beside a CSV, which says what made it."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".json")


def check_writable(folder: Path, parameter: str = "out_dir") -> None:
    """Make a folder and check that it takes files.

    Args:
        parameter: that says where it is, for errors.

    Raises:
        InputError: it doesn't, or it is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(parameter, str(folder), f"can't be written ({error.strerror})") from error


@contextmanager
def write_atomically(path: Path, mode: str = "w") -> Iterator:
    """Open a file that appears under its name when it is whole, or not at all."""
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
