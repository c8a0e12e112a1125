"""Published readers: what a file says of how vectors are put in place of a prompt's tokens, and which prompt asks.

selfie     a .safetensors file of selfie-adapters, its settings as `config_json` in the metadata: a scale, an affine or a
           low-rank map gives the embedding of the placeholders
oracle     a PEFT folder of an activation oracle: a LoRA that is active while the model reads, not where vectors are from;
           they are added after block 1, as long as the placeholder's own state (`norm_add`)
verbalizer a folder of a model with an nla_meta.yaml: vectors of a fixed length take the place of one token's embedding,
           and the text between two tags is what it says
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import InputError
from ..words.chats import chat, in_template
from ..words.files import in_repository
from ..words.settings import ADAPTER_FILES
from ..words.target import TargetPrompt
from ..words.vectors import Through
from .gguf import sha256
from .load import ModelCard

PARAMETER = "reader"
META = "nla_meta.yaml"
FORMS = f"a selfie-adapters .safetensors file, a PEFT folder of an activation oracle, or a folder of a model with {META}"
PARTS = {  # of selfie-adapters: type -> its tensors
    "scale_only": {"log_scale"},
    "scalar_affine": {"log_scale", "bias"},
    "full_rank": {"weight", "bias"},
    "low_rank_only": {"U", "V", "bias"},
    "scalar_affine_plus_low_rank": {"log_scale", "U", "V", "bias"},
}
SMALLEST = 1e-8  # added to a length that is divided by, as those files were trained
RESERVED = "<|reserved_special_token_0|>"
SELFIE_PROMPT = (  # Llama 3's, where the file has none
    f'<|start_header_id|>user<|end_header_id|>\n\nWhat is the meaning of "{RESERVED}"?<|eot_id|>'
    f'<|start_header_id|>assistant<|end_header_id|>\n\nThe meaning of "{RESERVED}" is "'
)
ORACLE_MARK, ORACLE_LAYER = " ?", 1
ORACLE_QUESTION = "What is this about? Answer in a few words."
LAYER_IN_NAME = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Published:
    """A published reader: what its files say, and what the method that they are of fixes.

    Attributes:
        kind: selfie, oracle or verbalizer.
        path: as it was given.
        way, amplifier: how a vector is put in place (`components.WAYS`), and by how much where nobody says.
        target_component, target_layer: where.
        max_new_tokens: how long its readings are, where nobody says.
        stop: what is cut out of them (`TargetPrompt.stop`).
        width: of its vectors; 0 where only the model's tensors tell.
        layer: that its vectors are of; None if any will do.
        through: what its file does to them, if anything.
        about: what else its files say.
    """

    kind: str
    path: str
    way: str
    amplifier: float
    target_component: str
    target_layer: int
    max_new_tokens: int
    stop: str
    width: int = 0
    layer: int | None = None
    through: Through | None = None
    about: Mapping | None = None

    def check(self, card: ModelCard) -> None:
        """Refuse a model that it wasn't made for.

        Raises:
            InputError: another width, number of layers, or tokenizer.
        """
        if self.width and self.width != card.width:
            raise self._refused(f"made for vectors of {self.width} numbers; {card.name} has a width of {card.width}")
        if self.layer is not None and self.layer >= card.num_layers:
            raise self._refused(f"made for layer {self.layer}; {card.name} has layers 0–{card.num_layers - 1}")
        if self.kind == "oracle":
            self._check_adapter(card)
            self._check_tokenizer(card)
            if card.num_layers <= ORACLE_LAYER:
                raise self._refused(f"vectors are added after block {ORACLE_LAYER}; {card.name} has no such block")
        if self.kind == "verbalizer":
            token = self.about["injection_token_id"]
            if self._one_token(self.about["injection_char"], card) != token:
                raise self._refused(f"its token {self.about['injection_char']!r} is not number {token} of {card.name}: another tokenizer")

    def target_prompt(self, card: ModelCard, layer: int = 0, question: str = "", placeholders: int = 1) -> TargetPrompt:
        """Return the prompt that asks, its placeholders located in this model's tokens.

        Args:
            layer: that the vectors are of; an oracle is told it.
            question: that an oracle is asked.
            placeholders: of an oracle; each gets the vector.

        Raises:
            InputError: a tokenizer that it wasn't made for.
        """
        self.check(card)
        match self.kind:
            case "selfie":
                text, mark = self.about["template"], self.about["reserved_token"]
                count = text.count(mark)
            case "oracle":
                question = f"Layer: {layer}\n{ORACLE_MARK * placeholders} \n{question or ORACLE_QUESTION}"
                text, mark, count = self._asked(question, card), ORACLE_MARK, placeholders
            case _:
                mark, count = self.about["injection_char"], 1
                text = self._asked(self.about["template"].replace("{injection_char}", mark), card)
        wanted, text = self._one_token(mark, card), _without_bos(text, card)
        ids = card.token_ids(text)
        found = [place for place, token in enumerate(ids) if token == wanted][:count]
        if len(found) < count:
            raise self._refused(f"{card.name} has no {count} tokens {mark!r} in {text[:80]!r}: another tokenizer")
        if self.kind == "verbalizer":
            around = ids[found[0] - 1], ids[found[0] + 1] if found[0] + 1 < len(ids) else None
            if around != tuple(self.about["neighbours"]):
                raise self._refused(f"beside {mark!r} are the tokens {around} of {card.name}, not {self.about['neighbours']}: another tokenizer")
        return TargetPrompt(text, tuple(found), self.stop)

    def _asked(self, question: str, card: ModelCard) -> str:
        return in_template(chat([{"role": "user", "content": question}]), card, enable_thinking=False)

    def _one_token(self, mark: str, card: ModelCard) -> int:
        ids = card.tokenizer(mark, add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == card.tokenizer.unk_token_id:
            raise self._refused(f"its token {mark!r} is no single token of {card.name}: another tokenizer")
        return ids[0]

    def _check_adapter(self, card: ModelCard) -> None:
        """Compare an adapter's tensors with the model, by their names and shapes."""
        shapes = _shapes(in_repository(self.path) / ADAPTER_FILES[1], self.path)
        layers = {int(found[1]) for name in shapes if (found := LAYER_IN_NAME.search(name))}
        of_some = self.about.get("layers_to_transform") is not None
        if not layers or max(layers) >= card.num_layers or (not of_some and layers != set(range(card.num_layers))):
            count = max(layers, default=-1) + 1
            raise self._refused(f"made for a model of {count} layers; {card.name} has {card.num_layers}")
        if card.width not in (widths := {shape[1] for name, shape in shapes.items() if "lora_A" in name and len(shape) == 2}):
            raise self._refused(f"made for another width than {card.width}: its matrices take {', '.join(map(str, sorted(widths)))} numbers")

    def _check_tokenizer(self, card: ModelCard) -> None:
        """Compare the vocabulary with the tokenizer's that the folder may hold."""
        if (file := in_repository(self.path) / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            if Tokenizer.from_file(str(file)).get_vocab() != card.tokenizer.get_vocab():
                raise self._refused(f"its tokenizer has other tokens than that of {card.name}")

    def _refused(self, why: str) -> InputError:
        return InputError(PARAMETER, self.path, why)


def open_reader(path: str) -> Published:
    """Read what a published reader's files say.

    Raises:
        InputError: no such file, of none of the forms, or without a part that its form has.
    """
    place = in_repository(path)
    if (place / META).is_file():
        return _verbalizer(path, place)
    if all((place / name).is_file() for name in ADAPTER_FILES):
        about = _json(path, (place / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        return Published("oracle", path, "norm_add", 1.0, "hidden_state", ORACLE_LAYER, 20, "\n", about=about)
    if place.suffix == ".safetensors" and place.is_file():
        return _selfie(path, place)
    raise InputError(PARAMETER, path, f"expected {FORMS}")


def projection_of(through: Through) -> Callable[[Tensor], Tensor]:
    """Return what a reader's adapter does to vectors, (…, width) float32.

    Raises:
        InputError: numbers that aren't finite.
    """
    return _projection(through.path, through.key)


# The formats


def _selfie(path: str, file: Path) -> Published:
    shapes, metadata = _shapes(file, path), _metadata(file)
    if "config_json" not in metadata:
        raise InputError(PARAMETER, path, "a selfie-adapters file has config_json in its metadata; this one has none")
    config = _json(path, metadata["config_json"])
    projection, prompt = config.get("projection") or {}, config.get("soft_prompt") or {}
    if not isinstance(projection, dict) or not isinstance(prompt, dict):
        raise InputError(PARAMETER, path, "its projection and its soft_prompt are no mappings")
    kind, normalizes = projection.get("type"), projection.get("normalize_input")
    if not isinstance(kind, str) or kind not in PARTS or not isinstance(normalizes, bool):
        raise InputError(PARAMETER, path, f"its projection is {kind!r}, normalize_input {normalizes!r}; expected one of {', '.join(PARTS)}")
    if missing := sorted(PARTS[kind] ^ set(shapes)):
        raise InputError(PARAMETER, path, f"a {kind} adapter has the tensors {', '.join(sorted(PARTS[kind]))}; {missing[0]} is missing or too many")
    widths = {shape[0] for name, shape in shapes.items() if name != "log_scale"}
    widths |= {int(metadata["model_dim"])} if str(metadata.get("model_dim", "")).isdigit() else set()
    if len(widths) != 1:
        raise InputError(PARAMETER, path, f"its width is not clear: {', '.join(map(str, sorted(widths))) or 'it has no model_dim'}")
    width, about = widths.pop(), {"type": kind, "normalize_input": normalizes}
    through = Through("reader", path, sha256(file)[:16], width, width, json.dumps(about), normalizes)
    projection_of(through)  # numbers that aren't finite are refused now
    about |= {"template": prompt.get("template") or SELFIE_PROMPT, "reserved_token": prompt.get("reserved_token") or RESERVED}
    return Published("selfie", path, "plain", 1.0, "embedding", 0, 30, '…"', width, through=through, about=about)


@lru_cache(4)
def _projection(path: str, digest: str) -> Callable[[Tensor], Tensor]:
    with safe_open(in_repository(path), "pt") as opened:
        parts = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118, it is no dict
        projection = json.loads(opened.metadata()["config_json"])["projection"]
    if not all(part.isfinite().all() for part in parts.values()):
        raise InputError(PARAMETER, path, "has numbers that are not finite")

    def projected(vectors: Tensor) -> Tensor:
        if projection["normalize_input"]:
            vectors = vectors / (vectors.norm(dim=-1, keepdim=True) + SMALLEST)
        total = torch.zeros_like(vectors)
        if "log_scale" in parts:
            total = total + parts["log_scale"].exp() * vectors
        if "weight" in parts:
            total = total + vectors @ parts["weight"].T
        if "U" in parts:
            total = total + vectors @ parts["U"] @ parts["V"].T
        return total + parts.get("bias", 0)

    return projected


def _verbalizer(path: str, folder: Path) -> Published:
    import yaml

    try:
        meta = yaml.safe_load((folder / META).read_text(encoding="utf-8"))
        tokens, extraction = meta["tokens"], meta["extraction"]
        width = int(meta.get("d_model") or extraction["d_model"])
        layer = meta.get("extraction_layer_index", extraction.get("layer_index"))
        layer = None if layer is None else int(layer)
        length = extraction["injection_scale"]
        about = {
            "injection_char": tokens["injection_char"],
            "injection_token_id": int(tokens["injection_token_id"]),
            "neighbours": [int(tokens[f"injection_{side}_neighbor_id"]) for side in ("left", "right")],
            "template": meta["prompt_templates"].get("av") or meta["prompt_templates"]["actor"],
        }
        if meta.get("role", "av") not in ("av", "actor"):
            raise ValueError(f"its role is {meta['role']!r}: only av writes texts")
        if layer is not None and layer < 0:
            raise ValueError(f"its layer is {layer}; layers are counted from 0")
        if isinstance(length, bool) or not isinstance(length, int | float) or not 0 < length < math.inf:
            raise ValueError(f"its injection_scale is {length!r}, no length")
        if "{injection_char}" not in about["template"]:
            raise ValueError("its prompt has no {injection_char}")
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(PARAMETER, path, f"{META} can't be used ({' '.join(str(error).split())[:160]})") from error
    except KeyError as error:
        raise InputError(PARAMETER, path, f"{META} lacks {error.args[0]}") from error
    return Published(
        "verbalizer", path, "fixed_norm", float(length), "embedding", 0, 150, "<explanation>…</explanation>", width,
        layer, about=about,
    )  # fmt: skip


def _without_bos(text: str, card: ModelCard) -> str:
    """Return a text without the BOS that it begins with, if the tokenizer puts one there itself."""
    bos = card.tokenizer.bos_token
    adds = bos is not None and card.tokenizer("a").input_ids[0] == card.tokenizer.bos_token_id
    return text.removeprefix(bos) if adds else text


def _shapes(file: Path, path: str) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, "pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(PARAMETER, path, f"{file.name} can't be read ({' '.join(str(error).split())[:120]})") from error


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def _json(path: str, text: str) -> dict:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(PARAMETER, path, f"its settings are no JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(PARAMETER, path, "its settings are no mapping")
    return found
