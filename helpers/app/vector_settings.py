"""Which given vectors a visitor asks for: an expression, or a file that was uploaded; checked before anything is read."""

import zipfile
from pathlib import Path
from typing import Annotated, ClassVar

from .. import InputError
from ..models.vector_files import VectorFile
from ..runs.vectors import Request
from ..words.grammar import check_whole, parse_layers
from ..words.settings import Form, String, setting
from ..words.vectors import FileSource, VectorPlan, VectorSettings
from .settings import LONGEST, MOST_ROWS, MOST_TEXT, MOST_TOKENS, Beyond, check_length

SUFFIXES = (".safetensors", ".npy", ".npz", ".csv")  # never a pickle
MOST_BYTES, MOST_UNPACKED = 8_000_000, 64_000_000  # of an upload; of what an .npz holds
MOST_VECTORS, MOST_RANDOM = 1_000, 100
ASKED = (  # what a visitor may set
    "vectors", "upload", "rows", "tensor", "layer", "component", "layers", "way", "amplifiers", "target_layer", "target_prompt",
    "random", "max_new_tokens", "model",
)  # fmt: skip


def _check_random(name: str, value: object) -> int:
    return check_whole(name, value, 0, MOST_RANDOM)


class AskedVectors(VectorSettings):
    """The settings of `./runme.sh read` that a visitor has. No file of the server is read but the uploaded one."""

    may_read_files: ClassVar[bool] = False
    upload: String = setting("", "where the file is that was uploaded", changes_results=False)
    random: Annotated[int, Form(_check_random)] = VectorSettings.model_fields["random"]

    @classmethod
    def of_visitor(cls, given: dict[str, object]) -> "AskedVectors":
        """Read what a visitor has given; a file goes before an expression.

        Raises:
            InputError: names the setting, what was given and what is allowed.
        """
        given = {name: given[name] for name in ASKED if name in given}
        for name in ("target_prompt", "amplifiers", "layers"):
            if isinstance(given.get(name), str):
                check_length(name, given[name])
        for name in ("rows", "tensor"):
            if isinstance(given.get(name), str) and len(given[name]) > LONGEST["tokens"]:
                raise InputError(name, f"{given[name][:20]}…", f"{len(given[name]):,} characters; at most {LONGEST['tokens']:,}")
        if given.get("upload"):
            given["vectors"] = Path(given["upload"]).name
        return cls.of(given)

    @property
    def is_file(self) -> bool:
        return bool(self.upload)

    @property
    def file(self) -> FileSource:
        return FileSource(self.upload, self.tensor)

    def request(self, card) -> Request:
        """Look the vectors up, and make the plans that read them.

        Raises:
            Beyond: too many readings.
            InputError: names the setting, what was given and what is allowed.
        """
        try:
            if self.is_file:
                self._check_upload(card)
            request = Request(self, MOST_VECTORS)
            readings = sum(_count(plan, card) for plan in request.plans)
            longest = max(len(name) for plan in request.plans for name in plan.prompts)
            most = min(MOST_ROWS, MOST_TEXT // longest, MOST_TOKENS // self.max_new_tokens)
            if readings > most:
                raise Beyond.saying(f"{readings:,} readings; at most {most:,} here. ./runme.sh read has no limit.")
            return request
        except InputError as error:
            raise type(error).saying(self.without_path(str(error))) from error

    def without_path(self, text: str) -> str:
        """Return a message without where the server keeps an upload."""
        return text.replace(self.upload, Path(self.upload).name) if self.upload else text

    def _check_upload(self, card) -> None:
        path = Path(self.upload)
        if path.suffix.lower() not in SUFFIXES:
            raise InputError("file", path.name, f"expected {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise InputError("file", path.name, "is no longer here; choose it again")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise InputError("file", path.name, f"{size:,} bytes; at most {MOST_BYTES:,} here. ./runme.sh read has no limit")
        if path.suffix.lower() == ".npz":
            try:
                with zipfile.ZipFile(path) as packed:
                    size = sum(part.file_size for part in packed.infolist())
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                raise InputError("file", path.name, "can't be read as .npz") from error
            if size > MOST_UNPACKED:
                raise InputError("file", path.name, f"unpacks to {size:,} bytes; at most {MOST_UNPACKED:,}")
        if (width := VectorFile(self.file).width) != card.width:
            raise InputError("file", path.name, f"vectors of {width:,} numbers; {card.name} has a width of {card.width:,}")


def _count(plan: VectorPlan, card) -> int:
    """Count a plan's readings, before any is made."""
    layers = len(parse_layers(plan.layers, card.num_layers)) if any(one.layer is None for one in plan.vectors) else 1
    each = 1 if plan.components == ("none",) else len(plan.amplifiers) * len(plan.target_layers)
    return each * sum(layers if vector.layer is None else 1 for vector in plan.vectors)
