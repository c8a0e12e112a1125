"""The paper's experiments, and the controls that they need, as plans: what each notebook asks a model for."""

from collections.abc import Callable, Sequence

from .decoding import Sampling
from .plans import PAPER_TARGET_PROMPT, Plan, TargetPrompt, make_plan

# The paper's grids (§4.1; §4.2), and a gentle one with as many amplified tries as its first, for vectors as long as a
# hidden state.
MLP_GRID = (1, 3, 6, 9, 12, 15)
FINE_GRID = (1, 1.3, 1.5, 1.7, 1.9, 2, 3, 4, 5, 6)
GENTLE_GRID = (1, 1.5, 2, 3, 4, 6)
GRIDS = {  # of what adds to the residual stream, and of the stream itself
    "mlp_output": MLP_GRID,
    "attention_output": MLP_GRID,
    "hidden_state": GENTLE_GRID,
    "pre_mlp_residual": GENTLE_GRID,
}
TARGETS = {"mlp_output": "same", "hidden_state": 0}  # where the paper's evaluations patch (§4.1; §4.2)
DEPTHS = "depth:0.3,0.5,0.7,0.9"
PAPERS_SAMPLING = Sampling(temperature=0.6, top_p=0.9)

TARGET_PROMPTS = (  # the paper's, and four in the same form
    TargetPrompt(PAPER_TARGET_PROMPT),
    TargetPrompt(
        "France: Country in Western Europe, Meryl Streep: American actress, Toyota: Japanese multinational car "
        "manufacturer, x",
        name="france",
    ),
    TargetPrompt(
        "Brazil: Country in South America, Rembrandt: Dutch painter, Nestlé: Swiss multinational food and drink "
        "company, x",
        name="brazil",
    ),
    TargetPrompt(
        "Kenya: Country in East Africa, Usain Bolt: Jamaican sprinter, Microsoft: American multinational software "
        "company, x",
        name="kenya",
    ),
    TargetPrompt(
        "Oslo: Capital of Norway, Casablanca: American romantic drama film, Intel: American multinational "
        "semiconductor company, x",
        name="oslo",
    ),
)


def story(prompt: str, layers: str = "0-7", target_layer: int | str = "same", **shared) -> list[Plan]:
    """Figure 1: h_PreMLP, the MLP output plain and amplified, and the hidden state of one prompt; a random vector."""
    settings = {"layers": layers, "target_layer": target_layer} | shared
    return [
        make_plan([prompt], ("pre_mlp_residual", "hidden_state"), amplifiers=1, **settings),
        make_plan([prompt], ("mlp_output", "random[mlp_output]"), amplifiers=MLP_GRID, **settings),
    ]


def guidance(
    prompt: str,
    layers: str = "4-6",
    amplifiers: Sequence[float] = tuple(range(16)),
    target_layer: int | str = "same",
    **shared,
) -> list[Plan]:
    """Figure 2 and §3.5: amplified MLP outputs, h_PreMLP + w·mlp, and the two plain readings that it passes through."""
    settings = {"layers": layers, "target_layer": target_layer} | shared
    return [
        make_plan([prompt], ("mlp_output", "guidance"), amplifiers=amplifiers, **settings),
        make_plan([prompt], ("pre_mlp_residual", "hidden_state"), amplifiers=1, **settings),
    ]


def before_context(
    prompts: Sequence[str],
    hidden_walkthroughs: Sequence[str] = (),
    fine_amplifiers: Sequence[float] = (1.3, 1.5, 1.7, 1.9, *range(2, 22)),
    walkthrough_layers: str = "0-7",
    **shared,
) -> list[Plan]:
    """Tables 1–3: plain readings in every layer, for ℓ_c; layer 0, which the evaluations leave out; fine amplifiers.

    Args:
        hidden_walkthroughs: prompts of Table 3, in `walkthrough_layers` (0 and up) with the fine amplifiers as well.
    """
    plans = [
        make_plan(
            [*dict.fromkeys([*prompts, *hidden_walkthroughs])], "hidden_state", "all", 1, target_layer=0, **shared
        ),
        make_plan(prompts, "mlp_output", 0, MLP_GRID, target_layer=0, **shared),
    ]
    if others := [prompt for prompt in prompts if prompt not in hidden_walkthroughs]:
        plans.append(make_plan(others, "hidden_state", 0, FINE_GRID[1:], target_layer=0, **shared))
    if hidden_walkthroughs:
        settings = {"layers": walkthrough_layers, "amplifiers": fine_amplifiers, "target_layer": 0} | shared
        plans.append(make_plan(hidden_walkthroughs, "hidden_state", **settings))
    return plans


