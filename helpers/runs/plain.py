"""What a model writes after texts when nothing is patched: each text once, kept in the run folder."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..words.files import check_writable, write_atomically
from ..words.plans import METHOD_VERSION
from ..words.rows import Identity
from . import ledger
from .loop import stops

if TYPE_CHECKING:
    from .readings import Readings

FILE = "plain.json"


def plain_texts(readings: "Readings", texts: Iterable[str], max_new_tokens: int) -> dict[str, str]:
    """Return what the model writes after each text, greedily; a text that was asked before isn't written anew.

    What is there after a stop stays; if all of it is there, the weights are not loaded.

    Args:
        readings: of the model; its run folder keeps the texts.

    Raises:
        InputError: a text that is too long for the model.
        Stopped: by Ctrl-C or SIGTERM, after the batch in hand.
    """
    texts, session = list(dict.fromkeys(texts)), readings.session
    folder = ledger.run_folder(readings.folder)
    check_writable(folder)
    kept = _read(folder / FILE)
    identity = session.expected_identity(kept["attention"]) if kept["attention"] else session.identity
    if missing := [text for text in texts if _key(identity, text, max_new_tokens) not in kept["texts"]]:
        from ..engine.plain import batches_after

        lm, identity = session.lm, session.identity
        missing = [text for text in texts if _key(identity, text, max_new_tokens) not in kept["texts"]]
        bar = readings.bar(len(missing), "texts without a vector") if readings.bar else nullcontext()
        with stops() as stopped_by, bar as drawn:
            for rows, written in batches_after(lm, missing, max_new_tokens):
                new = (_key(identity, missing[row], max_new_tokens) for row in rows)
                kept["texts"] |= dict(zip(new, written, strict=True))
                with write_atomically(folder / FILE) as file:
                    json.dump(kept | {"attention": identity.attention}, file, ensure_ascii=False)
                if drawn is not None:
                    drawn.update(len(rows))
                if kind := stopped_by():
                    raise kind(f"{len(kept['texts'])} texts are kept")
    return {text: kept["texts"][_key(identity, text, max_new_tokens)] for text in texts}


def _read(file: Path) -> dict:
    if not file.is_file():
        return {"attention": "", "texts": {}}
    return json.loads(file.read_text(encoding="utf-8"))


def _key(identity: Identity, text: str, max_new_tokens: int) -> str:
    """Return a hash of everything that can change what is written."""
    made_with = [METHOD_VERSION, identity.fingerprint, identity.dtype, identity.attention, text, max_new_tokens]
    return hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:20]
