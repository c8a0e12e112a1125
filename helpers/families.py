"""Where a model's blocks are, and which modules' outputs each block adds to the residual stream; proved at load.

A family is a row of CONVENTIONS, by the names that its modules bear. One that follows an existing row needs none of its
own: whatever is loaded, the first row is taken for which, in every block,

    block input + attention_output + mlp_output = hidden_state

holds to the rounding of the dtype, and a model for which none does is refused.
"""

import inspect
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from . import InputError
from .batches import is_out_of_memory
from .hooks import record


class Convention(NamedTuple):
    """What the modules of a block are called.

    Attributes:
        attention, mlp: modules whose outputs are added to the residual stream: the branch itself, the norm after it
            where there is one, or the linear layer inside it where the branch returns its sum with the residual.
            `a|b`: the one of the two that a block has.
        scale: attribute of a block that multiplies both before they are added; "" for none.
        families: for readers, and for the message of a refusal.
    """

    attention: str
    mlp: str
    scale: str
    families: str


CONVENTIONS = (
    Convention("self_attn", "mlp", "",
               "Llama, Mistral, Ministral, Qwen 2 and 3, Gemma, OLMo, Phi, Phi-3, StableLM, Cohere, SmolLM3, and the "
               "mixtures of experts Mixtral, Qwen 2 and 3, gpt-oss"),
    Convention("attn", "mlp", "", "GPT-2, GPT-Neo, GPT-J"),
    Convention("attention", "mlp", "", "GPT-NeoX"),
    Convention("self_attention", "mlp", "", "Falcon"),
    Convention("self_attention.dense", "mlp.dense_4h_to_h", "", "BLOOM"),  # its modules return the sum
    Convention("attn", "ffn.down_proj", "", "MPT"),  # likewise
    Convention("self_attn", "fc2", "", "OPT, XGLM, BioGPT"),
    Convention("self_attn", "feed_forward", "", "Llama 4"),
    # A block has attention, or something in its place.
    Convention("self_attn|linear_attn", "mlp", "", "Qwen3-Next, Qwen 3.5"),
    Convention("self_attn|conv", "feed_forward", "", "LFM2"),
    # A norm between the branch and the addition.
    Convention("post_attention_layernorm", "post_feedforward_layernorm", "", "Gemma 2 and 3, OLMo 2 and 3, EXAONE 4"),
    Convention("post_self_attn_layernorm", "post_mlp_layernorm", "", "GLM-4"),
    # A factor on the branch.
    Convention("self_attn", "mlp", "residual_multiplier", "Granite"),
    Convention("self_attn", "block_sparse_moe", "residual_multiplier", "Granite-MoE"),
    Convention("self_attn", "shared_mlp", "residual_multiplier", "Granite 4 without experts"),
    Convention("self_attn", "mlp", "residual_scale", "MiniCPM3"),
)  # fmt: skip
BLOCK_LISTS = ("layers", "h", "blocks")  # of a decoder
POST_NORM = {"opt": ("do_layer_norm_before", False), "bloom": ("apply_residual_connection_post_layernorm", True)}
PROBE_TOKENS = 3


class Parts(NamedTuple):
    """A model's decoder blocks, in order, and what their modules are called."""

    blocks: nn.ModuleList
    convention: Convention

    def modules(self) -> dict[tuple[str, int], nn.Module]:
        """(component, layer) -> the module to be recorded, for hidden_state, attention_output and mlp_output."""
        modules = {("hidden_state", layer): block for layer, block in enumerate(self.blocks)}
        for component, name in (("attention_output", self.convention.attention), ("mlp_output", self.convention.mlp)):
            modules |= {(component, layer): _part(block, name) for layer, block in enumerate(self.blocks)}
        return modules

    def added(self, recorded: Tensor, layer: int, hidden_state: Tensor) -> Tensor:
        """What a branch added, in the shape of the hidden state, from what its module returned in the same pass."""
        recorded = recorded.reshape(hidden_state.shape)  # some MLPs see all tokens of a batch in one line
        return recorded * getattr(self.blocks[layer], scale) if (scale := self.convention.scale) else recorded


def check_architecture(name: str, config: PreTrainedConfig, trust_remote_code: bool = False) -> None:
    """Refuse, before any weights are read, what has no blocks with an attention and an MLP branch.

    Raises:
        InputError: an encoder-decoder, an encoder, a state-space model, no language model, or unknown module names.
    """
    kind = config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    if config.is_encoder_decoder:
        what = "is an encoder-decoder"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        what = "is an encoder"
    elif not causal:
        what = "is no causal language model"
    elif kind in POST_NORM and getattr(config, POST_NORM[kind][0]) == POST_NORM[kind][1]:
        what = f"with {POST_NORM[kind][0]}={POST_NORM[kind][1]} puts a norm after the addition, so no part adds up"
    else:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        try:
            _fitting(name, model)
            return
        except InputError:
            if not model._is_stateful:
                raise
        what = "is a state-space model, whose blocks don't add an attention and an MLP branch"
    raise InputError("model", name, f"{kind} {what}; only decoder-only causal language models can be read")


