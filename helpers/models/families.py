"""Find a model's blocks, and the modules whose outputs each block adds to the residual stream; proved at load.

A family is a row of CONVENTIONS: the names of the modules in its blocks. A family that uses the names of an existing
row needs no row. Of whatever is loaded, the first row is taken for which, in every block,

    block input + attention_output + mlp_output = hidden_state

holds to the rounding of the dtype. A model for which none does is refused, unless the user names the modules
(`load_model(…, parts=…)`), and then the same proof decides.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .. import InputError
from ..engine.hooks import record  # from a later wing, since all hooks are there; it imports nothing of ours
from ..words.components import Site
from ..words.machine import is_out_of_memory


class Convention(NamedTuple):
    """What the modules of a block are called.

    Attributes:
        attention, mlp: modules whose outputs are added to the residual stream: the branch itself, the norm after it
            where there is one, or the linear layer inside it where the branch returns its sum with the residual.
            `a|b`: whichever of the two a block has.
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
    # A block has attention or a substitute for it.
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
HOW_TO_NAME = (
    'to name the two modules whose outputs a block adds, give parts={"attention": "NAME", "mlp": "NAME"} in Python, '
    "parts=attention:NAME,mlp:NAME in the shell"
)


class Parts(NamedTuple):
    """A model's decoder blocks, in order, and what their modules are called."""

    blocks: nn.ModuleList
    convention: Convention

    def modules(self) -> dict[Site, nn.Module]:
        """Return the module to record at each site of hidden_state, attention_output and mlp_output."""
        modules = {Site("hidden_state", layer): block for layer, block in enumerate(self.blocks)}
        for component, name in (("attention_output", self.convention.attention), ("mlp_output", self.convention.mlp)):
            modules |= {Site(component, layer): _part(block, name) for layer, block in enumerate(self.blocks)}
        return modules

    def added(self, recorded: Tensor, layer: int, hidden_state: Tensor) -> Tensor:
        """Return what a branch added to the residual stream.

        Args:
            recorded: what the branch's module returned, in any shape of batch × tokens × width numbers.
            layer: its block.
            hidden_state: (batch, tokens, width), what the block returned in the same pass.

        Returns:
            (batch, tokens, width), scaled as the block scales it.
        """
        recorded = recorded.reshape(hidden_state.shape)  # some MLPs see all tokens of a batch in one line
        return recorded * getattr(self.blocks[layer], scale) if (scale := self.convention.scale) else recorded


def check_architecture(
    name: str, config: PreTrainedConfig, trust_remote_code: bool = False, named: Mapping[str, str] | None = None
) -> None:
    """Refuse a model whose blocks have no attention and MLP branch that we can find, before its weights are read.

    Args:
        name: of the model, for the message.
        config: of the model.
        trust_remote_code: whether the model's own Python code may run.
        named: the modules as the user names them (`SourceOptions.parts`); else the names of CONVENTIONS are tried.

    Raises:
        InputError: an encoder-decoder, an encoder, a state-space model, no language model, or unknown module names.
    """
    kind = config.model_type
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    if config.is_encoder_decoder:
        problem = "is an encoder-decoder"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        problem = "is an encoder"
    elif not causal:
        problem = "is no causal language model"
    elif kind in POST_NORM and getattr(config, POST_NORM[kind][0]) == POST_NORM[kind][1]:
        problem = f"with {POST_NORM[kind][0]}={POST_NORM[kind][1]} puts a norm after the addition, so no part adds up"
    else:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        try:
            _fitting(name, model, named)
            return
        except InputError:
            if named or not model._is_stateful:
                raise
        problem = "is a state-space model, whose blocks don't add an attention and an MLP branch"
    raise InputError("model", name, f"{kind} {problem}; only decoder-only causal language models can be read")


