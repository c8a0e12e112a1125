"""Expressions that stand for a vector, like `"King" - "Man" + "Woman"` (paper §3.3), and their grammar.

expression   term, or a sum, difference, negative, multiple or quotient: + - * / and brackets; factors are numbers
term         "a prompt"                          its last token
             "a prompt"(component=mlp_output, layer=5, token=-2)    any of the three; token an index or a token's text
             mean(expression, …)                 their mean
             mean(prompts("file.csv"))           over a CSV's prompts; column="…" of another column than `prompt`, and
                                                 component, layer and token as above
             unit(expression)                    of length 1
             mlp.down[ℓ, n]                      what neuron n of layer ℓ writes: its output weights
             mlp.gate[ℓ, n]  mlp.up[ℓ, n]        what it looks for: its key (Speaking Probes, paper §2.3)
             embedding["token" or id]  head["token" or id]    a row of the embedding, of the output head

Several have semicolons between them; mlp.down[5, 10:20] alone stands for ten.

A term without a component takes the one that is asked for, a term without a layer every source layer that is asked for.
Python's own parser reads the text; anything but the above is refused, and nothing is ever evaluated as code.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Iterator
from typing import NamedTuple

from .. import InputError
from .components import COMPONENTS
from .grammar import check_text, is_whole
from .prompts import read_prompts

LONGEST, MOST_ROWS = 10_000, 100_000  # letters; rows of matrices
PARAMETER = "vectors"
WEIGHTS = {"mlp.down": 2, "mlp.gate": 2, "mlp.up": 2, "embedding": 1, "head": 1}  # matrix -> indexes
OPTIONS = ("component", "layer", "token")
FORM = (
    'expected prompts in quotes, + - * /, numbers, mean(…), unit(…), mlp.down[layer, neuron], mlp.gate[…], mlp.up[…], '
    'embedding["token"] or head["token"], as in "King" - "Man" + "Woman" or "King"(layer=5, token=-1)'
)


class Term(NamedTuple):
    """A vector of a prompt, or the mean of those of several prompts.

    Attributes:
        prompts: one, or those of a file.
        component, layer: "" and None where the expression leaves them open.
        token: an index, or the text of a token.
        file, column: where the prompts are from; "" where they stand in the expression.
    """

    prompts: tuple[str, ...]
    component: str = ""
    layer: int | None = None
    token: int | str = -1
    file: str = ""
    column: str = "prompt"

    def __str__(self) -> str:
        given = {"column": _quoted(self.column)} if self.file and self.column != "prompt" else {}
        given |= {"component": self.component} if self.component else {}
        given |= {} if self.layer is None else {"layer": self.layer}
        given |= {} if self.token == -1 else {"token": _quoted(self.token) if isinstance(self.token, str) else self.token}
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        if self.file:
            return f"prompts({', '.join(filter(None, (_quoted(self.file), said)))})"
        return _quoted(self.prompts[0]) + (f"({said})" if said else "")


class Weight(NamedTuple):
    """A row of a weight matrix.

    Attributes:
        matrix: of WEIGHTS.
        index: (layer, neuron), or a single token, its id or text.
    """

    matrix: str
    index: tuple[int | str, ...]

    @property
    def layer(self) -> int | None:
        return self.index[0] if len(self.index) == 2 else None

    def __str__(self) -> str:
        said = ", ".join(_quoted(one) if isinstance(one, str) else str(one) for one in self.index)
        return f"{self.matrix}[{said}]"


class Sum(NamedTuple):
    """A sum of multiples: Σ factor · part."""

    parts: tuple[tuple[float, Node], ...]

    def __str__(self) -> str:
        said = ""
        for factor, part in self.parts:
            sign = ("-" if factor < 0 else "") if not said else (" - " if factor < 0 else " + ")
            times = "" if abs(factor) == 1 else f"{_shortest(abs(factor))} * "
            said += f"{sign}{times}{f'({part})' if isinstance(part, Sum) else part}"
        return said


class Mean(NamedTuple):
    """The mean of some vectors; a file's prompts are as many."""

    parts: tuple[Node, ...]

    def __str__(self) -> str:
        return f"mean({', '.join(map(str, self.parts))})"


