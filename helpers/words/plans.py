"""What to interpret: prompts × tokens × components × layers × amplifiers, checked, in order, with ids."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .. import InputError
from . import chats
from .components import COMPONENTS, EVALUATED, OUTPUT, in_way, parse_component
from .decoding import CONTRAST_VERSION, SAMPLING_VERSION, Contrast, Decoding, Sampling
from .grammar import (
    check_amplifiers,
    check_components,
    check_flag,
    check_layer,
    check_layers,
    check_places,
    check_target_layers,
    check_text,
    check_tokens,
    check_whole,
    listed,
    once,
    parse_layers,
    slice_of,
    token_turn,
)
from .prompts import LEAST_REFERENCES, OUR_PROMPTS, read_prompts
from .rows import Identity, Item
from .target import PAPER_TARGET_PROMPT, TargetPrompt

WRITTEN = "written"  # tokens that the model writes itself: all of them, or one, as in "written 3"
METHOD_VERSION = 2  # part of every row's id; raised only when a result could change


@dataclass(frozen=True)
class Plan:
    """What to interpret, independent of a model; `make_plan` makes and checks it."""

    prompts: tuple[str, ...]
    components: tuple[str, ...]
    layers: str | tuple[int, ...]
    amplifiers: tuple[float, ...]
    tokens: tuple[int | str, ...]
    target_layers: tuple[int | str, ...]
    target_prompt: TargetPrompt
    max_new_tokens: int
    decoding: Decoding | None
    seed: int
    references: tuple[str, ...] = ()  # empty where no component is centred
    target_components: tuple[str, ...] = (OUTPUT,)
    stop_at_item: bool = False
    continue_tokens: int = 0

    def items(self, card, identity: Identity | None = None) -> list[Item]:
        """Expand the plan on one model: an item per interpretation, in order.

        Order: prompt, position, component, target component, target layer, layer, amplifier. Items that come out the
        same (two tokens that are one position, target layers 0 and "same" at layer 0, any target layers of the
        embedding) are kept once. A sum of MLP outputs stands at its last block, whatever the layers; zeros and nothing
        at all are read once, at amplifier 1.

        Args:
            card: the model (`ModelCard` or `LanguageModel`); its weights are not needed.
            identity: of the model; without it, ids are empty.

        Raises:
            InputError: a layer, token or length that this model doesn't have.
        """
        layers = parse_layers(self.layers, card.num_layers)
        parsed = {name: parse_component(name) for name in self.components}
        for name, component in parsed.items():
            if component.blocks and component.blocks[1] >= card.num_layers:
                raise InputError("components", name, f"this model has layers 0–{card.num_layers - 1}")
        targets = [
            target if target == "same" else check_layer("target_layer", target, card.num_layers)
            for target in self.target_layers
        ]
        target_prompt = self.target_prompt.located(card)
        self._check_lengths(card, target_prompt)

        items: dict[Item, None] = {}
        for prompt, token, position, own_layers in self._sources(card, layers):
            if target_prompt.span and position < len(target_prompt.placeholder) - 1:
                why = f"token {position} of {prompt!r} ends no span of {len(target_prompt.placeholder)} tokens"
                raise InputError("token", position, f"{why}, one for each placeholder")
            for name, component in parsed.items():
                source_layers = component.blocks[1:] if component.blocks else own_layers
                amplifiers = (1.0,) if component.is_read_once else self.amplifiers
                seed = self.seed if self._is_sampled or component.kind == "random" else None
                ways = itertools.product(self.target_components, targets, source_layers, amplifiers)
                for place, target, layer, amplifier in ways:
                    at = 0 if place == "embedding" else layer if target == "same" else target
                    item = Item(
                        prompt, token, layer, amplifier, name, position, at, target_prompt.name, seed,
                        target_component="" if place == OUTPUT else place,
                    )  # fmt: skip
                    items[item] = None
        return self.with_ids(list(items), card, identity) if identity else list(items)

    def inspected(self, card) -> dict[str, list[int]]:
        """Return the positions of the tokens that are read from, by source prompt, each once, in order."""
        target_prompt = self.target_prompt.located(card)
        before = len(target_prompt.placeholder) - 1 if target_prompt.span else 0  # of a span, the last is named
        found: dict[str, set[int]] = {prompt: set() for prompt in self.prompts}
        for prompt, _, position, _ in self._sources(card, ()):
            found[prompt] |= set(range(position - before, position + 1))
        return {prompt: sorted(positions) for prompt, positions in found.items()}

    def _sources(self, card, layers: Sequence[int]) -> Iterator[tuple[str, str, int, Sequence[int]]]:
        """Yield what vectors are taken from: source prompt, token decoded alone, position, source layers."""
        for prompt in self.prompts:
            decoded = named_tokens(prompt, card, self.continue_tokens)
            for token in self.tokens:
                for position in positions("token", token, prompt, card, self.continue_tokens):
                    yield prompt, decoded[position], position, layers

    def _in_id(self, item: Item) -> object:
        """Return what stands for an item's source in its id."""
        return [item.source_prompt, "chat"] if chats.messages_of(item.source_prompt) else item.source_prompt

    def describe(self) -> dict:
        """Return the settings as the JSON beside a CSV tells them."""
        target = {name: getattr(self.target_prompt, name) for name in ("text", "placeholder", "stop", "name")}
        target |= {"span": True} if self.target_prompt.span else {}
        return {
            "prompts": len(self.prompts),
            "components": self.components,
            "layers": self.layers,
            "amplifiers": self.amplifiers,
            "token": self.tokens,
            **({"continue_tokens": self.continue_tokens} if self.continue_tokens else {}),
            "target_layer": self.target_layers,
            **({} if self.target_components == (OUTPUT,) else {"target_component": self.target_components}),
            "target_prompt": target,
            "max_new_tokens": self.max_new_tokens,
            **({"stop_at_item": True} if self.stop_at_item else {}),
            "decoding": vars(self.decoding) if self.decoding else "greedy",
            "seed": self.seed if self._is_sampled or any("random" in name for name in self.components) else None,
            **({"references": self._describe_references()} if self.references else {}),
        }

    @property
    def _is_sampled(self) -> bool:
        return isinstance(self.decoding, Sampling)

    def _describe_references(self) -> dict:
        """Return how many references there are, their digest, and their file if they are the suite's own."""
        about = {"count": len(self.references), "digest": _digest(self.references)}
        return about | ({"file": OUR_PROMPTS} if self.references == tuple(read_prompts(OUR_PROMPTS)) else {})

    def _check_lengths(self, card, target_prompt: TargetPrompt) -> None:
        placeholders_of(target_prompt, card)
        room = card.context_length - len(card.token_ids(target_prompt.text))
        if self.max_new_tokens > room:
            raise InputError("max_new_tokens", self.max_new_tokens, f"{card.name} has room for {room} after the prompt")
        for parameter, prompt in (*self._texts(), *(("references", reference) for reference in self.references)):
            more = self.continue_tokens if parameter == "prompts" else 0
            if (length := len(card.token_ids(prompt)) + more) > card.context_length:
                what = f"{length} tokens{f' ({more} of them its own)' if more else ''}"
                raise InputError(parameter, prompt[:40], f"{what}, {card.name} reads {card.context_length}")

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Yield what the model has to read, each with the parameter that it came from."""
        return (("prompts", prompt) for prompt in self.prompts)

    def with_ids(self, items: list[Item], card, identity: Identity) -> list[Item]:
        """Give each of the plan's items a hash of everything that can change its text (CSV column `id`)."""
        target_prompt = self.target_prompt.located(card)
        shared = [
            METHOD_VERSION,
            [target_prompt.text, target_prompt.placeholder, *(["span"] if target_prompt.span else [])],
            [self.max_new_tokens, "or up to", target_prompt.stop] if self.stop_at_item else self.max_new_tokens,
            self._decoding_in_ids(),
            [identity.fingerprint, identity.dtype, identity.attention],
        ]
        # A list as JSON, written once for what all items share: a plan may have a million of them.
        of_kind = {"random": ("random", self.seed), "centred": ("references", _digest(self.references)), "": ()}
        ends = {kind: json.dumps([*shared, *more])[1:].encode() for kind, more in of_kind.items()}
        kinds = {name: kind if (kind := parse_component(name).kind) in ends else "" for name in self.components}

        def hashed(item: Item) -> str:
            own = [self._in_id(item), item.position, item.component, item.layer, item.amplifier, item.target_layer]
            own += [item.target_component] if item.target_component else []  # ids from before there were others
            end = ends[kinds[item.component]]
            return hashlib.sha256(json.dumps(own)[:-1].encode() + b", " + end).hexdigest()[:20]

        return [item._replace(id=hashed(item)) for item in items]

    def _decoding_in_ids(self) -> list | None:
        match self.decoding:
            case Sampling(temperature, top_p):
                return [temperature, top_p, self.seed, SAMPLING_VERSION]
            case Contrast(weight, floor):
                return ["contrast", float(weight), float(floor), CONTRAST_VERSION]


