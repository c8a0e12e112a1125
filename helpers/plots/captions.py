"""What each figure says above itself: model, n, tries, threshold, what bars and bands are."""

FIVE = "Superscopes: best of five amplified readings; Patchscopes: α = 1."
BARS = "Bars: 95 % intervals of the distance to chance"
OTHERS = "the same readings, judged by other prompts"


def _interpreted(threshold: float, pairs: str = "in a share of (prompt, layer) pairs") -> str:
    return f"Interpreted: similarity to the prompt above {threshold:g}, {pairs}"


def tries(model: str, prompts: int, layers: str, threshold: float) -> str:
    return (
        f"{model}, {prompts} prompts, source layers {layers}. {_interpreted(threshold)}. Above: each amplifier alone, one "
        f"try. Below: the best of k tries, less what chance gives with as many tries ({OTHERS}). {BARS}, over prompts; "
        "grey: 95 % of all rotations."
    )


def scoring(model: str, prompts: int, layers: str, threshold: float) -> str:
    return (
        f"{model}, {prompts} prompts, source layers {layers}. {FIVE} Left: interpreted (prompt, layer) pairs as the "
        f"threshold moves, and chance. Right: interpreted above chance at {threshold:g}; bars: 95 % intervals over prompts. "
        f"Chance: {OTHERS} (grey: 95 % of all rotations)."
    )


def categories(model: str, entities: int, layers: str, threshold: float) -> str:
    return (
        f"{model}, {entities} entities, source layers {layers}. "
        f"{_interpreted(threshold, 'in a share of (entity, layer) pairs')}. {FIVE} {BARS}, over entities. Grey, chance: the "
        "same readings, judged by others of the category (95 % of all rotations)."
    )


def stability(model: str, prompts: int, layers: str, threshold: float) -> str:
    return (
        f"{model}, {prompts} prompts, source layers {layers}, sampled (temperature 0.6, top_p 0.9). "
        f"{_interpreted(threshold)}, less chance ({OTHERS}, with as many tries). {FIVE} Bars: 95 % intervals over prompts; "
        "grey: 95 % of all rotations."
    )


def sizes(prompts: int, dtypes: str, threshold: float) -> str:
    return (
        "Interpreted, above chance, in a share of prompts, by relative depth of the source layer; "
        f"{prompts} prompts, similarity to the prompt above {threshold:g}, {dtypes}. MLP outputs into the same layer (α = 3 "
        "to 15), hidden states into layer 0 (α = 1.5 to 6). Coloured bands: 95 % intervals over prompts. Grey: what chance "
        f"varies by ({OTHERS}). Models differ in more than size: family, training, tokenizer."
    )


def components(model: str, prompts: int, threshold: float) -> str:
    return (
        f"{model}, {prompts} prompts. Interpreted: a reading's similarity to its prompt is above {threshold:g}. {FIVE} "
        "Amplifiers: 3 to 15 for MLP and attention outputs, 1.5 to 6 for the others. Bars: 95 % intervals. Grey, chance: "
        "the same readings scored against other prompts (95 % of all rotations)."
    )