class Unit(NamedTuple):
    """A vector divided by its length."""

    part: Node

    def __str__(self) -> str:
        return f"unit({self.part})"


Node = Term | Weight | Sum | Mean | Unit


class Expression(NamedTuple):
    """An expression, parsed, with the component that its open terms take; `parse` makes it.

    Attributes:
        node: what it says.
        component: one of COMPONENTS.
    """

    node: Node
    component: str

    def __str__(self) -> str:
        return str(self.node)

    @property
    def terms(self) -> tuple[Term, ...]:
        return tuple(leaf for leaf in _leaves(self.node) if isinstance(leaf, Term))

    @property
    def weights(self) -> tuple[Weight, ...]:
        return tuple(leaf for leaf in _leaves(self.node) if isinstance(leaf, Weight))

    @property
    def layers(self) -> set[int]:
        """Return the layers that it names itself."""
        return {leaf.layer for leaf in _leaves(self.node) if leaf.layer is not None}

    @property
    def is_open(self) -> bool:
        """Tell whether it takes the source layers that are asked for: it has a term without a layer."""
        return any(term.layer is None for term in self.terms)

    @property
    def key(self) -> str:
        """Return a digest of all that its numbers depend on, besides the model and the layer.

        The numbers themselves aren't in it, as those of a file are: they come from the model, whose fingerprint stands
        in each id, and their last digits may differ from processor to processor.
        """
        said = [str(self), self.component, [term.prompts for term in self.terms]]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def parse(text: str, component: str = "hidden_state", files: bool = True) -> Expression:
    """Parse an expression; its files of prompts are read.

    Args:
        component: of the terms that name none.
        files: whether it may read some.

    Raises:
        InputError: quotes the part that isn't understood; a file that can't be read.
    """
    found = parse_all(text, component, files)
    if len(found) > 1:
        raise InputError(PARAMETER, text[:80], f"{len(found)} expressions, not one")
    return found[0]


def parse_all(text: str, component: str = "hidden_state", files: bool = True) -> list[Expression]:
    """Parse expressions with semicolons between them; mlp.down[5, 10:20] alone is ten of them. Otherwise as `parse`."""
    check_text(PARAMETER, text)
    if component not in COMPONENTS:
        raise InputError("component", component, f"expected one of {', '.join(COMPONENTS)}")
    if len(text) > LONGEST:
        raise InputError(PARAMETER, f"{text[:40]}…", f"{len(text):,} letters; at most {LONGEST:,}")
    text = " ".join(text.split("\n")).strip()
    try:
        parser, found = _Parser(text, files), []
        for statement in ast.parse(text, mode="exec").body:
            if not isinstance(statement, ast.Expr):
                raise parser.refused(statement)
            found += [Expression(node, component) for node in parser.nodes(statement.value)]
            if len(found) > MOST_ROWS:  # of all ranges together
                raise InputError(PARAMETER, text[:80], f"expected at most {MOST_ROWS:,} vectors")
        if not found:
            raise InputError(PARAMETER, text[:80], FORM)
        return list(dict.fromkeys(found))
    except SyntaxError as error:
        raise InputError(PARAMETER, text[:80], f"{error.msg}; {FORM}") from None
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(PARAMETER, f"{text[:40]}…", "nested too deeply") from None