def make_plan(
    prompts: str | Sequence[str],
    components: str | Sequence[str] = ("mlp_output",),
    layers: str | int | Sequence[int] = "1-7",
    amplifiers: str | float | Sequence[float] = (1, 3, 6, 9, 12, 15),
    token: int | str | Sequence[int | str] = -1,
    target_layer: int | str | Sequence[int | str] = "same",
    target_prompt: TargetPrompt | str | None = None,
    max_new_tokens: int = 10,
    decoding: Decoding | None = None,
    seed: int = 0,
    references: str | Sequence[str] | None = None,
    target_component: str | Sequence[str] = OUTPUT,
    way: str = "plain",
    stop_at_item: bool = False,
    continue_tokens: int = 0,
) -> Plan:
    """Check the settings of a sweep; nothing is loaded or computed. Defaults: the paper's MLP evaluation (§4.1).

    Args:
        prompts: source prompts S; texts, or chats, each a list of {"role": …, "content": …} (`words.chats`).
        components: of "mlp_output", "hidden_state", "pre_mlp_residual", "attention_output"; "guidance",
            "mlp_sum[a-b]"; other ways to amplify one of the first four, "centred[mlp_output]", "norm[…]", "norm_add[…]", "add[…]",
            "fixed_norm[…]";
            and controls "random[mlp_output]" (or of another; "random" is of the plan's own component), "zero", "none".
            See `components.WAYS` and `components.Component`.
        layers: source layers ℓ, from 0: "1-7", "1-3,9", "all", "depth:0.1,0.5" (relative depth; "1-7,depth:0.5" is
            both), a number, a list.
        amplifiers: α; 1 is plain Patchscopes. Of guidance w, of norm ρ, of norm_add c, of fixed_norm the length itself.
            Numbers, or a text: "1, 1.3, 1.5", "1:15:0.5" (from 1 to 15 in steps of 0.5).
        token: the inspected token: index (negative from the end), the text of a token that occurs once, or several: a
            slice as Python writes it, "-5:" for the last five, "1::3" for every third but the first; "3-7" with both
            ends; "every 10th"; of a chat, "last of user turn", "last of 2nd assistant turn", the last token of what is
            said there; and "written", the tokens that the model writes itself, or "written 3".
        target_layer: the patched block ℓ*: a number, or "same" for ℓ* = ℓ.
        target_prompt: T, or its text, with braces around its placeholder if that isn't the last token; the paper's if
            left out.
        max_new_tokens: how long a reading is, in tokens.
        decoding: None is greedy; `Sampling` or `Contrast`.
        seed: of the sampling, and of random vectors.
        references: prompts whose mean vectors centred components are centred on, each prompt's without its own; at
            least ten others. The suite's prompts if left out.
        target_component: where in block ℓ* it is patched: one of PLACES, or several.
        way: how the components are amplified, one of WAYS; way="norm" of "mlp_output" is "norm[mlp_output]".
        stop_at_item: end a reading before the target prompt's `stop`, when its first list item is over; faster, but the
            paper scores all tokens.
        continue_tokens: how many tokens the model writes on after each prompt, greedily; they are tokens like those of
            the prompt, and captured while they are written. Those after the end of its text have no vector.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """
    prompts = once("prompts", chats.as_prompts(prompts))
    for number, prompt in enumerate(prompts):
        check_text(f"prompts[{number}]", prompt)
    if not isinstance(target_prompt, TargetPrompt):
        target_prompt = TargetPrompt.of_text("" if target_prompt is None else check_text("target_prompt", target_prompt))
    if not (decoding is None or isinstance(decoding, Decoding)):
        why = "expected None (greedy), Sampling(temperature, top_p) or Contrast(weight, floor)"
        raise InputError("decoding", decoding, why)
    components = check_components("components", components)
    if given := [name for name in components if parse_component(name).is_given]:
        raise InputError("components", given[0], "prompts have no such vectors; `helpers.read` reads given ones")
    if way != "plain":
        components = check_components("components", [in_way(way, name) for name in components])
    places = check_places("target_component", target_component)
    if any(parse_component(name).is_centred for name in components):
        if unknown := [place for place in places if place not in COMPONENTS]:
            raise InputError("target_component", unknown[0], "centred components have no mean of references there")
    return Plan(
        prompts,
        components,
        check_layers("layers", layers),
        check_amplifiers("amplifiers", amplifiers),
        check_tokens("token", token),
        check_target_layers("target_layer", target_layer),
        target_prompt,
        check_whole("max_new_tokens", max_new_tokens, 1),
        decoding,
        check_whole("seed", seed, 0, 2**32 - 1),
        _check_references(references, components, prompts),
        places,
        check_flag("stop_at_item", stop_at_item),
        check_whole("continue_tokens", continue_tokens),
    )


