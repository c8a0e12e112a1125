"""What a visitor can set: the inputs of the page, filled from settings and read as settings."""

import json
from collections.abc import Sequence
from html import escape

import gradio as gr

from .. import InputError
from ..words import chats
from ..words.components import COMPONENTS, FINE_GRID, MLP_GRID
from . import view
from .chips import CHIPS, Chips, chip, with_bytes
from .desk import Desk
from .panel import QUIET
from .settings import COLUMNS, PAPERS_COLUMNS, Beyond, PageSettings, check_length, in_words

MOST_CHIPS = 512  # tokens that are shown to choose from; the last ones
EXAMPLES = (  # the paper's walkthroughs (Figure 1, Tables 1-3), and their settings
    *({"prompt": prompt, "components": PAPERS_COLUMNS, "target_layer": "same", "amplifiers": in_words(MLP_GRID),
       "layers": "1-7"}
      for prompt in ("Diana, Princess of Wales", "Saturday Night Live", "Back to the Future")),
    *({"prompt": prompt, "components": ("hidden_state",), "target_layer": "0", "amplifiers": in_words(FINE_GRID),
       "layers": "0-7"}
      for prompt in ("Alexander the Great", "Red Hot Chili Peppers", "Florence and the Machine")),
)  # fmt: skip
PLACES = "Tokens by position, from 0: -5: is the last five, 3-7 those between, every 10th, 12; commas between them"
LAYERS = {"choices": ["same", "0"], "allow_custom_value": True, "label": "Target layer"}


