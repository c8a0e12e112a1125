"""`./runme.sh lens fit`: a Jacobian lens of a model, resumable."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .. import InputError
from ..words.files import check_writable, shown
from ..words.lenses import LensSettings, lens_file
from ..words.settings import settle
from . import DONE


def lens(action: str, model: str, texts: Sequence[str]) -> int:
    """Fit a model's lens.

    Args:
        action: "fit".
        model: "" is the default one.
        texts: NAME=VALUE settings of `LensSettings`, or options of a model's source.

    Returns:
        The exit code: 0 done, 130 or 143 stopped; the same command continues.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """
    if action != "fit":
        raise InputError("lens", action, "expected fit")
    asked = settle(LensSettings, texts, {"model": model or None})
    from ..models.load import check_hardware, read_model

    check_hardware(asked.dtype, asked.device)
    options = asked.source_options.changed
    card = read_model(asked.model, **options)
    file = lens_file(asked.model, asked.lens, **options)
    check_writable(file.parent, "lens")
    print(f"{card.slug}: a Jacobian lens over {asked.prompts} texts of {asked.tokens} tokens, into {shown(file)}", flush=True)
    from ..lenses.fitting import fit
    from ..lenses.jacobian import checked
    from ..runs.loop import stops
    from ..runs.progress import Bar
    from ..runs.session import Session

    lm = Session(asked).lm
    with stops() as stopped_by, Bar(asked.prompts, "texts", 0) as bar:
        made = fit(lm, asked, file, lambda done: bar.update(done - bar.n), lambda: bool(stopped_by()))
        kind = stopped_by()
    if made is None:
        print("\nStopped; the same command continues.", file=sys.stderr)
        return kind.code
    told = sorted(checked(made, lm, shown(file)).agreement.values())
    print(
        f"{shown(file)}: {len(made.jacobians)} layers, {file.stat().st_size / 2**20:.1f} MiB; on another text its cosine with "
        f"the text's own Jacobian is {told[0]:.2f} to {told[-1]:.2f}, {told[len(told) // 2]:.2f} in the middle"
    )
    return DONE
