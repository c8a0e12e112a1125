"""Check that a GGUF file's header fits its file, before libraries follow its counts, lengths and offsets."""

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type -> bytes; the rest follow
STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
SIZES = ("embedding_length", "feed_forward_length", "head_count", "head_count_kv", "key_length", "vocab_size")


class BadHeader(ValueError):
    """A header that no GGUF file of this size has; the message says where and why."""


def check_header(file: Path) -> None:
    """Walk through the header of a GGUF file, in a time and memory that its size bounds.

    Raises:
        BadHeader: not a GGUF file, or a count, length, type or offset that doesn't fit.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    types = {int(kind): GGML_QUANT_SIZES[kind] for kind in GGMLQuantizationType if kind in GGML_QUANT_SIZES}
    with open(file, "rb") as opened:
        if file.stat().st_size < 24:
            raise BadHeader("too short for a GGUF file")
        with closing(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)) as data:
            header = _Walk(data)
            alignment = header.fields()
            ends = list(header.tensors(types))
            header.check_sizes()
            start = -(-header.at // alignment) * alignment
            for name, end in ends:
                if start + end > len(data):
                    raise BadHeader(f"tensor {name!r} ends beyond the file: it was cut off, or its header is wrong")


class _Walk:
    """A place in the header that moves forward, never beyond the file."""

    def __init__(self, data: mmap.mmap):
        self._data, self.at, self._order = data, 0, "<"
        if self._bytes(4, "magic") != b"GGUF":
            raise BadHeader("doesn't begin as a GGUF file")
        version = self._number("I", "version")
        if version & 65535 == 0:  # written on a machine of the other byte order
            self._order, version = ">", version >> 24
        if version not in VERSIONS:
            raise BadHeader(f"version {version}; expected {' or '.join(map(str, VERSIONS))}")
        self._num_tensors = self._count("number of tensors", each=24)
        self._num_fields = self._count("number of fields", each=13)
        self._sizes, self._longest = {}, 1  # what the model says of itself; the longest side of a tensor

    def fields(self) -> int:
        """Pass over the fields; return the alignment of the tensors."""
        alignment = 32
        for _ in range(self._num_fields):
            name, kind = self._string("a field's name"), self._number("I", "a field's type")
            if name == b"general.alignment" and kind == 4:
                alignment = self._number("I", "general.alignment")
                if alignment == 0 or alignment & (alignment - 1):
                    raise BadHeader(f"general.alignment is {alignment}; expected a power of two")
            elif kind in (4, 5, 10, 11):  # whole numbers
                self._sizes[_shown(name)] = self._number({4: "I", 5: "i", 10: "Q", 11: "q"}[kind], _shown(name))
            else:
                self._pass(kind, _shown(name))
        return alignment

    def check_sizes(self) -> None:
        """Check that the model says of itself no more than its tensors have."""
        for name, size in self._sizes.items():
            last = name.rpartition(".")[2]
            most = {"block_count": self._num_tensors}.get(last, self._longest)
            if last in ("block_count", *SIZES) and not 0 <= size <= most:
                raise BadHeader(f"{name} is {size:,}, and its tensors allow {most:,} at most")

    def tensors(self, types: dict[int, tuple[int, int]]) -> Iterator[tuple[str, int]]:
        """Pass over the list of tensors; yield each one's name, and where its data end, from where all begin."""
        for _ in range(self._num_tensors):
            name = _shown(self._string("a tensor's name"))
            dimensions = self._number("I", name)
            if dimensions > MOST_DIMENSIONS:
                raise BadHeader(f"tensor {name!r} has {dimensions} dimensions")
            shape = [self._number("Q", name) for _ in range(dimensions)]
            self._longest = max([self._longest, *shape])
            kind, offset = self._number("I", name), self._number("Q", name)
            if kind not in types:
                raise BadHeader(f"tensor {name!r} is of an unknown type, {kind}")
            block, size = types[kind]
            yield name, offset + math.prod(shape) // block * size

    def _pass(self, kind: int, name: str) -> None:
        """Pass over a value."""
        if kind == STRING:
            self._string(name)
        elif kind == ARRAY:
            kind = self._number("I", name)
            length = self._count(f"length of {name!r}", SCALARS.get(kind, 8))
            if kind in SCALARS:
                self._bytes(length * SCALARS[kind], name)
            elif kind == STRING:
                for _ in range(length):
                    self._string(name)
            else:
                raise BadHeader(f"field {name!r} is an array of an unknown type, {kind}")
        elif kind in SCALARS:
            self._bytes(SCALARS[kind], name)
        else:
            raise BadHeader(f"field {name!r} is of an unknown type, {kind}")

    def _count(self, name: str, each: int) -> int:
        """Read how many things follow, each of which takes some bytes at least."""
        count = self._number("Q", name)
        if count * each > len(self._data) - self.at:
            raise BadHeader(f"the {name} is {count:,}, more than the file has room for")
        return count

    def _string(self, name: str) -> bytes:
        return self._bytes(self._count(f"length of {name}", each=1), name)

    def _number(self, form: str, name: str) -> int:
        return struct.unpack(self._order + form, self._bytes(struct.calcsize(form), name))[0]

    def _bytes(self, length: int, name: str) -> bytes:
        start, self.at = self.at, self.at + length
        if self.at > len(self._data):
            raise BadHeader(f"it ends within {name}")
        return self._data[start : self.at]


def _shown(name: bytes) -> str:
    return name[:60].decode("utf-8", "replace")
