"""Open a file of vectors and read the rows that are asked for, from a map of the file into memory.

.safetensors, .npy   mapped: only the rows asked for are read
.gguf                mapped: a control vector as repeng and llama.cpp write it, `direction.N`, N the block from 0
an SAE's folder      as SAELens writes it: cfg.json and sae_weights.safetensors; the rows of its decoder, mapped
.pt                  with allow_pickle=true, weights alone; mapped
.npz, .csv, .parquet read whole: .npz array by array, of tables the columns of lists, into float32
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import InputError
from ..words.files import in_repository
from ..words.settings import unknown
from ..words.vectors import FORMATS, MOST_ROWS, NO_LAYER, SUFFIXES, FileSource, Vector, read_rows

PARAMETER = "vectors"
STEP = 4096  # rows that are checked at a time
SAE_CONFIG, SAE_WEIGHTS, SAE_DECODER = "cfg.json", "sae_weights.safetensors", "W_dec"
LISTED = 12  # names in a message
UNREADABLE = (  # what libraries raise of a file that isn't what its name says
    OSError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, OverflowError, MemoryError, SyntaxError, csv.Error,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip


class Part(NamedTuple):
    """A tensor of a file, not yet read.

    Attributes:
        shape: (n, width), or (width,) of a single vector.
        read: rows -> (rows, width), of any type of numbers.
    """

    shape: tuple[int, ...]
    read: Callable[[Sequence[int]], Tensor]


class VectorFile:
    """A file of vectors, open.

    Attributes:
        width: numbers of a vector.
        names: of each vector; its row where the file has no names.
        layers: of each vector, NO_LAYER for none, as the file says.

    Raises:
        InputError: no such file, no vectors in it, too many, or several tensors of which none was named.
    """

    def __init__(self, source: FileSource):
        self.source, path = source, in_repository(source.path)
        if not os.path.exists(path):
            raise InputError(PARAMETER, source.path, f"no such file; expected {FORMATS}, or an expression with prompts in quotes")
        try:
            self._open(path)
        except InputError:
            raise
        except UNREADABLE as error:
            raise self.refused(f"can't be read as {path.suffix or 'an SAE'} ({' '.join(str(error).split())[:120]})") from error
        if not self.names:
            raise self.refused("holds no vectors")
        if len(self.names) > MOST_ROWS:
            raise self.refused(f"{len(self.names):,} vectors, at most {MOST_ROWS:,} can be read: write those wanted to a file")

    def refused(self, why: str) -> InputError:
        return InputError(PARAMETER, self.source.path, why)

    def read(self, rows: Sequence[int]) -> Tensor:
        """Read some vectors: (rows, width) float32, in this order."""
        return self._read(rows).to(torch.float32)

    def vectors(self, rows: str = "", names: Sequence[str] = (), layer: int | str = "") -> list[Vector]:
        """Return the vectors that are asked for, all of them if neither rows nor names are, and check their numbers.

        Args:
            rows: like "0-99".
            names: of vectors.
            layer: that they are of, instead of what the file says; "none" for none.

        Raises:
            InputError: a row or a name that the file doesn't have, numbers that aren't finite, or zeros alone.
        """
        chosen = list(range(len(self.names)))
        if rows and names:
            raise InputError("rows", rows, "names were given, too: either says which vectors")
        if rows:
            chosen = self._rows(rows)
        if names:
            row_of = {name: row for row, name in enumerate(self.names)}
            if missing := [name for name in names if name not in row_of]:
                raise InputError("names", missing[0], unknown(missing[0], self.names[:LISTED]))
            chosen = list(dict.fromkeys(row_of[name] for name in names))
        if len(set(self.names)) < len(self.names):
            raise self.refused("two vectors have the same name")
        stated = {"": None, "none": NO_LAYER}.get(layer, layer)
        stem, keys = self.source.stem, self._digests(chosen)
        return [
            Vector(
                f"{stem}:{self.names[row]}", self.names[row], row,
                self.layers[row] if stated is None else stated, key, self.source,
            )
            for row, key in zip(chosen, keys, strict=True)
        ]  # fmt: skip

    def _rows(self, rows: str) -> list[int]:
        found = []
        for first, last in read_rows("rows", rows):
            if last >= len(self.names):
                asked = f"{first}-{last}" if first < last else f"{last}"
                raise InputError("rows", asked, f"{self.source.path} has rows 0–{len(self.names) - 1}")
            found += range(first, last + 1)
        return list(dict.fromkeys(found))

    def _digests(self, rows: Sequence[int]) -> Iterator[str]:
        """Yield a digest of each vector's numbers, a few thousand vectors in memory at a time."""
        for start in range(0, len(rows), STEP):
            some = rows[start : start + STEP]
            numbers = self.read(some)
            for problem, wrong in (("numbers that are not finite", ~numbers.isfinite().all(1)), ("zeros alone", ~numbers.any(1))):
                if wrong.any():
                    name = self.names[some[int(wrong.nonzero()[0, 0])]]
                    raise self.refused(f"vector {name!r} has {problem}")
            yield from map(digest_of, numbers)

    # The formats

    def _open(self, path: Path) -> None:
        if path.is_dir():
            self._open_sae(path)
            return
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise self.refused(f"expected {FORMATS}")
        if suffix == ".gguf":
            self._open_control_vector(path)
        elif suffix in (".csv", ".parquet"):
            self._open_table(path)
        else:
            opened = {".safetensors": _safetensors, ".npy": _npy, ".npz": _npz}.get(suffix, self._pickled)
            self._take(opened(path))

    def _take(self, parts: dict[str, Part], layer: int = NO_LAYER) -> None:
        """Take the vectors of a file's tensors: the rows of one of them, or one from each."""
        wanted = self.source.tensor
        if wanted and wanted not in parts:
            raise InputError("tensor", wanted, f"{self.source.path}: {unknown(wanted, list(parts)[:LISTED])}")
        if wanted:
            parts = {wanted: parts[wanted]}
        elif SAE_DECODER in parts:
            parts = {SAE_DECODER: parts[SAE_DECODER]}
        single = {name: part for name, part in parts.items() if len(part.shape) == 1}
        tables = {name: part for name, part in parts.items() if len(part.shape) == 2}
        if len(single) > 1 and not tables or len(parts) == len(single) == 1 and wanted:
            if len(widths := {part.shape[0] for part in single.values()}) > 1:
                raise self.refused(f"vectors of different lengths: {', '.join(map(str, sorted(widths)))}")
            self.width, self.names = widths.pop(), list(single)
            ordered = list(single.values())
            self._read = lambda rows: torch.cat([ordered[row].read([0]) for row in rows])
        elif len(parts) == 1:
            [(name, part)] = parts.items()
            if len(part.shape) not in (1, 2):
                raise self.refused(f"{name} has the shape {part.shape}; expected (vectors, width)")
            self.width = part.shape[-1]
            self.names = [str(row) for row in range(part.shape[0] if len(part.shape) == 2 else 1)]
            self._read = part.read
        else:
            known = ", ".join(f"{name} {part.shape}" for name, part in list(parts.items())[:LISTED])
            raise self.refused(f"say which with tensor=…: {known}")
        self.layers = [layer] * len(self.names)

    def _open_sae(self, folder: Path) -> None:
        if missing := [name for name in (SAE_CONFIG, SAE_WEIGHTS) if not (folder / name).is_file()]:
            raise self.refused(f"has no {missing[0]}; an SAE's folder has {SAE_CONFIG} and {SAE_WEIGHTS}")
        about = json.loads((folder / SAE_CONFIG).read_text(encoding="utf-8"))
        about = about | (about.get("metadata") or {})
        parts = _safetensors(folder / SAE_WEIGHTS)
        if SAE_DECODER not in parts and not self.source.tensor:
            raise self.refused(f"{SAE_WEIGHTS} has no {SAE_DECODER}; it has {', '.join(list(parts)[:LISTED])}")
        self._take(parts, _layer_of_hook(about.get("hook_name_out") or about.get("hook_name") or about.get("hook_point") or ""))

    def _open_control_vector(self, path: Path) -> None:
        from gguf import GGUFReader

        found = {
            int(match[1]): tensor
            for tensor in GGUFReader(path).tensors
            if (match := re.fullmatch(r"direction\.(\d+)", tensor.name))
        }
        if not found:
            raise self.refused("a GGUF file without tensors direction.N: no control vector")
        self.layers = sorted(found)
        numbers = [found[layer].data for layer in self.layers]
        if {one.ndim for one in numbers} != {1} or len({len(one) for one in numbers}) > 1 or numbers[0].dtype.kind != "f":
            raise self.refused("its directions are not vectors of floats of one length")
        self.width, self.names = len(numbers[0]), [f"direction.{layer}" for layer in self.layers]
        self._read = lambda rows: torch.stack([_tensor(numbers[row]) for row in rows])

    def _open_table(self, path: Path) -> None:
        columns = _parquet(self, path) if path.suffix.lower() == ".parquet" else _csv(path)
        lists = [name for name, cells in columns.items() if cells and _numbers(cells[0]) is not None]
        wanted = self.source.tensor
        if (wanted and wanted not in lists) or (not wanted and len(lists) != 1):
            why = f"say which with tensor=…: {', '.join(lists)}" if lists else "no column holds lists of numbers"
            raise self.refused(why if not wanted or not lists else f"{wanted!r} holds no lists of numbers; {', '.join(lists)} do")
        column = wanted or lists[0]
        rows = [_numbers(cell) for cell in columns[column]]
        if bad := [row for row, one in enumerate(rows) if one is None or len(one) != len(rows[0])]:
            raise self.refused(f"row {bad[0]} of {column!r} is no list of {len(rows[0])} numbers")
        table = np.stack(rows)
        named = columns.get("name")
        self.width, self.names = table.shape[1], list(map(str, named)) if named else [str(row) for row in range(len(table))]
        self.layers = [NO_LAYER] * len(table)
        self._read = lambda chosen: torch.from_numpy(table[list(chosen)])

    def _pickled(self, path: Path) -> dict[str, Part]:
        if not self.source.allow_pickle:
            raise InputError("allow_pickle", False, f"{path.name} is a pickle: allow_pickle=true reads its weights, or save .safetensors")
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:
            raise self.refused(f"torch reads no weights from it ({' '.join(str(error).split())[:120]})") from error
        found = {"": found} if isinstance(found, Tensor) else found
        if not isinstance(found, dict):
            raise self.refused(f"holds a {type(found).__name__}, not tensors")
        return {
            str(name): Part(tuple(one.shape), lambda rows, one=one: torch.atleast_2d(one.detach())[list(rows)])
            for name, one in found.items() if isinstance(one, Tensor)
        }  # fmt: skip


