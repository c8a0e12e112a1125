"""Fit a Jacobian lens, text by text; what is done is kept, so that a fit can be stopped, killed and resumed."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from .. import InputError
from ..models.load import LanguageModel
from ..words.files import in_repository, write_atomically
from ..words.lenses import LensSettings
from ..words.prompts import read_prompts
from .jacobian import SKIPPED, Lens, jacobians_of

ENTITIES = "data/entities.csv"  # after whose names a model writes texts of its own
METHOD = 1  # raised when a number could change


def fit(
    lm: LanguageModel,
    settings: LensSettings,
    file: Path,
    advance: Callable[[int], object] = lambda done: None,
    stops: Callable[[], bool] = lambda: False,
) -> Lens | None:
    """Fit a lens and write it to a file; the sums stay beside it, so that more texts can be added later.

    Args:
        advance: called with how many texts are done, at the beginning and after each.
        stops: whether to stop, asked after each text.

    Returns:
        The lens; None if it was stopped.

    Raises:
        InputError: texts that are too short, or too few of them.
    """
    if settings.tokens <= SKIPPED:
        raise InputError("tokens", settings.tokens, f"expected more than {SKIPPED}, which are left out")
    cut = texts_of(lm, settings) if settings.texts else None
    head = {
        "method": METHOD, "model": lm.slug, "fingerprint": lm.fingerprint, "dtype": lm.dtype, "tokens": settings.tokens,
        "skipped": SKIPPED, "texts": _about(settings),
    }  # fmt: skip
    work = file.with_name(f"{file.stem}.sums.pt")
    done, sums = (0, {}) if settings.new else _kept(work, head)
    if done > settings.prompts:
        why = f"{done} texts are in {work.name} already; ask for as many or more, or begin anew with new=true"
        raise InputError("prompts", settings.prompts, why)
    file.parent.mkdir(parents=True, exist_ok=True)
    advance(done)
    while done < settings.prompts:
        ids = cut[done] if cut else own_text(lm, done, settings.tokens)
        found = jacobians_of(lm, ids)
        sums = {layer: sums[layer] + one if sums else one for layer, one in found.items()}
        done += 1
        with write_atomically(work, "wb") as opened:
            torch.save({"head": head, "done": done, "sums": sums}, opened)
        advance(done)
        if done < settings.prompts and stops():
            return None
    lens = Lens({layer: one / done for layer, one in sums.items()}, done, head)
    lens.save(file)
    return lens


def texts_of(lm: LanguageModel, settings: LensSettings) -> list[list[int]]:
    """Cut a text file into texts of `tokens` tokens each, with what the tokenizer puts before a text.

    Raises:
        InputError: no such file, no text, or too few tokens.
    """
    try:
        text = in_repository(settings.texts).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("texts", settings.texts, f"can't be read as a text file ({error})") from error
    before, ids = lm.token_ids(""), lm.tokenizer(text, add_special_tokens=False).input_ids
    length = settings.tokens - len(before)
    cut = [before + ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    if len(cut) < settings.prompts:
        why = f"it makes {len(cut)} texts of {settings.tokens} tokens; expected at least prompts={settings.prompts}"
        raise InputError("texts", settings.texts, why)
    return cut


@torch.inference_mode()
def own_text(lm: LanguageModel, number: int, tokens: int) -> list[int]:
    """Return the tokens of a text that the model itself writes after an entity's name, sampled at temperature 1.

    Args:
        number: of the text, which chooses the entity and seeds the sampling.
    """
    names = read_prompts(ENTITIES)
    name = names[number * 37 % len(names)]  # 37 and 250 have no common factor: each once, of mixed categories
    ids = torch.tensor([lm.token_ids(name)[: tokens // 2]], device=lm.device)
    with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
        torch.manual_seed(number)
        written = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
            repetition_penalty=1.0, min_new_tokens=tokens - ids.shape[1], max_new_tokens=tokens - ids.shape[1],
            pad_token_id=min(lm.stop_tokens, default=0),
        )  # fmt: skip
    return written[0].tolist()


def _about(settings: LensSettings) -> str:
    """Say what the texts are."""
    if not settings.texts:
        return f"written by the model itself after names of {ENTITIES}, at temperature 1, seeds from 0"
    digest = hashlib.sha256(in_repository(settings.texts).read_bytes()).hexdigest()[:16]
    return f"{in_repository(settings.texts).name}, SHA-256 {digest}"


def _kept(work: Path, head: dict) -> tuple[int, dict[int, torch.Tensor]]:
    """Return how many texts an earlier fit has done in the same way, and their sums."""
    if not work.is_file():
        return 0, {}
    held = torch.load(work, weights_only=True)
    if held["head"] != head:
        differs = sorted(name for name in head if held["head"].get(name) != head[name])
        raise InputError("lens", str(work), f"holds a fit with other {', '.join(differs)}; begin anew with new=true")
    return held["done"], held["sums"]
