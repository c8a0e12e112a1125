"""Find a model's files (in the catalogue, a folder, a GGUF file or on the hub) and compute what identifies them."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .. import InputError
from ..words.files import at_home
from ..words.settings import SourceOptions
from .catalogue import CATALOGUE, find_file
from .gguf import find_dequantised, sha256

SMALL_FILES = (".json", ".jinja", ".model", ".txt", ".tiktoken")  # of a model or an adapter, beside its weights
KINDS = "a folder, a .gguf file, a hub id owner/name, or owner/name:file.gguf"


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        name: as the user gave it.
        folder: where the files are.
        gguf_file: name of the GGUF file in the folder; None for a folder of weights.
        options: what else the user said about the model.
        commit: the hub's commit that is read; None for a model that is not from the hub.
    """

    name: str
    folder: Path
    gguf_file: str | None
    options: SourceOptions
    commit: str | None = None

    @property
    def location(self) -> dict[str, object]:
        """Return what transformers is to read: a folder, a GGUF file, or the folder that was made from a GGUF file."""
        if not self.gguf_file:
            return {"pretrained_model_name_or_path": self.folder}
        if dequantised := find_dequantised(self.folder / self.gguf_file):
            return {"pretrained_model_name_or_path": dequantised}
        return {"pretrained_model_name_or_path": self.folder, "gguf_file": self.gguf_file}

    def fetch_weights(self) -> None:
        """Download the weights of a hub model, after its config was found to be usable.

        Raises:
            InputError: they can't be downloaded, or there are none in a format that is read unless asked for.
        """
        if self.commit and not self.gguf_file:
            at_commit = self.options.model_copy(update={"revision": self.commit})
            _download(self.name, at_commit, (".safetensors",))
            if self.options.allow_pickle and not _weights(self.folder):
                _download(self.name, at_commit, (".bin",))
        if not self.gguf_file and not _weights(self.folder, self.options.allow_pickle):
            why = "it has no .safetensors weights (pickled ones are read only with allow_pickle=True)"
            raise InputError("model", self.name, why)

    def fingerprint(self) -> str:
        """Compute a SHA-256 over everything that makes the model what it is; 16 hexadecimal digits.

        An adapter, a quantization and named parts are in it only where they are given.
        """
        options = self.options
        if self.gguf_file:
            digest = sha256(self.folder / self.gguf_file)
        else:
            digest = digest_of_folder(self.folder, options)
        if options.adapter or options.quantization:
            adapter = digest_of_folder(at_home(options.adapter)) if options.adapter else ""
            digest = hashlib.sha256(f"{digest} {adapter} {options.quantization}".encode()).hexdigest()
        if options.parts:
            digest = hashlib.sha256(f"{digest} {json.dumps(options.parts, sort_keys=True)}".encode()).hexdigest()
        return digest[:16]


def find_source(name: str, options: SourceOptions) -> Source:
    """Find a model's files. Only a hub id may use the network, for its small files or its GGUF file.

    Raises:
        InputError: not found, not fetched yet, or a catalogue model's file is not the known one.
    """
    path = at_home(name)
    gguf_file = commit = None
    if name in CATALOGUE:
        file = find_file(name)
        folder, gguf_file = file.parent, file.name
        if (digest := sha256(file)) != CATALOGUE[name].sha256:
            why = f"{gguf_file} has SHA-256 {digest[:12]}…, not the known file's; ./runme.sh models {name} repairs it"
            raise InputError("model", name, why)
    elif path.suffix == ".gguf" and os.path.isfile(path):
        folder, gguf_file = path.absolute().parent, path.name
    elif os.path.isdir(path):
        folder = path.resolve()
    elif _on_hub(name) and not os.path.exists(path):
        _, gguf_file = _on_hub(name)
        folder = _download(name, options, (*SMALL_FILES, *[".py"] * options.trust_remote_code))
        commit = folder.name
    else:
        raise InputError("model", name, f"expected {', '.join(CATALOGUE)}, {KINDS}")
    source = Source(name, folder, gguf_file, options, commit)
    if options.revision and not commit:
        why = f"only a model on the hub has revisions, and {name} is on this machine"
        raise InputError("revision", options.revision, why)
    if not commit:
        source.fetch_weights()  # downloads nothing; checks that there are weights
    return source


def bundled_code(folder: Path) -> tuple[str, list[str]]:
    """Read a folder's model type and the Python classes, shipped with the model, that its config points to."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = config.get("auto_map", {}).values()
        listed = [name for names in named for name in (names if isinstance(names, list) else [names])]
        return config.get("model_type", ""), [name for name in listed if name and isinstance(name, str)]
    except (OSError, ValueError, AttributeError):
        return "", []


def digest_of_folder(folder: Path, options: SourceOptions | None = None) -> str:
    """Compute a SHA-256 over the files of a model or an adapter; code and pickled weights only where they are used."""
    options = options or SourceOptions()
    kinds = (*SMALL_FILES, ".safetensors", *[".py"] * options.trust_remote_code)
    if not _weights(folder):
        kinds += (".bin",)
    files = sorted(path for path in folder.iterdir() if path.suffix in kinds)
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _on_hub(name: str) -> tuple[str, str | None] | None:
    """Split a hub id into its repository and, where it names one, its GGUF file; None for a name of another form."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?::([\w./-]+\.gguf))?", name)
    return match.groups() if match and (match[2] or not name.endswith(".gguf")) else None


def _download(name: str, options: SourceOptions, kinds: tuple[str, ...]) -> Path:
    """Get a hub model's GGUF file, or its files with the endings `kinds`, from the local cache or the network.

    Returns:
        The folder of the files.

    Raises:
        InputError: gated, missing or unreachable; no such revision or file.
    """
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    (repository, gguf_file), revision = _on_hub(name), options.revision or None
    try:
        if gguf_file:
            file = Path(hf_hub_download(repository, gguf_file, revision=revision))
            return file.parents[len(Path(gguf_file).parts) - 1]
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=[f"*{kind}" for kind in kinds],
                ignore_patterns=["*/*", "consolidated*"],  # other formats of the same weights
            )
        )
    except errors.GatedRepoError:
        why = "a gated model: accept its terms on its page, then log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = "not on the hub, or private (then log in with `hf auth login`)"
    except errors.RevisionNotFoundError:
        why = f"the hub has no revision {options.revision!r} of it"
    except errors.LocalEntryNotFoundError:
        why = "no such folder, not in the hub's local cache, and the hub can't be reached"
    except errors.EntryNotFoundError:
        why = f"the hub's repository has no file {gguf_file}"
    except Exception as error:  # its message may hold addresses and tokens
        why = f"no such folder, and the hub can't provide it ({type(error).__name__})"
    raise InputError("model", name, why) from None


def _weights(folder: Path, allow_pickle: bool = False) -> list[Path]:
    return [*folder.glob("*.safetensors"), *(folder.glob("*.bin") if allow_pickle else ())]