@torch.inference_mode()
def find_parts(
    name: str, model: PreTrainedModel, device: torch.device, named: Mapping[str, str] | None = None
) -> Parts:
    """Return the parts of a loaded model, and prove that they add up, with one pass over two rows of a few tokens.

    The pass also proves that there are as many blocks as the config says, that they are as wide, that each block
    receives what the block before it returned, and that no token sees a later one. It can't tell attention from the
    MLP: where the user names the modules, which of the two is which is as the user says.

    Args:
        name: of the model, for the message.
        model: in memory.
        device: where its inputs go.
        named: as of `check_architecture`.

    Raises:
        InputError: names the family, the block and the size of the difference.
    """
    blocks, fitting = _fitting(name, model, named)
    ids = 1 + torch.arange(PROBE_TOKENS, device=device).repeat(2, 1)
    ids[1, -1] += 1
    seen = _probe(name, model, blocks, fitting, ids)
    _check_stream(name, model, len(blocks), ids, seen)
    failures = []
    for convention in fitting:
        parts = Parts(blocks, convention)
        adds_up, *worst = _add_up(parts, seen)
        if adds_up:
            return parts
        failures.append(worst)
    layer, difference = min(failures, key=lambda worst: worst[1])
    if math.isfinite(difference):
        why = f"input + attention + MLP differs from the output by {difference:.1e} of its norm"
    else:
        why = "the module of a branch doesn't run, or gives another shape than the block"
    why = f"{model.config.model_type}, block {layer}: {why}"
    if named:
        raise InputError("parts", dict(named), f"{why}; it has {_children(blocks[layer])}")
    raise InputError("model", name, f"{why}; known to add up: {known_families()}; {HOW_TO_NAME}")


def known_families() -> str:
    """Return the families of all conventions, for a message."""
    return "; ".join(convention.families for convention in CONVENTIONS)


# The names


def _fitting(
    name: str, model: PreTrainedModel, named: Mapping[str, str] | None
) -> tuple[nn.ModuleList, list[Convention]]:
    """Return the blocks, and the conventions whose names every block's modules have."""
    kind = model.config.model_type
    blocks = _find_blocks(name, model, named)
    if (number := model.config.get_text_config().num_hidden_layers) != len(blocks):
        raise InputError("model", name, f"{kind}: {len(blocks)} blocks, but its config says {number}")
    if named:
        convention = Convention(named["attention"], named["mlp"], named.get("scale", ""), "as the user names them")
        for layer, block in enumerate(blocks):
            _check_names(layer, block, convention, named)
        return blocks, [convention]
    fitting = [convention for convention in CONVENTIONS if all(_has(block, convention) for block in blocks)]
    if not fitting:
        why = f"{kind}: unknown modules in a block, which has {_children(blocks[0])}; {HOW_TO_NAME}"
        raise InputError("model", name, f"{why}; known: {known_families()}")
    return blocks, fitting


def _find_blocks(name: str, model: PreTrainedModel, named: Mapping[str, str] | None) -> nn.ModuleList:
    if path := (named or {}).get("blocks"):
        blocks = _part(model, path)
        if not isinstance(blocks, nn.ModuleList):
            lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
            why = f"no list of blocks at {path!r}; the model's lists of modules are {_joined(lists)}"
            raise InputError("parts", dict(named), why)
        return blocks
    candidates = [
        getattr(root, attribute, None)
        for root in (model.get_decoder(), model.base_model, getattr(model, "model", None))
        for attribute in BLOCK_LISTS
    ]
    blocks = next((blocks for blocks in candidates if isinstance(blocks, nn.ModuleList)), None)
    if blocks is None:
        why = f"{model.config.model_type}: no list of blocks where one is expected"
        if named:
            raise InputError("parts", dict(named), f"{why}; give its path from the model as `blocks`")
        why = f"{why}; {HOW_TO_NAME}, with the list's path from the model as `blocks`"
        raise InputError("model", name, f"{why}; known: {known_families()}")
    return blocks


def _check_names(layer: int, block: nn.Module, convention: Convention, named: Mapping[str, str]) -> None:
    """Refuse a name that the user gives of something that a block doesn't have; say what it has."""
    for names in convention[:2]:
        if not _part(block, names):
            path, home = [], block  # as far as the first of the names leads
            for step in names.split("|")[0].split("."):
                if step not in (children := dict(home.named_children())):
                    break
                path, home = [*path, step], children[step]
            where = f"its {'.'.join(path)}" if path else "it"
            why = f"block {layer} has no module {names!r}; {where} has {_children(home)}"
            raise InputError("parts", dict(named), why)
    if (scale := convention.scale) and not isinstance(getattr(block, scale, None), int | float | Tensor):
        numbers = [name for name, value in vars(block).items() if isinstance(value, int | float) and name[0] != "_"]
        numbers = [name for name in numbers if not isinstance(getattr(block, name), bool)]
        numbers += [name for name, _ in (*block.named_parameters(recurse=False), *block.named_buffers(recurse=False))]
        why = f"block {layer} has no number {scale!r}; its numbers are {_joined(numbers)}"
        raise InputError("parts", dict(named), why)


