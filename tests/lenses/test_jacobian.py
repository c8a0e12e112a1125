"""The Jacobian lens: equal to autograd's whole Jacobian, kept in the field's format, resumable."""

import pytest
import torch
from families import small_model
from reference import blocks_of

from helpers import InputError
from helpers.cli import main
from helpers.lenses import fitting, jacobian
from helpers.lenses.fitting import fit, own_text, texts_of
from helpers.lenses.jacobian import Lens, agreement, checked, jacobians_of, load_lens
from helpers.lenses.logit import vocabulary
from helpers.words.lenses import LensSettings, lens_file

SKIPPED, TOKENS = 2, 6


def plain_jacobian(model, ids, layer):
    """Return the whole (tokens, width, tokens, width) Jacobian of the last block's output by that of a block."""
    blocks, ids = blocks_of(model), torch.tensor([ids])

    def last_of(hidden):
        seen = {}

        def replace(module, args, output):
            return (hidden[None], *output[1:]) if isinstance(output, tuple) else hidden[None]

        def keep(module, args, output):
            seen["last"] = (output[0] if isinstance(output, tuple) else output)[0]

        handles = [blocks[layer].register_forward_hook(replace), blocks[-1].register_forward_hook(keep)]
        try:
            model.base_model(ids, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return seen["last"]

    seen = {}
    handle = blocks[layer].register_forward_hook(
        lambda module, args, output: seen.update(hidden=output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        model.base_model(ids, use_cache=False)
    handle.remove()
    return torch.autograd.functional.jacobian(last_of, seen["hidden"][0].clone())


def wanted(model, ids, layer):
    """Return the mean over positions of the sum over later positions, both from SKIPPED on."""
    whole = plain_jacobian(model, ids, layer)[SKIPPED:, :, SKIPPED:]
    later = [sum(whole[after, :, t] for after in range(t, len(ids) - SKIPPED)) for t in range(len(ids) - SKIPPED)]
    return torch.stack(later).mean(0)


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Gemma 2", "Falcon", "BLOOM", "Granite"])
def test_it_is_autograds(lm, family):
    small = small_model(family, lm.tokenizer)

    ids = torch.randint(100, 40000, (TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    found = jacobians_of(small, ids, skipped=SKIPPED)
    assert sorted(found) == list(range(small.num_layers - 1))
    for layer, one in found.items():
        torch.testing.assert_close(one, wanted(small.model, ids, layer), rtol=1e-3, atol=1e-4)


def test_in_parts_and_in_directions(tiny, monkeypatch):
    ids = tiny.token_ids("The town lies on both sides of a river, and most of its houses are old and made of stone")
    whole = jacobians_of(tiny, ids)
    directions = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for layer, rows in jacobians_of(tiny, ids, directions).items():
        torch.testing.assert_close(rows, directions @ whole[layer], rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(jacobian, "MOST_BYTES", 5 * 4 * len(ids) * 3 * (12 * 32 + 4 * 64))  # five copies, of 32 rows
    for layer, rows in jacobians_of(tiny, ids).items():
        torch.testing.assert_close(rows, whole[layer], rtol=1e-3, atol=1e-4)
    assert all(parameter.grad is None for parameter in tiny.model.parameters())


def test_carried_is_the_product_and_the_last_layer_stays(tiny):
    maps = {layer: torch.randn(32, 32, generator=torch.Generator().manual_seed(layer)) for layer in (0, 1)}
    lens, vectors = Lens(maps, 1, {}), torch.randn(5, 32)
    layers = [1, 0, 2, 0, 1]
    found = lens.carried(vectors, layers, last=2)
    for row, (vector, layer) in enumerate(zip(vectors, layers, strict=True)):
        torch.testing.assert_close(found[row], vector if layer == 2 else maps[layer] @ vector)
    assert (lens.carried(vectors, 2, last=2) == vectors).all()
    with pytest.raises(InputError, match="layers=4: this lens has 0–1"):
        lens.carried(vectors, 4, last=5)
    with pytest.raises(InputError, match=r"expected shape \(n, 32\)"):
        lens.carried(torch.zeros(1, 5), 0, last=2)


def settings(tiny_folder, **more):
    return LensSettings.of({"model": str(tiny_folder), "prompts": 3, "tokens": 24} | more)


def test_a_fit_is_a_mean_in_the_fields_format(tiny, tiny_folder, tmp_path):
    file, told = tmp_path / "lens.pt", []
    lens = fit(tiny, settings(tiny_folder), file, told.append)
    assert told == [0, 1, 2, 3]
    texts = [own_text(tiny, number, 24) for number in range(3)]
    assert all(len(ids) == 24 for ids in texts) and texts[0] != texts[1] and texts[0] == own_text(tiny, 0, 24)
    each = [jacobians_of(tiny, ids) for ids in texts]
    for layer in (0, 1):
        torch.testing.assert_close(lens.jacobians[layer], sum(one[layer] for one in each) / 3)
    held = torch.load(file, weights_only=True)
    assert set(held) == {"J", "n_prompts", "source_layers", "d_model", "provenance"}
    assert (held["n_prompts"], held["source_layers"], held["d_model"]) == (3, [0, 1], 32)
    assert held["J"][0].dtype == torch.float16 and held["J"][0].shape == (32, 32)
    assert held["provenance"]["fingerprint"] == tiny.fingerprint and "at temperature 1" in held["provenance"]["texts"]
    again = load_lens(file, tiny)
    for layer in (0, 1):
        torch.testing.assert_close(again.jacobians[layer], lens.jacobians[layer], rtol=2e-3, atol=1e-3)
    assert len(vocabulary(tiny, again.carried(torch.randn(2, 32), 1, 2), 4)) == 2


def test_a_stopped_fit_goes_on_and_more_texts_can_be_added(tiny, tiny_folder, tmp_path, monkeypatch):
    whole = fit(tiny, settings(tiny_folder), tmp_path / "whole.pt")
    file, asked = tmp_path / "lens.pt", []
    monkeypatch.setattr(fitting, "jacobians_of", lambda lm, ids: asked.append(ids) or jacobians_of(lm, ids))
    assert fit(tiny, settings(tiny_folder), file, stops=lambda: True) is None and not file.exists() and len(asked) == 1
    assert fit(tiny, settings(tiny_folder, prompts=2), file).n_prompts == 2 and len(asked) == 2
    more = fit(tiny, settings(tiny_folder), file)
    assert len(asked) == 3
    for layer in (0, 1):
        assert (more.jacobians[layer] == whole.jacobians[layer]).all()
    with pytest.raises(InputError, match="3 texts are in lens.sums.pt already"):
        fit(tiny, settings(tiny_folder, prompts=1), file)
    with pytest.raises(InputError, match="holds a fit with other tokens"):
        fit(tiny, settings(tiny_folder, tokens=25), file)
    assert fit(tiny, settings(tiny_folder, tokens=25, prompts=1, new=True), file).n_prompts == 1


def test_any_text_file(tiny, tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven eight nine ten. " * 12)
    asked = settings(tiny_folder, texts=str(text), prompts=3)
    ids = tiny.token_ids(text.read_text())
    assert texts_of(tiny, asked)[:3] == [ids[:24], ids[24:48], ids[48:72]]
    lens = fit(tiny, asked, tmp_path / "lens.pt")
    assert lens.provenance["texts"].startswith("text.txt, SHA-256 ")
    with pytest.raises(InputError, match="texts of 24 tokens; expected at least prompts=99"):
        texts_of(tiny, settings(tiny_folder, texts=str(text), prompts=99))
    with pytest.raises(InputError, match="can't be read as a text file"):
        texts_of(tiny, settings(tiny_folder, texts="nowhere.txt"))


@pytest.mark.slow
def test_a_lens_of_another_model_is_refused(lm):
    """The right one agrees with a text that it was not fitted on; one of other weights doesn't, though it is as large."""
    ids = lm.token_ids("Music is part of every culture: people sing at weddings, at work and when somebody has died.")[:24]
    directions = torch.linalg.qr(torch.randn(lm.width, 8, generator=torch.Generator().manual_seed(0)))[0].T
    rows = jacobians_of(lm, ids, directions)
    lens = Lens({layer: directions.T @ one for layer, one in rows.items()}, 1, {})  # as far as the check looks
    told = sorted(checked(lens, lm).agreement.values())
    assert told[len(told) // 2] > 0.2 and told[-1] > 0.8
    shuffled = Lens(dict(zip(lens.jacobians, reversed(lens.jacobians.values()), strict=True)), 1, {})
    order = torch.randperm(lm.width, generator=torch.Generator().manual_seed(0))
    other = Lens({layer: one[order][:, order] for layer, one in shuffled.jacobians.items()}, 1, {})
    assert max(map(abs, agreement(other, lm).values())) < 0.1
    with pytest.raises(InputError, match="it was fitted on another model"):
        checked(other, lm, "lens.pt")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"J": {0: torch.zeros(5, 5)}}, "of width 5; .* has 32"),
        ({"J": {7: torch.eye(32)}}, "of layers 7–7; .* has 0–2"),
        ({"J": {}}, "neither J nor parameters.jacobians"),
        ([1, 2], "neither J nor parameters.jacobians"),
        ({"J": {0: torch.zeros(32, 5)}}, "square maps of one width"),
        ({"J": {"x": torch.zeros(32, 32)}}, "a number of a layer"),
        ({"J": {0: torch.full((32, 32), torch.inf)}}, "not finite"),
    ],
)
def test_a_file_that_is_no_lens_of_this_model(tiny, tmp_path, held, words):
    torch.save(held, tmp_path / "lens.pt")
    with pytest.raises(InputError, match=words):
        load_lens(tmp_path / "lens.pt", tiny)


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle ran code",))


def test_no_code_of_a_file_runs(tmp_path, tiny):
    torch.save({"J": {0: _Bomb()}}, tmp_path / "lens.pt")
    for name in ("lens.pt", "text.pt"):
        (tmp_path / "text.pt").write_text("a text")
        with pytest.raises(InputError, match="not a file of tensors"):
            load_lens(tmp_path / name, tiny)
    with pytest.raises(InputError, match="no such file"):
        load_lens(tmp_path / "nowhere.pt", tiny)


def test_a_files_maps_may_stand_under_parameters(tmp_path):
    torch.save({"parameters": {"jacobians": {3: torch.eye(4).half()}}, "n_prompts": 9}, tmp_path / "lens.pt")
    lens = load_lens(tmp_path / "lens.pt")
    assert lens.n_prompts == 9 and (lens.jacobians[3] == torch.eye(4)).all() and lens.jacobians[3].dtype == torch.float32


def test_the_command(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SUPERSCOPES_CACHE", str(tmp_path))
    assert main(["lens", "fit", str(tiny_folder), "prompts=2", "tokens=24"]) in (0, 2)  # random weights may not agree
    assert lens_file(str(tiny_folder)) == tmp_path / "lenses" / "tiny-llama.pt" and lens_file(str(tiny_folder)).is_file()
    assert "a Jacobian lens over 2 texts of 24 tokens" in capsys.readouterr().out
    assert main(["lens", "fit", str(tiny_folder), "tokens=16"]) == 2 and "more than 16" in capsys.readouterr().err
    assert main(["lens", "fit", "prompts=0"]) == 2 and main(["lens", "melt"]) == 2
    assert "lens='melt': expected fit" in capsys.readouterr().err