def _check_references(
    references: str | Sequence[str] | None, components: Sequence[str], prompts: Sequence[str]
) -> tuple[str, ...]:
    """Return the references of a plan: those given, or the suite's; none where no component is centred."""
    if not any(parse_component(name).is_centred for name in components):
        if references is not None:
            raise InputError("references", len(listed(references)), "only centred components have references")
        return ()
    found = once("references", read_prompts(OUR_PROMPTS) if references is None else references)
    for number, reference in enumerate(found):
        check_text(f"references[{number}]", reference)
    besides = len(found) - bool(set(found) & set(prompts))
    if besides < LEAST_REFERENCES:
        raise InputError("references", len(found), f"expected at least {LEAST_REFERENCES} besides the prompt itself")
    return found


def _digest(references: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(references).encode()).hexdigest()[:16]


def check_comparable(plan: Mapping[str, object], max_new_tokens: int) -> None:
    """Check that an evaluation can stand beside the controls, which read the last token, greedily, as the paper does.

    Args:
        plan: of the evaluation, as `Plan.describe` tells it.
        max_new_tokens: of the controls.

    Raises:
        InputError: names the setting.
    """
    [component] = plan["components"]
    wanted = {
        "token": [-1],
        "target_layer": [EVALUATED[component]] if component in EVALUATED else None,
        "decoding": "greedy",
        "max_new_tokens": max_new_tokens,
        "stop_at_item": False,
        "target_component": [OUTPUT],
        "target_prompt": PAPER_TARGET_PROMPT,
    }
    given = {"stop_at_item": False, "target_component": [OUTPUT]}  # a description names what is otherwise
    given |= {name: list(value) if isinstance(value, tuple) else value for name, value in plan.items()}
    given["target_prompt"] = given["target_prompt"]["text"]
    if more := plan.get("continue_tokens"):
        raise InputError("continue_tokens", more, f"what {component} is compared with was read without tokens of the model's own")
    for name, value in wanted.items():
        if given[name] != value:
            raise InputError(name, given[name], f"what {component} is compared with was read with {value!r}")


