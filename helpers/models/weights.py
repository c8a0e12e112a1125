"""Rows of a model's weight matrices, as vectors of the residual stream: what a neuron writes, and what it looks for.

Families differ in what the matrices are called, in which way they lie, and in whether two of them are one. NEURONS is
the table, by names, as `families.CONVENTIONS` is for the branches; of a block, the first row fits whose modules it has.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .. import InputError
from ..words.expressions import Weight
from ..words.vectors import token_of
from .load import LanguageModel


class Neurons(NamedTuple):
    """What the matrices of an MLP are called within a block.

    Attributes:
        up: into the neurons.
        down: out of them.
        gate: whose result is activated and multiplies that of `up`; "" where there is none; the same as `up` where both
            are one matrix, the gate's half first.
    """

    up: str
    down: str
    gate: str = ""


NEURONS = (
    Neurons("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj"),  # Llama, Mistral, Qwen, Gemma, OLMo, Granite, …
    Neurons("mlp.gate_up_proj", "mlp.down_proj", "mlp.gate_up_proj"),  # Phi-3, GLM-4
    Neurons("mlp.c_fc", "mlp.c_proj"),  # GPT-2, GPT-Neo, StarCoder 2
    Neurons("mlp.fc1", "mlp.fc2"),  # Phi-1, Phi-2
    Neurons("mlp.fc_in", "mlp.fc_out"),  # GPT-J
    Neurons("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),  # GPT-NeoX, Falcon, BLOOM
    Neurons("fc1", "fc2"),  # OPT, XGLM, BioGPT
    Neurons("ffn.up_proj", "ffn.down_proj"),  # MPT
    Neurons("feed_forward.w3", "feed_forward.w2", "feed_forward.w1"),  # LFM2
    Neurons("shared_mlp.input_linear", "shared_mlp.output_linear", "shared_mlp.input_linear"),  # Granite 4
)


def weight_of(lm: LanguageModel, weight: Weight) -> Tensor:
    """Return a row of a weight matrix: (width,) float32 on the CPU.

    `mlp.down` is what the neuron's activation of 1 adds to what the MLP gives, scaled as the block scales it; where a
    norm follows the MLP (Gemma 2, OLMo 2), it is what enters that norm. Embeddings are as they are stored.

    Raises:
        InputError: a mixture of experts or unknown matrices; no gate; a neuron or token that the model doesn't have;
            weights that aren't plain matrices in memory.
    """
    if len(weight.index) == 1:
        is_head = weight.matrix == "head"
        module = lm.model.get_output_embeddings() if is_head else lm.model.get_input_embeddings()
        matrix = _matrix(weight, module)
        return _row(lm, weight, matrix, token_of(weight, lm))
    layer, neuron = weight.index
    block = lm.blocks[layer]
    names = next((one for one in NEURONS if all(map(_module_in(block), filter(None, one)))), None)
    kind = lm.model.config.model_type
    if names is None:
        why = f"{kind}, block {layer}: no MLP of known matrices; of a mixture of experts, neurons can't be read"
        raise InputError("vectors", str(weight), why)
    which = weight.matrix.removeprefix("mlp.")
    if which == "gate" and not names.gate:
        raise InputError("vectors", str(weight), f"the MLPs of {kind} have no gate; mlp.up is a neuron's key")
    matrix = _matrix(weight, block.get_submodule(getattr(names, which)))
    if which == "down":
        scale = lm.parts.convention.scale
        return _row(lm, weight, matrix.T, neuron) * (float(getattr(block, scale)) if scale else 1.0)
    if names.gate == names.up:
        gate, up = matrix.chunk(2)
        matrix = gate if which == "gate" else up
    return _row(lm, weight, matrix, neuron)


def _module_in(block: nn.Module):
    modules = {name for name, _ in block.named_modules()}
    return lambda name: name in modules


def _matrix(weight: Weight, module: nn.Module | None) -> Tensor:
    """Return a layer's matrix, (outputs, inputs) for linear layers, (tokens, width) for embeddings."""
    plain = isinstance(module, nn.Linear | nn.Embedding | Conv1D) and module.weight.is_floating_point()
    if not plain or hasattr(module, "base_layer") or module.weight.is_meta:
        why = "quantized, adapted or offloaded" if module is not None else "missing"
        raise InputError("vectors", str(weight), f"its matrix is no plain one in memory, but {why}")
    return module.weight.T if isinstance(module, Conv1D) else module.weight


@torch.inference_mode()
def _row(lm: LanguageModel, weight: Weight, rows: Tensor, index: int) -> Tensor:
    if index >= len(rows):
        what = "neuron" if len(weight.index) == 2 else "token"
        raise InputError("vectors", str(weight), f"{lm.name} has {what}s 0–{len(rows) - 1:,} there")
    if rows.shape[1] != lm.width:
        raise InputError("vectors", str(weight), f"{rows.shape[1]} numbers; {lm.name} has a width of {lm.width}")
    return rows[index].float().cpu().clone()