@torch.inference_mode()
def find_parts(name: str, model: PreTrainedModel, device: torch.device) -> Parts:
    """The parts of a loaded model, with the proof that they add up: one pass over two rows of a few tokens.

    Also proved: there are as many blocks, and they are as wide, as the config says; each block receives what the one
    before it returned; and no token sees a later one.

    Raises:
        InputError: names the family, the block and the size of the difference.
    """
    blocks, fitting = _fitting(name, model)
    ids = 1 + torch.arange(PROBE_TOKENS, device=device).repeat(2, 1)
    ids[1, -1] += 1
    modules = {("out", layer): block for layer, block in enumerate(blocks)}
    for part in {part for convention in fitting for part in convention[:2]}:
        modules |= {(part, layer): _part(block, part) for layer, block in enumerate(blocks)}
    with record(modules, {("in", layer): block for layer, block in enumerate(blocks)}) as seen:
        try:
            model.base_model(ids, use_cache=False)  # without the head, a good part of a small model
        except Exception as error:
            if is_out_of_memory(error):
                raise
            why = f"a short pass fails ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            raise InputError("model", name, f"{model.config.model_type}: {why}") from error

    kind, width = model.config.model_type, model.config.get_text_config().hidden_size

    def refused(layer: int, why: str) -> InputError:
        return InputError("model", name, f"{kind}, block {layer}: {why}")

    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise InputError("model", name, f"{kind}: its forward doesn't know logits_to_keep, as transformers' own do")
    before = None
    for layer in range(len(blocks)):
        received, out = seen["in", layer], seen["out", layer]
        if out.shape != (*ids.shape, width):
            raise refused(layer, f"gives {tuple(out.shape)}, not {width} numbers a token")
        if not out.isfinite().all():
            raise refused(layer, f"its output is not finite in {str(out.dtype).removeprefix('torch.')}; try another")
        if before is not None and not torch.equal(before, received.to(before.device)):
            raise refused(layer, "doesn't receive what the block before it gives")
        if torch.equal(*received[:, :-1]) and _looks_ahead(*out[:, :-1].cpu().double(), out.dtype):
            raise refused(layer, "tokens see later ones; not a causal model")
        before = out
    tried = []
    for convention in fitting:
        parts = Parts(blocks, convention)
        adds_up, *worst = _add_up(parts, seen)
        if adds_up:
            return parts
        tried.append(worst)
    layer, difference = min(tried, key=lambda one: one[1])
    why = f"input + attention + MLP differs from the output by {difference:.1e} of its norm"
    raise refused(layer, f"{why}; known to add up: {known_families()}")


def known_families() -> str:
    return "; ".join(convention.families for convention in CONVENTIONS)


def _fitting(name: str, model: PreTrainedModel) -> tuple[nn.ModuleList, list[Convention]]:
    """The blocks, and the conventions whose names are those of every block's modules."""
    kind, number = model.config.model_type, model.config.get_text_config().num_hidden_layers
    places = [
        getattr(root, place, None)
        for root in (model.get_decoder(), model.base_model, getattr(model, "model", None))
        for place in BLOCK_LISTS
    ]
    blocks = next((place for place in places if isinstance(place, nn.ModuleList)), None)
    if blocks is None:
        raise InputError("model", name, f"{kind}: no blocks where they are known to be; known: {known_families()}")
    if len(blocks) != number:
        raise InputError("model", name, f"{kind}: {len(blocks)} blocks, but its config says {number}")
    fitting = [one for one in CONVENTIONS if all(_has(block, one) for block in blocks)]
    if not fitting:
        has = ", ".join(child for child, _ in blocks[0].named_children())
        raise InputError("model", name, f"{kind}: unknown parts in a block ({has}); known: {known_families()}")
    return blocks, fitting


def _has(block: nn.Module, convention: Convention) -> bool:
    named = _part(block, convention.attention) and _part(block, convention.mlp)
    return bool(named) and (not convention.scale or hasattr(block, convention.scale))


def _part(block: nn.Module, names: str) -> nn.Module | None:
    """The first of `a|b` that a block has."""
    for name in names.split("|"):
        try:
            return block.get_submodule(name)
        except AttributeError:
            continue


def _add_up(parts: Parts, seen: Mapping[tuple[str, int], Tensor]) -> tuple[bool, int, float]:
    """Whether the parts add up in every block; the block where they do least, and by how much of the norm."""
    adds_up, worst = True, (0, 0.0)
    for layer in range(len(parts.blocks)):
        out = seen["out", layer]
        try:
            terms = [seen["in", layer], *(parts.added(seen[part, layer], layer, out) for part in parts.convention[:2])]
        except (KeyError, RuntimeError):  # a part that didn't run, or whose output has another size
            return False, layer, torch.inf
        terms, total = [term.cpu().double() for term in terms], out.cpu().double()
        # What rounding explains, number by number: half a unit of each term and of each sum on the way.
        allowed = torch.finfo(out.dtype).eps * (sum(term.abs() for term in terms) + total.abs())
        if not ((sum(terms) - total).abs() <= allowed).all():
            adds_up = False
        worst = max(worst, (layer, _difference(sum(terms), total)), key=lambda one: one[1])
    return adds_up, *worst


def _looks_ahead(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether any token (rows of both) differs by more than rounding, though only later ones were another."""
    differences = (one - other).norm(dim=-1) / one.norm(dim=-1)
    return bool((differences > torch.finfo(dtype).eps ** 0.5).any())


def _difference(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).nan_to_num(torch.inf).item()