def named_tokens(text: str, card, continue_tokens: int = 0) -> list[str]:
    """Return a text's tokens, each decoded alone, and the names of those that the model writes on, "written 1", …"""
    return card.decoded_tokens(text) + [f"{WRITTEN} {number}" for number in range(1, continue_tokens + 1)]


def positions(parameter: str, token: int | str, text: str, card, continue_tokens: int = 0) -> list[int]:
    """Return the positions of the tokens that a setting means: one, or those of a slice.

    What is written like a slice but stands in the text as a token means that token.

    Raises:
        InputError: as `locate`; a slice without tokens.
    """
    several = slice_of(token)
    if token == WRITTEN and continue_tokens:
        several = slice(-continue_tokens, None)
    decoded = [one.strip() for one in named_tokens(text, card, continue_tokens)] if several else []
    if not several or token.strip() in decoded:
        return [locate(parameter, token, text, card, continue_tokens)]
    if places := list(range(len(decoded)))[several]:
        return places
    raise InputError(parameter, token, f"no tokens there; {text!r} has {len(decoded)}")


def placeholders_of(target_prompt: TargetPrompt, card) -> tuple[int, ...]:
    """Return the absolute positions of a target prompt's placeholders, in order.

    Raises:
        InputError: one that the model's tokens don't have.
    """
    placeholder = target_prompt.located(card).placeholder
    if isinstance(placeholder, tuple):
        return placeholder
    return (locate("placeholder", placeholder, target_prompt.text, card),)


def locate(parameter: str, token: int | str, text: str, card, continue_tokens: int = 0) -> int:
    """Return the absolute position of a token in a text, from 0, counting every token that the model sees.

    Raises:
        InputError: not there, or more than once; the message lists the tokens with their positions.
    """
    if token_turn(token):
        return chats.turn_end(parameter, token, text, card)
    decoded = named_tokens(text, card, continue_tokens)
    if isinstance(token, str):
        found = [i for i, one in enumerate(decoded) if one == token] or [
            i for i, one in enumerate(decoded) if one.strip() == token.strip()
        ]
        problem = "is not in" if not found else f"occurs {len(found)} times in"
    else:
        found = [token % len(decoded)] if -len(decoded) <= token < len(decoded) else []
        problem = "is outside"
    if len(found) == 1:
        return found[0]
    listing = " ".join(f"{i}:{one!r}" for i, one in enumerate(decoded))
    raise InputError(parameter, token, f"{problem} {text!r}; its tokens are {listing}")