def every_component(
    prompts: Sequence[str],
    layers: str = "1-7",
    depths: str = DEPTHS,
    sums: Sequence[str] = ("mlp_sum[1-3]", "mlp_sum[1-7]"),
    **shared,
) -> list[Plan]:
    """Figure 3 for each vector, into the same layer and into layer 0 (§4, §6); what the two evaluations don't read.

    The evaluations' own settings go deeper, at relative depths; sums of MLP outputs go into layer 0.
    """
    plans = [
        make_plan(prompts, component, layers, grid, target_layer=target, **shared)
        for component, grid in GRIDS.items()
        for target in ("same", 0)
        if TARGETS.get(component) != target
    ]
    plans += [
        make_plan(prompts, component, depths, GRIDS[component], target_layer=target, **shared)
        for component, target in TARGETS.items()
    ]
    return plans + [make_plan(prompts, sums, 0, MLP_GRID, target_layer=0, **shared)] * bool(sums)


def amplification_or_tries(
    prompts: Sequence[str],
    layers: str = "1,3,5,7",
    seeds: int = 5,
    mlp_amplifiers: Sequence[float] = (1.5, 2, 4.5, 20, 30),
    hidden_amplifiers: Sequence[float] = (1.2, 2.5, 9, 15),
    **shared,
) -> list[Plan]:
    """Is a gain due to amplification, or to more tries? As many plain readings, random vectors, single amplifiers.

    Args:
        seeds: sampled plain readings.
        mlp_amplifiers, hidden_amplifiers: besides those of the evaluations (§4.1's "intermediate values").
    """
    between = {"mlp_output": mlp_amplifiers, "hidden_state": hidden_amplifiers}
    plans = []
    for component, target in TARGETS.items():
        settings = {"components": component, "layers": layers, "target_layer": target} | shared
        plans += [make_plan(prompts, amplifiers=1, target_prompt=one, **settings) for one in TARGET_PROMPTS[1:]]
        plans += [
            make_plan(prompts, amplifiers=1, decoding=PAPERS_SAMPLING, seed=seed, **settings) for seed in range(seeds)
        ]
        random = settings | {"components": f"random[{component}]"}
        plans.append(make_plan(prompts, amplifiers=GRIDS[component], **random))
        if len(between[component]):
            plans.append(make_plan(prompts, amplifiers=between[component], **settings))
    plans.append(make_plan(prompts[:1], ("zero", "none"), layers, 1, target_layer=["same", 0], **shared))
    return plans


def elsewhere(prompts: Sequence[str], layers: str = "2,5", **shared) -> list[Plan]:
    """The two evaluations on other entities."""
    return [
        make_plan(prompts, component, layers, GRIDS[component], target_layer=target, **shared)
        for component, target in TARGETS.items()
    ]


def stability(prompts: Sequence[str], layers: str = "2,5", seeds: int = 3, **shared) -> list[Plan]:
    """The two evaluations with three target prompts and three seeds each."""
    return [
        make_plan(
            prompts, component, layers, GRIDS[component], target_layer=target, target_prompt=target_prompt,
            decoding=PAPERS_SAMPLING, seed=seed, **shared,
        )
        for component, target in TARGETS.items()
        for target_prompt in TARGET_PROMPTS[:3]
        for seed in range(seeds)
    ]  # fmt: skip


EXPERIMENTS: dict[str, Callable[..., list[Plan]]] = {
    experiment.__name__: experiment
    for experiment in (
        story, guidance, before_context, every_component, amplification_or_tries, elsewhere, stability
    )
}  # fmt: skip