class Inputs:
    """The inputs on the left of the page.

    Attributes:
        fields: setting -> its input, in the order of `PageSettings`.
        tokens_of: the model, the prompt and the positions that the chips belong to, as JSON. On the page beside them, so
            that they change together: a visitor may ask while new chips are on their way.
        turn: the button that makes the prompt a turn of a chat.
        go, stop: the buttons.
        places: tokens as a text, which goes before the chips.
        bytes: those of chips that are parts of a letter.
        expected: how many readings the inputs ask for.
        problem: where wrong settings are reported.
        compare, compared: whether a second panel is wanted; setting -> its input for that panel.
        history: earlier requests of this visit.
    """

    def __init__(self, desk: Desk):
        self._desk = desk
        usual = PageSettings.of({"model": desk.model})
        prompt = gr.Textbox(
            label="Prompt", lines=1, max_lines=6, autofocus=True, placeholder="What is the vector taken from?",
            elem_id="prompt",
        )  # fmt: skip
        self.examples = gr.Dataset(
            components=[prompt], samples=[[example["prompt"]] for example in EXAMPLES], type="index",
            label="From the paper",
        )  # fmt: skip
        tokens = Chips([], label="Tokens", elem_classes="chips", elem_id="tokens")
        self.tokens_of = gr.Textbox("", visible="hidden", show_label=False)
        with gr.Row(elem_classes="small"):
            self.last, self.all = gr.Button("last", size="sm"), gr.Button("all", size="sm")
            self.turn = gr.Button("chat turn", size="sm", visible=False, elem_id="turn")
            self.places = gr.Textbox(
                label=PLACES, show_label=False, container=False, max_lines=1, min_width=120, elem_id="places",
                placeholder="-5:, 3-7, every 10th",
            )  # fmt: skip
            self.bytes = gr.HTML("", apply_default_css=False, js_on_load=CHIPS, elem_id="bytes", padding=False)
        components = gr.CheckboxGroup(
            [(COMPONENTS[name].symbol, name) for name in COLUMNS], label="Vectors", value=list(usual.components),
            elem_classes="chips", elem_id="components", info=f"h_PreMLP: {COMPONENTS['pre_mlp_residual'].meaning}",
        )  # fmt: skip
        with gr.Row():
            layers = gr.Textbox(usual.layers, label="Layers", elem_id="layers", min_width=120)
            target_layer = gr.Dropdown(value=usual.target_layer, elem_id="target-layer", min_width=120, **LAYERS)
        amplifiers = gr.Textbox(
            usual.amplifiers, label="Amplifiers", info="1 is plain Patchscopes; 1:6:0.5 is a range",
            elem_id="amplifiers",
        )  # fmt: skip
        with gr.Row(elem_classes="go"):
            self.go = gr.Button("Interpret", variant="primary", elem_id="interpret", scale=2, min_width=0)
            self.stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=0)
            self.expected = gr.HTML("", apply_default_css=False, elem_id="expected", padding=False)
        self.problem = gr.HTML("", apply_default_css=False, elem_id="problem")
        with gr.Accordion("More", open=False):
            model = gr.Dropdown(desk.models, value=usual.model, label="Model", elem_id="model")
            target_prompt = gr.Textbox(
                usual.target_prompt, label="Target prompt", info="{braces} mark the placeholder", lines=3,
                elem_id="target-prompt",
            )  # fmt: skip
            with gr.Row():
                max_new_tokens = gr.Number(
                    usual.max_new_tokens, label="New tokens", precision=0, min_width=120, elem_id="new-tokens"
                )
                threshold = gr.Number(
                    usual.threshold, label="Threshold", step=0.05, min_width=120, elem_id="threshold"
                )
        with gr.Accordion("Side by side", open=False):
            self.compare = gr.Checkbox(label="Read a second time, with:", elem_id="compare")
            other_amplifiers = gr.Textbox("1", label="Amplifiers", elem_id="other-amplifiers")
            other_target_layer = gr.Dropdown(value=usual.target_layer, elem_id="other-target-layer", **LAYERS)
            other_model = gr.Dropdown(desk.models, value=usual.model, label="Model", elem_id="other-model")
        with gr.Accordion("This visit", open=False):
            self.history = gr.Dropdown([], label="Earlier requests", elem_id="history")
        self.fields = {
            "prompt": prompt, "model": model, "tokens": tokens, "components": components, "layers": layers,
            "target_layer": target_layer, "amplifiers": amplifiers, "target_prompt": target_prompt,
            "max_new_tokens": max_new_tokens, "threshold": threshold,
        }  # fmt: skip
        self.compared = {"model": other_model, "target_layer": other_target_layer, "amplifiers": other_amplifiers}
        self._connect()

    @property
    def all_fields(self) -> list:
        """Return the inputs of all settings, `tokens_of` and `places`."""
        return [*self.fields.values(), self.tokens_of, self.places]

    @property
    def filled(self) -> list:
        """Return what `fill` changes."""
        return [*self.all_fields, self.bytes, self.turn]

    def _connect(self) -> None:
        prompt, model, tokens = (self.fields[name] for name in ("prompt", "model", "tokens"))
        chips = [tokens, self.fields["layers"], self.tokens_of, self.bytes, self.turn]
        gr.on(
            [prompt.change, model.change, self.places.change], self.renew_chips,
            [prompt, model, self.tokens_of, self.places], chips, trigger_mode="always_last", **QUIET,
        )  # fmt: skip
        tokens.input(None, None, self.places, js="() => ''")
        for button, which in ((self.last, slice(-1, None)), (self.all, slice(None))):
            button.click(
                lambda of, which=which: (_belonging(of)[2][which], ""), self.tokens_of, [tokens, self.places], **QUIET
            )
        self.turn.click(self.take_turn, [prompt, model], [prompt, self.places, *chips], **QUIET)
        self.examples.click(self.example, [self.examples, model], self.filled, **QUIET)
        counted = [field.change for name, field in self.fields.items() if name != "threshold"]
        gr.on(
            [*counted, self.places.change], self.expect, self.all_fields, self.expected, trigger_mode="always_last",
            **QUIET,
        )  # fmt: skip

    def read(self, values: Sequence) -> PageSettings:
        """Read `all_fields`; if the chips still belong to another prompt, its last token is meant.

        Raises:
            InputError: names the setting, what was given and what is allowed.
        """
        *values, tokens_of, places = values
        given = dict(zip(self.fields, values, strict=True))
        if (given["model"], given["prompt"]) != _belonging(tokens_of)[:2] or places:
            given["tokens"] = (-1,)
        settings = PageSettings.of(given | {name: given[name] or () for name in ("tokens", "components")})
        return settings.at(places, self._desk.card(settings.model)) if places else settings

    def expect(self, *values) -> str:
        """Say how many readings the inputs ask for, and about how long they take, or that they are too many; nothing of
        what else is wrong while a visitor types.
        """
        try:
            settings = self.read(values)
            card = self._desk.card(settings.model)
            readings = len(settings.plan(card).items(card))
        except Beyond as error:
            return view.error(str(error))
        except InputError:
            return ""
        return view.expected(readings, self._desk.seconds_for(readings, settings))

    def fill(self, settings: PageSettings) -> dict:
        """Return what changes so that the inputs show some settings."""
        chips = self.chips(settings.prompt, settings.model, settings.tokens)
        layers = self.fields["layers"]
        changes = {self.fields[name]: value for name, value in settings} | chips | {self.places: ""}
        changes[layers] = chips.get(layers, gr.update()) | {"value": settings.layers}
        changes[self.fields["components"]] = list(settings.components)
        if settings.model not in self._desk.models:
            del changes[self.fields["model"]]
        return changes

    def example(self, number: int, model: str) -> dict:
        """Return what changes so that the inputs show an example of the paper."""
        return self.fill(PageSettings.of(EXAMPLES[number] | {"model": model}))

    def renew_chips(self, prompt: str, model: str, tokens_of: str, places: str) -> dict:
        """Return the chips of what was typed; those that came with a link or an example stay as they are."""
        if (model, prompt) == _belonging(tokens_of)[:2] and not places:
            return {self.fields["tokens"]: gr.skip()}
        try:
            chosen = PageSettings.of({"prompt": prompt}).at(places, self._desk.card(model)).tokens if places else (-1,)
        except InputError as error:
            return self.chips(prompt, model, ()) | {self.bytes: f'<p class="caption">{escape(str(error)[:200])}</p>'}
        return self.chips(prompt, model, chosen)

    def take_turn(self, prompt: str, model: str) -> dict:
        """Return what changes so that the prompt is what a user says in a chat, the last token of that chosen; or is a
        plain text again.
        """
        try:
            if chats.messages_of(check_length("prompt", prompt)):
                prompt, chosen = chats.plain_text(prompt), -1
            else:
                prompt = chats.chat([{"role": "user", "content": prompt}], "prompt")
                chosen = chats.turn_end("tokens", "last of user turn", prompt, self._desk.card(model))
        except InputError as error:
            return {self.bytes: f'<p class="caption">{escape(str(error)[:200])}</p>'}
        return {self.fields["prompt"]: prompt, self.places: ""} | self.chips(prompt, model, (chosen,))

    def chips(self, prompt: str, model: str, chosen: Sequence[int] = (-1,)) -> dict:
        """Return a prompt's tokens to choose from, and a label with the layers that the model has.

        Args:
            chosen: positions that are chosen already; negative from the end.
        """
        tokens_input = self.fields["tokens"]
        try:
            card = self._desk.card(model)
            check_length("prompt", prompt)
            pieces = card.pieces(prompt) if prompt.strip() else []
        except InputError as error:
            nothing = gr.update(choices=[], value=[], info=escape(str(error)))
            return {tokens_input: nothing, self.bytes: "", self.tokens_of: json.dumps([model, prompt, []])}
        inside = [position for position in chosen if -len(pieces) <= position < len(pieces)]
        value = list(dict.fromkeys(position % len(pieces) for position in inside))
        every = range(len(pieces))
        positions = sorted({*every[-MOST_CHIPS:], *value})
        return {
            tokens_input: gr.update(
                choices=[(chip(str(pieces[position])), position) for position in positions],
                value=value,
                info=f"the last {MOST_CHIPS} of {len(pieces):,}" if len(pieces) > MOST_CHIPS else "",
            ),
            self.bytes: with_bytes([pieces[position] for position in positions]),
            self.turn: gr.update(visible=card.has_chat),
            self.fields["layers"]: gr.update(label=f"Layers, of 0–{card.num_layers - 1}"),
            self.tokens_of: json.dumps([model, prompt, positions]),
        }


def _belonging(tokens_of: str) -> tuple[str, str, list[int]]:
    """Return the model, the prompt and the positions that the chips belong to; of none where it can't be read."""
    try:
        model, prompt, positions = json.loads(tokens_of)
        return str(model), str(prompt), list(positions)
    except (TypeError, ValueError):
        return "", "", []