def _has(block: nn.Module, convention: Convention) -> bool:
    modules = _part(block, convention.attention) and _part(block, convention.mlp)
    return bool(modules) and (not convention.scale or hasattr(block, convention.scale))


def _part(module: nn.Module, names: str) -> nn.Module | None:
    """Return the first of the modules `a|b` that is inside a module."""
    for name in filter(None, names.split("|")):
        try:
            return module.get_submodule(name)
        except AttributeError:
            continue


def _children(module: nn.Module) -> str:
    return _joined([name for name, _ in module.named_children()])


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


# The proof


def _probe(
    name: str, model: PreTrainedModel, blocks: nn.ModuleList, fitting: Sequence[Convention], ids: Tensor
) -> dict[tuple[str, int], Tensor]:
    """Run the model once and return what its blocks received and returned, and what their branches returned.

    Returns:
        ("in" or "out" or the name of a module, block) -> tensor.
    """
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
    return seen


def _check_stream(
    name: str, model: PreTrainedModel, num_blocks: int, ids: Tensor, seen: Mapping[tuple[str, int], Tensor]
) -> None:
    """Refuse a model whose residual stream has an odd width, changes between blocks, or lets tokens see later ones."""
    kind, width = model.config.model_type, model.config.get_text_config().hidden_size

    def refused(layer: int, why: str) -> InputError:
        return InputError("model", name, f"{kind}, block {layer}: {why}")

    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise InputError("model", name, f"{kind}: its forward doesn't know logits_to_keep, as transformers' own do")
    before = None
    for layer in range(num_blocks):
        received, out = seen["in", layer], seen["out", layer]
        if out.shape != (*ids.shape, width):
            raise refused(layer, f"gives {tuple(out.shape)}, not {width} numbers a token")
        if not out.isfinite().all():
            raise refused(layer, f"its output is not finite in {str(out.dtype).removeprefix('torch.')}; try another")
        if before is not None and not torch.equal(before, received.to(before.device)):
            raise refused(layer, "doesn't receive what the block before it gives")
        same = _largest_difference(*received[:, :-1]) <= 1e-6  # rows of a batch are not always equal to the last bit
        if same and _largest_difference(*out[:, :-1]) > torch.finfo(out.dtype).eps ** 0.5:
            raise refused(layer, "tokens see later ones; not a causal model")
        before = out


def _add_up(parts: Parts, seen: Mapping[tuple[str, int], Tensor]) -> tuple[bool, int, float]:
    """Tell whether the parts add up in every block, in which block they do so least, and by how much of the norm."""
    adds_up, worst = True, (0, 0.0)
    for layer in range(len(parts.blocks)):
        out = seen["out", layer]
        try:
            terms = [seen["in", layer], *(parts.added(seen[part, layer], layer, out) for part in parts.convention[:2])]
        except (KeyError, RuntimeError):  # a module that didn't run, or whose output has another size
            return False, layer, torch.inf
        terms, total = [term.cpu().double() for term in terms], out.cpu().double()
        # What rounding explains, number by number: half a unit of each term and of each sum on the way.
        allowed = torch.finfo(out.dtype).eps * (sum(term.abs() for term in terms) + total.abs())
        if not ((sum(terms) - total).abs() <= allowed).all():
            adds_up = False
        worst = max(worst, (layer, _difference(sum(terms), total)), key=lambda found: found[1])
    return adds_up, *worst


def _largest_difference(some: Tensor, others: Tensor) -> float:
    """Return by how much of its length the token differs that differs most; both are (tokens, width)."""
    some, others = some.cpu().double(), others.cpu().double()
    return ((some - others).norm(dim=-1) / some.norm(dim=-1)).nan_to_num(0.0).max().item()


def _difference(some: Tensor, others: Tensor) -> float:
    return ((some - others).norm() / others.norm()).nan_to_num(torch.inf).item()
