"""Find a model's files: one of the catalogue, a folder, a GGUF file, or on the hub; and say what identifies them."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from . import InputError
from .catalogue import CATALOGUE, find_file
from .dequantised import find_dequantised, sha256

SMALL_FILES = (".json", ".jinja", ".model", ".txt", ".tiktoken")  # of a model or an adapter, beside its weights
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
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
        if self.adapter and not all((Path(self.adapter).expanduser() / file).is_file() for file in ADAPTER_FILES):
            raise InputError("adapter", self.adapter, f"expected a PEFT folder with {' and '.join(ADAPTER_FILES)}")

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
        commit: the hub's commit that is read; None for a model that is not from the hub.
    """

    name: str
    folder: Path
    gguf_file: str | None
    options: SourceOptions
    commit: str | None = None

    @property
    def location(self) -> dict[str, object]:
        """What transformers is to read: a folder, a GGUF file, or the folder that was made of one."""
        if not self.gguf_file:
            return {"pretrained_model_name_or_path": self.folder}
        if whole := find_dequantised(self.folder / self.gguf_file):
            return {"pretrained_model_name_or_path": whole}
        return {"pretrained_model_name_or_path": self.folder, "gguf_file": self.gguf_file}

    def fetch_weights(self) -> None:
        """Get the weights of a hub model, once its config is known to be one that can be used.

        Raises:
            InputError: they can't be had, or there are none in a form that is read unless asked for.
        """
        if self.commit and not self.gguf_file:
            same = replace(self.options, revision=self.commit)
            _download(self.name, same, (".safetensors",))
            if self.options.allow_pickle and not _weights(self.folder):
                _download(self.name, same, (".bin",))
        if not self.gguf_file and not _weights(self.folder, self.options.allow_pickle):
            why = "here are no .safetensors weights (pickled ones are read only with allow_pickle=True)"
            raise InputError("model", self.name, why)

    def fingerprint(self) -> str:
        """SHA-256 over what makes the model, 16 hexadecimal digits."""
        if self.gguf_file:
            whole = sha256(self.folder / self.gguf_file)
        else:
            whole = digest_of_folder(self.folder, self.options)
        if self.options.adapter or self.options.quantization:
            adapter = digest_of_folder(Path(self.options.adapter).expanduser()) if self.options.adapter else ""
            whole = hashlib.sha256(f"{whole} {adapter} {self.options.quantization}".encode()).hexdigest()
        return whole[:16]


def find_source(name: str, options: SourceOptions) -> Source:
    """Where a model's files are; only a hub id may use the network, and nothing but a GGUF file is large by then.

    Raises:
        InputError: not found, or not fetched yet.
    """
    path = Path(name).expanduser()
    gguf_file = commit = None
    if name in CATALOGUE:
        file = find_file(name)
        folder, gguf_file = file.parent, file.name
        if (digest := sha256(file)) != CATALOGUE[name].sha256:
            why = f"{gguf_file} has SHA-256 {digest[:12]}…, not the known file's; ./runme.sh models {name} mends it"
            raise InputError("model", name, why)
    elif path.suffix == ".gguf" and path.is_file():
        folder, gguf_file = path.absolute().parent, path.name
    elif path.is_dir():
        folder = path.resolve()
    elif _on_hub(name) and not path.exists():
        _, gguf_file = _on_hub(name)
        folder = _download(name, options, (*SMALL_FILES, *[".py"] * options.trust_remote_code))
        commit = folder.name
    else:
        raise InputError("model", name, f"expected {', '.join(CATALOGUE)}, {KINDS}")
    source = Source(name, folder, gguf_file, options, commit)
    if options.revision and not commit:
        raise InputError("revision", options.revision, f"only a model on the hub has revisions; {name} is here")
    if not commit:
        source.fetch_weights()  # are there any?
    return source


def code_of_its_own(folder: Path) -> tuple[str, list[str]]:
    """(model type, Python classes that its config points to) of a folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        classes = [
            one for some in config.get("auto_map", {}).values() for one in ([some] if isinstance(some, str) else some)
        ]
        return config.get("model_type", ""), [one for one in classes if one]
    except (OSError, ValueError, AttributeError):
        return "", []


def digest_of_folder(folder: Path, options: SourceOptions | None = None) -> str:
    """SHA-256 over the files that make a model or an adapter; pickled weights and code where they are used."""
    options = options or SourceOptions()
    kinds = (*SMALL_FILES, ".safetensors", *[".py"] * options.trust_remote_code)
    if not _weights(folder):
        kinds += (".bin",)
    files = sorted(path for path in folder.iterdir() if path.suffix in kinds)
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _on_hub(name: str) -> tuple[str, str | None] | None:
    """(repository, GGUF file in it) if a name is of that form."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?::([\w./-]+\.gguf))?", name)
    return match.groups() if match and (match[2] or not name.endswith(".gguf")) else None


def _download(name: str, options: SourceOptions, kinds: tuple[str, ...]) -> Path:
    """The folder of a hub model's files, from the local cache or the network: its GGUF file, or those of some kinds."""
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
        why = "no such folder here, not in the hub's local cache, and the hub can't be reached"
    except errors.EntryNotFoundError:
        why = f"the hub's repository has no file {gguf_file}"
    except Exception as error:  # its message may hold addresses and tokens
        why = f"no such folder here, and not to be had from the hub ({type(error).__name__})"
    raise InputError("model", name, why) from None


def _weights(folder: Path, allow_pickle: bool = False) -> list[Path]:
    return [*folder.glob("*.safetensors"), *(folder.glob("*.bin") if allow_pickle else ())]