def digest_of(vector: Tensor) -> str:
    """Return a digest of a vector's numbers in float32, 16 hexadecimal digits, the same on every machine."""
    return hashlib.sha256(vector.numpy().astype("<f4").tobytes()).hexdigest()[:16]


def _layer_of_hook(name: str) -> int:
    """Return the block whose output an SAE's vectors are added to, of names like blocks.7.hook_resid_post."""
    if not (found := re.match(r"blocks\.(\d+)\.", name)):
        return NO_LAYER
    return int(found[1]) - ("hook_resid_pre" in name)  # what enters block 7 leaves block 6; block 0, no layer


def _safetensors(path: Path) -> dict[str, Part]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise ValueError(str(error)) from error

    def reads(name: str) -> Callable[[Sequence[int]], Tensor]:
        def read(rows: Sequence[int]) -> Tensor:
            if len(shapes[name]) == 1:
                return file.get_tensor(name)[None]
            part = file.get_slice(name)
            return torch.cat([part[first:last] for first, last in _runs(rows)])

        return read

    return {name: Part(shape, reads(name)) for name, shape in shapes.items()}


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, end) that rows are made of, in order."""
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] != rows[place - 1] + 1:
            yield rows[start], rows[place - 1] + 1
            start = place


def _npy(path: Path) -> dict[str, Part]:
    return {"": _of_array(np.load(path, mmap_mode="r", allow_pickle=False))}


def _npz(path: Path) -> dict[str, Part]:
    arrays = np.load(path, allow_pickle=False)
    return {name: _of_array(arrays[name]) for name in arrays.files}


def _of_array(array: np.ndarray) -> Part:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"numbers of type {array.dtype}")
    return Part(array.shape, lambda rows: _tensor(np.atleast_2d(array)[list(rows)]))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _csv(path: Path) -> dict[str, list[object]]:
    csv.field_size_limit(1 << 27)  # a vector's cell is longer than what csv expects
    with open(path, encoding="utf-8-sig", newline="") as lines:
        names, *rows = list(csv.reader(lines)) or [[]]
    if any(len(row) != len(names) for row in rows):
        raise ValueError("rows of different lengths")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _parquet(file: VectorFile, path: Path) -> dict[str, list[object]]:
    """Read the columns of lists of numbers, each row as an array, and the column `name`; no other is read."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise file.refused("needs pyarrow: pip install pyarrow, or save .safetensors") from None
    try:
        schema, types = pyarrow.parquet.read_schema(path), pyarrow.types
        lists = [
            field.name for field in schema
            if (types.is_list(field.type) or types.is_large_list(field.type) or types.is_fixed_size_list(field.type))
            and (types.is_floating(field.type.value_type) or types.is_integer(field.type.value_type))
        ]  # fmt: skip
        named = [name for name in ("name",) if name in schema.names]
        table = pyarrow.parquet.read_table(path, columns=[*lists, *named])
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error
    return {name: table[name].to_pylist() if name in named else _arrays(table[name]) for name in (*lists, *named)}


def _arrays(column) -> list[np.ndarray | None]:
    """Return the lists of an Arrow column as arrays, None of a row that has none; the numbers are not copied row by row."""
    from pyarrow import compute

    found = []
    for chunk in column.chunks:
        numbers = chunk.flatten().to_numpy(zero_copy_only=False)  # of rows that aren't null, one after the other
        lengths = compute.fill_null(compute.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
        ends = np.cumsum(lengths, dtype=np.int64)
        missing = chunk.is_null().to_numpy(zero_copy_only=False)
        found += [
            None if absent else numbers[end - length : end]
            for absent, end, length in zip(missing, ends, lengths, strict=True)
        ]
    return found


def _numbers(cell: object) -> np.ndarray | None:
    """Return a cell's list of numbers, written as JSON in a CSV, an array in Parquet; None if it is none."""
    if isinstance(cell, np.ndarray):
        return cell.astype(np.float32) if cell.size else None
    try:
        found = json.loads(cell) if isinstance(cell, str) else cell
        if not isinstance(found, list) or not found or not all(isinstance(one, int | float) for one in found):
            return None
        return np.array([math.nan if isinstance(one, bool) else one for one in found], dtype=np.float32)
    except (ValueError, OverflowError, RecursionError):
        return None
