"""The row schema, version 1: what stands in a CSV, in the ledger, in a message between workers and on the page."""

import math
from typing import NamedTuple

from .components import OUTPUT, Site


class Identity(NamedTuple):
    """What identifies the model behind a row; part of the row's id.

    Attributes:
        name: as its folder of results is called.
        fingerprint: SHA-256 over the model's files, 16 hexadecimal digits.
        dtype: of its weights.
        attention: the model's own attention implementation.
    """

    name: str
    fingerprint: str
    dtype: str
    attention: str


class Item(NamedTuple):
    """One interpretation before it is read: a row of a plan on a model.

    Attributes:
        source_prompt, token, position: S, the inspected token decoded alone, and where it stands, from 0.
        component: see `components.parse_component`.
        layer, target_layer: ℓ and ℓ*.
        amplifier: α; w of guidance, ρ of norm, c of norm_add, n of fixed_norm.
        target_prompt: its short name.
        seed: of the sampling or of a random vector; None where nothing is drawn.
        id: a hash of everything that can change the text; "" while the model isn't known.
        target_component: where it is patched, one of PLACES; "" is the block's output.
    """

    source_prompt: str
    token: str
    layer: int
    amplifier: float
    component: str
    position: int
    target_layer: int
    target_prompt: str
    seed: int | None
    id: str = ""
    target_component: str = ""

    @property
    def source(self) -> Site:
        """Where the vector is read."""
        return Site(self.component, self.layer)

    @property
    def target(self) -> Site:
        """Where the vector is patched in."""
        return Site(self.target_component or OUTPUT, self.target_layer)


class Reading(NamedTuple):
    """What the model wrote of one vector.

    Attributes:
        result: the continuation; "" where status isn't ok.
        rho: ‖α·v‖, or of what else was put there, / ‖the placeholder's own state there‖; the mean over placeholders.
        entropy: of the first token's distribution, in nats.
        log_prob: of the written tokens, the mean over them, the end-of-sequence included where there is one.
        status, message: see STATUSES.
        written: the inspected token, decoded alone, if the model wrote it itself.
    """

    result: str
    rho: float = math.nan
    entropy: float = math.nan
    log_prob: float = math.nan
    status: str = "ok"
    message: str = ""
    written: str = ""


STATUSES = {  # status -> its message, where it is always the same
    "ok": "",
    "nonfinite": "logits are not finite: the amplified vector is out of the dtype's range",
    "oom": "out of memory, also alone",
    "error": "",
}
NO_VECTOR = "the vector is not a number: one of length zero has no direction to scale"  # nonfinite as well
NOT_WRITTEN = "the model ended its text before this token"  # so is this
TRIED_AGAIN = ("error", "oom")  # a resumed run reads these rows once more: what failed may have passed


class Column(NamedTuple):
    """A column of the row schema.

    Attributes:
        name: in CSVs and DataFrames.
        field: the field of `Item` or `Reading` that it holds; "" for a score.
        type: text, int, number (written in its shortest form) or float.
        digits: of a float: significant digits of ρ, decimals of the others.
        meaning: for readers, and for the docs.
    """

    name: str
    field: str
    type: str
    digits: int
    meaning: str


SCHEMA = (
    Column("source prompt", "source_prompt", "text", 0, "S"),
    Column("token", "token", "text", 0, "the inspected token, decoded alone; of several with parts of a letter, the letter and which part"),
    Column("layer", "layer", "int", 0, "source layer ℓ, from 0; −1 of a given vector of no layer"),
    Column("amplification value", "amplifier", "number", 0, "α; for guidance w, norm ρ, norm_add c, fixed_norm n"),
    Column("result", "result", "text", 0, "what the model wrote, cut at end-of-sequence"),
    Column("component", "component", "text", 0, "which vector was read"),
    Column("position", "position", "int", 0, "of the token, from 0, counting every token that the model saw"),
    Column("written", "written", "text", 0, "the token at this position, if the model wrote it itself"),
    Column("target layer", "target_layer", "int", 0, "ℓ*, the patched block"),
    Column("target component", "target_component", "text", 0, "where in ℓ* it was patched; empty: the block's output"),
    Column("target prompt", "target_prompt", "text", 0, "a short name; the JSON has its text"),
    Column("seed", "seed", "int", 0, "empty when nothing was drawn"),
    Column("rho", "rho", "float", 4, "‖α·v‖ / ‖the placeholder's own hidden state at ℓ*‖"),
    Column("entropy", "entropy", "float", 3, "of what the model would write first, in nats; lower is surer"),
    Column("log_prob", "log_prob", "float", 3, "mean log-probability of the tokens that it wrote"),
    Column("score", "", "float", 6, "cosine of the whole result with the source prompt"),
    Column("score first item", "", "float", 6, "the same for the first list item"),
    Column("score gold", "", "float", 6, "cosine of the whole result with the gold description, where there is one"),
    Column("status", "status", "text", 0, "ok, nonfinite, error or oom"),
    Column("message", "message", "text", 0, "why it is not ok"),
    Column("id", "id", "text", 0, "a hash of everything that can change the result"),
)
WEIGHED = (  # behind these, where readings were weighed without their prompt; tables of runs are without them
    Column("mean_rank", "", "float", 3, "mean rank among the vector's readings, by what the model tells of each; 1 is best"),
    Column("confidence", "", "float", 3, "probability that it describes its vector; empty where nothing was calibrated"),
    Column("verdict", "", "text", 0, "of the one chosen blind: believed, no reading to believe, or uncalibrated"),
    Column("chosen", "", "text", 0, "by what it is chosen of its vector's readings: blind, similarity, or both"),
)
LATER = (  # columns that only some tables have, behind the others; a row's id knows nothing of them
    *WEIGHED,
    Column("logit lens", "", "text", 0, "what the logit lens says of the vector: its likeliest tokens, a JSON list; else empty"),
)
ROW_COLUMNS = tuple(column.name for column in SCHEMA)
WEIGHED_COLUMNS = tuple(column.name for column in WEIGHED)
MAY_LACK = ("written", "target component")  # files are without them where all their rows would be empty
PAPER_COLUMNS = ROW_COLUMNS[:5]  # the paper's, under its names and in its order
ITEM_COLUMNS = {column.name: column.field for column in SCHEMA if column.field in Item._fields}
READING_COLUMNS = {column.name: column.field for column in SCHEMA if column.field in Reading._fields}
SCORE_COLUMNS = tuple(column.name for column in SCHEMA if not column.field)
DIGITS = {column.name: column.digits for column in (*SCHEMA, *LATER) if column.type == "float"}
