"""The plain way, kept for ever: for each vector a hook and a `generate`, with nothing shared or batched.

It is written without the project's capture, hooks and engine, so that they can be checked against it.
"""

import torch


@torch.no_grad()
def plain_vector(model, tokenizer, prompt, component, layer, position):
    """Return a component's vector at (layer, position), (width,), read by hooks on Llama's modules."""
    block, seen = model.model.layers[layer], {}
    handles = [
        block.register_forward_hook(lambda module, args, output: seen.update(hidden_state=output)),
        block.mlp.register_forward_hook(lambda module, args, output: seen.update(mlp_output=output)),
        block.self_attn.register_forward_hook(lambda module, args, output: seen.update(attention_output=output[0])),
    ]
    try:
        model(tokenizer(prompt, return_tensors="pt").input_ids)
    finally:
        for handle in handles:
            handle.remove()
    seen["pre_mlp_residual"] = seen["hidden_state"] - seen["mlp_output"]
    return seen[component][0, position]


def blocks_of(model):
    """Return a model's decoder blocks, by the names that transformers' families give them."""
    paths = (
        "model.layers",
        "model.language_model.layers",
        "model.decoder.layers",
        "transformer.h",
        "transformer.blocks",
    )
    for path in (*paths, "gpt_neox.layers", "biogpt.layers"):
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    raise LookupError(type(model).__name__)


@torch.no_grad()
def plain_interpret(model, tokenizer, vector, target_layer, target_text, placeholder=-1, max_new_tokens=10):
    """Return what the model writes when block `target_layer`'s output at the placeholder is `vector`."""
    inputs = tokenizer(target_text, return_tensors="pt").to(model.device)
    length = inputs.input_ids.shape[1]

    def overwrite(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] == length:  # the pass that reads the prompt; later passes read a single new token
            hidden[0, placeholder] = vector.to(hidden.dtype)

    handle = blocks_of(model)[target_layer].register_forward_hook(overwrite)
    try:
        tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens)
    finally:
        handle.remove()
    return tokenizer.decode(tokens[0, length:], skip_special_tokens=True)


@torch.no_grad()
def plain_contrast(model, tokenizer, vector, target_layer, target_text, weight, floor, max_new_tokens=10):
    """Return what is written step by step from z + weight·(z − z_null), the whole text read anew in every step."""
    prompt, written = tokenizer(target_text, return_tensors="pt").input_ids, []
    placeholder = prompt.shape[1] - 1

    def overwrite(module, args, output):
        (output[0] if isinstance(output, tuple) else output)[0, placeholder] = vector

    while len(written) < max_new_tokens:
        ids = torch.cat([prompt, torch.tensor([written], dtype=torch.long)], 1)
        null = model(ids).logits[0, -1]
        handle = blocks_of(model)[target_layer].register_forward_hook(overwrite)
        try:
            logits = model(ids).logits[0, -1]
        finally:
            handle.remove()
        probability = logits.softmax(0)
        scores = logits + weight * (logits - null)
        scores[probability < floor * probability.max()] = -torch.inf
        token = int(scores.argmax())
        if token == model.generation_config.eos_token_id:
            break
        written.append(token)
    return tokenizer.decode(written, skip_special_tokens=True)


@torch.no_grad()
def plain_item(model, tokenizer, vector, target_layer, target_text, stop, max_new_tokens=10):
    """Return what is written up to a separator, the whole text read anew in every step, and how sure the model was.

    Returns:
        (the text before the separator, entropy of the first token, log-probabilities of the tokens up to the one that
        completes the separator or ends the text).
    """
    prompt, written, told, entropy = tokenizer(target_text, return_tensors="pt").input_ids, [], [], None
    placeholder = prompt.shape[1] - 1

    def overwrite(module, args, output):
        (output[0] if isinstance(output, tuple) else output)[0, placeholder] = vector

    text, handle = "", blocks_of(model)[target_layer].register_forward_hook(overwrite)
    try:
        while len(written) < max_new_tokens and stop not in text:
            ids = torch.cat([prompt, torch.tensor([written], dtype=torch.long)], 1)
            known = model(ids).logits[0, -1].log_softmax(0)
            entropy = float(-(known.exp() * known).sum()) if entropy is None else entropy
            token = int(known.argmax())
            told.append(float(known[token]))
            if token == model.generation_config.eos_token_id:
                break
            written.append(token)
            text = tokenizer.decode(written, skip_special_tokens=True)
    finally:
        handle.remove()
    return text.split(stop)[0], entropy, told


@torch.no_grad()
def plain_placed(model, tokenizer, put, place, layer, target_text, positions, max_new_tokens=10):
    """Return what the model writes when at each position what stands at a place becomes `put(number, what stood there)`.

    Args:
        put: (number of the position among all, (width,) own state in this very pass) -> (width,).
        place: (kind, module): "in" replaces what the module receives, "out" what it returns; a third, a factor, is what
            the block multiplies the output by.
    """
    kind, module, factor = (*place, 1.0)[:3]
    inputs = tokenizer(target_text, return_tensors="pt").to(model.device)
    length = inputs.input_ids.shape[1]

    def written(hidden):
        lines = hidden.reshape(1, -1, hidden.shape[-1]).clone()
        if lines.shape[1] == length:
            for number, position in enumerate(positions):
                lines[0, position] = put(number, lines[0, position] * factor) / factor
        return lines.reshape(hidden.shape)

    def on_output(module, args, output):
        return (written(output[0]), *output[1:]) if isinstance(output, tuple) else written(output)

    def on_input(module, args, kwargs):
        if args:
            return (written(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": written(kwargs["hidden_states"])}

    if kind == "in":
        handle = module.register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(on_output)
    try:
        tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens)
    finally:
        handle.remove()
    return tokenizer.decode(tokens[0, length:], skip_special_tokens=True)
