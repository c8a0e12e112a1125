"""Find a model's files: one of the catalogue, a folder, a GGUF file, or on the hub; and say what identifies them."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from . import InputError
from .catalogue import CATALOGUE, find_file
from .dequantised import find_dequantised, sha256

FILES = (".safetensors", ".json", ".jinja", ".model", ".txt")  # what a model or an adapter is made of
QUANTIZATIONS = ("4bit", "8bit")
KINDS = "a folder, a .gguf file, a hub id owner/name, or owner/name:file.gguf"


@dataclass(frozen=True)
class SourceOptions:
    """What can be said of a model's source beside its name.

    Attributes:
        revision: branch, tag or commit of a hub id.
        adapter: a PEFT folder (LoRA and other kinds that change the model's own layers) on top of the weights.
        quantization: "4bit" or "8bit", by bitsandbytes, while the weights are loaded; "" for none.
        device_map: accelerate's, to spread a model over several devices: "auto", or module -> device; "" for none.
        trust_remote_code: run the Python files that come with a model.
        allow_pickle: read pickled weights where there are no safetensors.
    """

    revision: str = ""
    adapter: str = ""
    quantization: str = ""
    device_map: str | Mapping = ""
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def __post_init__(self):
        for field in fields(self):
            value, allowed = getattr(self, field.name), str if field.type is str else bool
            if field.name != "device_map" and not isinstance(value, allowed):
                raise InputError(field.name, value, "expected text" if allowed is str else "expected True or False")
        if self.quantization and self.quantization not in QUANTIZATIONS:
            raise InputError("quantization", self.quantization, f"expected one of {', '.join(QUANTIZATIONS)}")
        if not isinstance(self.device_map, str | Mapping):
            raise InputError("device_map", self.device_map, 'expected "auto", or a mapping of modules to devices')
        if self.adapter and not _weights(Path(self.adapter).expanduser()):
            raise InputError("adapter", self.adapter, "expected a PEFT folder with adapter_model.safetensors")

    @classmethod
    def of(cls, options: Mapping[str, object]) -> "SourceOptions":
        """The options of keyword arguments; an unknown name is an InputError."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise InputError("source_options", unknown, f"known: {', '.join(known)}")
        return cls(**options)

    @property
    def given(self) -> dict[str, object]:
        """Those that are not left as they are."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        name: as the user gave it.
        folder: where the files are; gguf_file: the file in it, or None for a folder of weights.
        options: what else the user said.
    """

    name: str
    folder: Path
    gguf_file: str | None
    options: SourceOptions

    @property
    def location(self) -> dict[str, object]:
        """What transformers is to read: a folder, a GGUF file, or the folder that was made of one."""
        if not self.gguf_file:
            return {"pretrained_model_name_or_path": self.folder}
        if whole := find_dequantised(self.folder / self.gguf_file):
            return {"pretrained_model_name_or_path": whole}
        return {"pretrained_model_name_or_path": self.folder, "gguf_file": self.gguf_file}

    @property
    def commit(self) -> str | None:
        """The hub's commit that was read."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None

    def fingerprint(self) -> str:
        """SHA-256 over what makes the model, 16 hexadecimal digits."""
        if self.gguf_file:
            whole = sha256(self.folder / self.gguf_file)
        else:
            whole = digest_of_folder(self.folder)
        if self.options.adapter or self.options.quantization:
            adapter = digest_of_folder(Path(self.options.adapter).expanduser()) if self.options.adapter else ""
            whole = hashlib.sha256(f"{whole} {adapter} {self.options.quantization}".encode()).hexdigest()
        return whole[:16]


def find_source(name: str, options: SourceOptions) -> Source:
    """Where a model's files are; only a hub id may use the network.

    Raises:
        InputError: not found, not fetched yet, or not in a form that is read unless asked for.
    """
    path = Path(name).expanduser()
    on_hub = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?::([\w./-]+\.gguf))?", name)
    if name in CATALOGUE:
        file = find_file(name)
        folder, gguf_file = file.parent, file.name
        if (digest := sha256(file)) != CATALOGUE[name].sha256:
            why = f"{gguf_file} has SHA-256 {digest[:12]}…, not the known file's; ./runme.sh models {name} mends it"
            raise InputError("model", name, why)
    elif path.suffix == ".gguf" and path.is_file():
        folder, gguf_file = path.resolve().parent, path.name
    elif path.is_dir():
        folder, gguf_file = path.resolve(), None
    elif on_hub and not path.exists() and (on_hub[2] or path.suffix != ".gguf"):
        repository, gguf_file = on_hub.groups()
        folder = _download(name, repository, gguf_file, options)
    else:
        raise InputError("model", name, f"expected {', '.join(CATALOGUE)}, {KINDS}")
    if gguf_file is None and not _weights(folder, options.allow_pickle):
        why = "here are no .safetensors weights (pickled ones are read only with allow_pickle=True)"
        raise InputError("model", name, why)
    return Source(name, folder, gguf_file, options)


def needs_remote_code(folder: Path) -> bool:
    """Whether a folder's config points to Python files of its own."""
    try:
        return "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _download(name: str, repository: str, gguf_file: str | None, options: SourceOptions) -> Path:
    """The folder of a hub model's files, from the local cache or the network."""
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    revision = options.revision or None
    wanted = (*FILES, *[".bin"] * options.allow_pickle, *[".py"] * options.trust_remote_code)
    try:
        if gguf_file:
            return Path(hf_hub_download(repository, gguf_file, revision=revision)).parent
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=[f"*{suffix}" for suffix in wanted],
                ignore_patterns=["*/*", "consolidated*"],  # other formats of the same weights
            )
        )
    except errors.GatedRepoError:
        why = "a gated model: accept its terms on its page, then log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = "not on the hub, or private (then log in with `hf auth login`)"
    except errors.RevisionNotFoundError:
        why = f"the hub has no revision {options.revision!r} of it"
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            why = "no such folder here, not in the hub's local cache, and the hub can't be reached"
        else:
            why = f"the hub's repository has no file {gguf_file}"
    except Exception as error:  # its message may hold addresses and tokens
        why = f"no such folder here, and not to be had from the hub ({type(error).__name__})"
    raise InputError("model", name, why) from None


def _weights(folder: Path, allow_pickle: bool = False) -> list[Path]:
    return [*folder.glob("*.safetensors"), *(folder.glob("*.bin") if allow_pickle else ())]


def digest_of_folder(folder: Path) -> str:
    """SHA-256 over the files that make a model or an adapter."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (*FILES, ".bin", ".py"))
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()