class _Parser:
    """Turns Python's syntax tree into nodes; numbers are worked out."""

    def __init__(self, text: str, files: bool):
        self._text, self._files = text, files

    def refused(self, tree: ast.AST, why: str = FORM) -> InputError:
        return InputError(PARAMETER, (ast.get_source_segment(self._text, tree) or self._text)[:80], why)

    def nodes(self, tree: ast.AST) -> list[Node]:
        """Parse a whole expression; a range of a matrix's rows is many."""
        match tree:
            case ast.Subscript(value, ast.Tuple([*_, ast.Slice()]) | ast.Slice() as index):
                *before, rows = index.elts if isinstance(index, ast.Tuple) else [index]
                start, stop = (self._plain(end) if end else None for end in (rows.lower, rows.upper))
                if not (is_whole(start) and is_whole(stop) and 0 <= start < stop <= start + MOST_ROWS) or rows.step:
                    raise self.refused(tree, f"expected a range of at most {MOST_ROWS:,} rows, first:end, like 10:20")
                indexes = ([*before, ast.Constant(row)] for row in range(start, stop))
                return [self._weight(tree, value, ast.Tuple(list(index))) for index in indexes]
        node = self.node(tree)
        if isinstance(node, float):
            raise self.refused(tree, f"a number is no vector; {FORM}")
        return [node]

    def node(self, tree: ast.AST) -> Node | float:
        match tree:
            case ast.Constant(str(text)):
                return self._term(tree, (check_text(PARAMETER, text),), [])
            case ast.Constant(value) if isinstance(value, int | float) and not isinstance(value, bool):
                try:
                    number = float(value)
                except OverflowError:  # a whole number beyond every float
                    number = math.inf
                if not math.isfinite(number):
                    raise self.refused(tree, "expected a finite number")
                return number
            case ast.UnaryOp(ast.USub(), operand):
                return self._times(tree, -1.0, self.node(operand))
            case ast.UnaryOp(ast.UAdd(), operand):
                return self.node(operand)
            case ast.BinOp(left, ast.Add() | ast.Sub() as operator, right):
                sign = 1.0 if isinstance(operator, ast.Add) else -1.0
                return self._plus(tree, self.node(left), sign, self.node(right))
            case ast.BinOp(left, ast.Mult(), right):
                first, second = self.node(left), self.node(right)
                if not isinstance(first, float) and not isinstance(second, float):
                    raise self.refused(tree, "a vector times a vector is none; a factor is a number")
                return self._times(tree, *((first, second) if isinstance(first, float) else (second, first)))
            case ast.BinOp(left, ast.Div(), right):
                first, second = self.node(left), self.node(right)
                if not isinstance(second, float) or not second:
                    raise self.refused(tree, "expected a number other than 0 to divide by")
                return self._times(tree, 1 / second, first)
            case ast.Call(ast.Constant(str(text)), [], keywords):
                return self._term(tree, (check_text(PARAMETER, text),), keywords)
            case ast.Call(ast.Name("mean"), [_, *_] as parts, []):
                return Mean(tuple(self._vector(part, in_mean=True) for part in parts))
            case ast.Call(ast.Name("unit"), [part], []):
                return Unit(self._vector(part))
            case ast.Call(ast.Name("prompts")):
                raise self.refused(tree, "the prompts of a file are many vectors: expected mean(prompts(…))")
            case ast.Subscript(value, index):
                return self._weight(tree, value, index)
        raise self.refused(tree)

    def _vector(self, tree: ast.AST, in_mean: bool = False) -> Node:
        match tree:
            case ast.Call(ast.Name("prompts"), [ast.Constant(str(file))], keywords) if in_mean:
                columns = [one for one in keywords if one.arg == "column"]
                column = self._plain(columns[0].value) if columns else "prompt"
                if not self._files:
                    raise self.refused(tree, 'no files are read here: expected prompts in quotes, as in mean("a", "b")')
                if not isinstance(column, str):
                    raise self.refused(columns[0].value, 'expected column="…"')
                found = tuple(read_prompts(file, parameter=PARAMETER, column=column))
                return self._term(tree, found, [one for one in keywords if one.arg != "column"], file, column)
        node = self.node(tree)
        if isinstance(node, float):
            raise self.refused(tree, "a number is no vector")
        return node

    def _plus(self, tree: ast.AST, left: Node | float, sign: float, right: Node | float) -> Node | float:
        if isinstance(left, float) and isinstance(right, float):
            return left + sign * right
        if isinstance(left, float) or isinstance(right, float):
            raise self.refused(tree, "a number and a vector have no sum")
        parts = left.parts if isinstance(left, Sum) else ((1.0, left),)
        return Sum((*parts, *((sign * factor, part) for factor, part in _parts(right))))

    def _times(self, tree: ast.AST, factor: float, node: Node | float) -> Node | float:
        if not math.isfinite(factor) or not factor:
            raise self.refused(tree, "expected a finite factor other than 0")
        if isinstance(node, float):
            return factor * node
        parts = tuple((factor * other, part) for other, part in _parts(node))
        if not all(product and math.isfinite(product) for product, _ in parts):
            raise self.refused(tree, "its factors multiply to 0 or beyond every number")
        return Sum(parts)

    def _term(
        self, tree: ast.AST, prompts: tuple[str, ...], keywords: list[ast.keyword], file: str = "", column: str = "prompt"
    ) -> Term:
        given = {}
        for one in keywords:
            value = one.value.id if one.arg == "component" and isinstance(one.value, ast.Name) else self._plain(one.value)
            if one.arg not in OPTIONS or one.arg in given:
                raise self.refused(tree, f"expected each of {', '.join(OPTIONS)} once, as in \"King\"(layer=5)")
            given[one.arg] = value
        if (component := given.get("component", "")) and component not in COMPONENTS:
            raise self.refused(tree, f"component is one of {', '.join(COMPONENTS)}")
        if (layer := given.get("layer")) is not None and not (is_whole(layer) and layer >= 0):
            raise self.refused(tree, "layer is a whole number, from 0")
        token = given.get("token", -1)
        if not is_whole(token) and not (isinstance(token, str) and token):
            raise self.refused(tree, "token is an index (negative from the end) or the text of a token")
        return Term(prompts, component, layer, token, file, column)

    def _weight(self, tree: ast.AST, value: ast.AST, index: ast.AST) -> Weight:
        matrix = ast.unparse(value)
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        found = tuple(self._plain(part) for part in parts)
        if matrix not in WEIGHTS or len(found) != WEIGHTS[matrix]:
            raise self.refused(tree, "expected mlp.down[layer, neuron], mlp.gate, mlp.up, embedding[token] or head[token]")
        may_be_text = WEIGHTS[matrix] == 1
        for part, one in zip(parts, found, strict=True):
            if not (is_whole(one) and one >= 0) and not (may_be_text and isinstance(one, str) and one):
                what = "the text of a token in quotes, or its id" if may_be_text else "whole numbers, from 0"
                raise self.refused(part, f"{matrix} takes {what}")
        return Weight(matrix, found)

    def _plain(self, tree: ast.AST) -> int | float | str | None:
        """Return a number or a text that stands there; None for anything else."""
        match tree:
            case ast.Constant(value) if isinstance(value, int | float | str) and not isinstance(value, bool):
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(value)) if isinstance(value, int | float):
                return -value
        return None


def _parts(node: Node) -> tuple[tuple[float, Node], ...]:
    return node.parts if isinstance(node, Sum) else ((1.0, node),)


def _leaves(node: Node) -> Iterator[Term | Weight]:
    match node:
        case Sum(parts):
            for _, part in parts:
                yield from _leaves(part)
        case Mean(parts):
            for part in parts:
                yield from _leaves(part)
        case Unit(part):
            yield from _leaves(part)
        case _:
            yield node


def _shortest(number: float) -> str:
    """Write a number so that it is read back as the same."""
    return short if float(short := f"{number:g}") == number else repr(number)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
