"""./runme.sh bench on made-up folders: what is read, counted and kept, and each refusal in a sentence."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import COLUMNS, SUBJECTS, attribute_rows, write_items, write_tsv

from helpers import InputError, TargetPrompt
from helpers.bench import get, lens, patchscopes, workspace
from helpers.bench.settings import BenchSettings
from helpers.cli import main
from helpers.engine.activations import capture
from helpers.engine.plain import in_plain_text, write_after
from helpers.lenses.jacobian import Lens
from helpers.lenses.logit import first_token
from helpers.runs import ledger, plain
from helpers.runs.readings import Readings
from helpers.runs.session import Session

FAST = ["layers=0-1", "target_layers=0,same", "amplifiers=1,2", "max_new_tokens=3", "batch_size=64"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    monkeypatch.setattr("helpers.cli.bench.TEXTS", str(tmp_path / "texts"))
    return tmp_path


@pytest.fixture(scope="module")
def answers(tiny):
    """A word of what the small model writes of each subject, so that it "knows" the answers."""
    texts = write_after(tiny, in_plain_text(tiny, SUBJECTS, TargetPrompt("The river of x")), 3)
    return {subject: text.split()[-1] for subject, text in zip(SUBJECTS, texts, strict=True)}


def run(*arguments):
    return main(["bench", *map(str, arguments)])


# Without a vector


def test_what_is_written_after_a_text_is_what_generate_writes(tiny):
    texts = ["The river of Lirra", "A hill", "The river of Doom", " Oster and", "The river of Lirra"]
    wanted = []
    for text in texts:
        given = torch.tensor([tiny.token_ids(text)])
        with torch.inference_mode():
            out = tiny.model.generate(given, max_new_tokens=6, do_sample=False, pad_token_id=0)
        wanted.append(tiny.tokenizer.decode(out[0, given.shape[1] :], skip_special_tokens=True))
    assert write_after(tiny, texts, 6) == wanted
    with pytest.raises(InputError, match="tokens with what follows"):
        write_after(tiny, ["word " * 80], 6)


def test_texts_are_kept_and_not_written_again(tiny_folder, work, monkeypatch):
    settings = BenchSettings.of({"model": str(tiny_folder), "out_dir": str(work / "out")})
    first = plain.plain_texts(Readings(settings, bar=None), ["One", "Two three"], 4)
    assert list(first) == ["One", "Two three"]
    with monkeypatch.context() as patch:
        patch.setattr("helpers.models.load.load_model", lambda *_, **__: pytest.fail("weights are not needed"))
        assert plain.plain_texts(Readings(settings, bar=None), ["Two three", "One"], 4) == first
    session = Session(settings)
    assert plain.plain_texts(Readings(settings, session, bar=None), ["One"], 2)["One"] == write_after(session.lm, ["One"], 2)[0]


# Attribute tasks


def test_a_row_is_read_at_the_end_of_its_subject(tmp_path):
    folder = write_tsv(tmp_path / "factual", "river", [
        {"prompt_target": "The river of x", "position_target": "-1", "object": "Ob", "subject": "Oster",
         "prompt_source": " near Osters, Oster"},
        {"prompt_target": "The river of x", "position_target": "-1", "object": "Po", "subject": "Pelk", "prompt_source": ""},
        {"prompt_target": "The river of x", "position_target": "-1", "object": "Po", "subject": "Pelk", "prompt_source": "x"},
    ])  # fmt: skip
    [task] = patchscopes.tasks(folder.parent, None, None)
    assert [case.source for case in task.cases] == [" near Oster", "Pelk"] and task.name == "river"
    assert task.left_out == {"the prompt doesn't hold the subject": 1}
    assert task.cases[0].question == "The river of Oster" and task.cases[0].wanted == ("Ob",)
    assert task.asks.text == "The river of x" and task.asks.placeholder == -1


def test_the_numbers_of_attribute_tasks(tiny, tiny_folder, work, answers, capsys):
    folder = write_tsv(work / "tasks", "river", attribute_rows(answers | {"Mire": "no such river"}))
    out = work / "out"
    assert run(f"patchscopes={folder}", f"model={tiny_folder}", f"out_dir={out}", *FAST) == 0
    said = capsys.readouterr().out
    table, about = pd.read_csv(out / "bench_patchscopes.csv"), json.loads((out / "bench_patchscopes.json").read_text())
    assert about["asked"]["river"] == {"rows": 24, "asked": 24, "answered": 22, "left out": {}}
    assert (table["rows"] == 20).all() and (table["units"] == 11).all() and "river" in said
    at = table.set_index(["method", "layer"])
    assert at.loc[("text only", np.nan), "rate"].item() == 1, "these are the rows that the model answers"
    first, any_of = "plain, into layer 0", "plain, any of 2 target layers"
    assert at.loc[(first, "any"), "tries"].item() == 2 and at.loc[(any_of, "any"), "tries"].item() == 4
    layers = [at.loc[(first, layer), "rate"].item() for layer in ("0", "1")]
    assert at.loc[(first, "mean"), "rate"].item() == pytest.approx(np.mean(layers), abs=1e-4)
    for column in ("rate", "null"):
        assert at.loc[(first, "any"), column].item() >= max(at.loc[(first, layer), column].item() for layer in ("0", "1"))
        assert at.loc[(any_of, "any"), column].item() >= at.loc[(first, "any"), column].item()
    # by hand: each reading of layer 1 into layer 0, as the paper's way gives it
    from helpers import interpret

    [task] = patchscopes.tasks(folder, None, None)
    right = {}
    for case in task.cases:
        if case.wanted != ("no such river",):
            vector = capture(tiny, case.source)["hidden_state"][1, -1][None]
            [text] = interpret(tiny, vector, 0, task.asks, max_new_tokens=3)
            right.setdefault(case.unit, []).append(case.wanted[0] in text)
    read = [case.unit for case in task.cases if case.unit in right]
    turns = [unit for turn in range(2) for unit in dict.fromkeys(read)][:20]  # the first row of each, then the second
    rates = [np.mean(right[unit][: turns.count(unit)]) for unit in dict.fromkeys(turns)]
    assert at.loc[(first, "1"), "rate"].item() == pytest.approx(np.mean(rates), abs=1e-4)
    kept = (out / "bench_patchscopes.csv").read_text() + json.dumps(about)
    assert "Lirra" not in kept and "hill" not in kept, "the tasks' texts are not in the results"
    assert (out / "bench_patchscopes.png").is_file()
    assert run(f"patchscopes={folder}", f"model={tiny_folder}", f"out_dir={out}", "rows=all", *FAST) == 0
    both = pd.read_csv(out / "bench_patchscopes_all.csv")
    text_only = both[both["method"] == "text only"].iloc[0]
    assert text_only["units"] == 12 and text_only["rate"] == pytest.approx(11 / 12, abs=1e-4)


def test_a_second_command_reads_nothing(tiny_folder, work, answers, monkeypatch):
    folder = write_tsv(work / "tasks", "river", attribute_rows(answers))
    arguments = (f"patchscopes={folder}", f"model={tiny_folder}", f"out_dir={work / 'out'}", *FAST)
    assert run(*arguments) == 0
    first = (work / "out" / "bench_patchscopes.csv").read_bytes()
    monkeypatch.setattr("helpers.models.load.load_model", lambda *_, **__: pytest.fail("weights are not needed"))
    assert run(*arguments) == 0 and (work / "out" / "bench_patchscopes.csv").read_bytes() == first


# Lens sets


def test_words_of_several_tokens_and_of_the_prompt_are_left_out(tiny, tmp_path):
    items = [{"name": "one", "prompt": "The sea is ", "intermediates": ["water", "sea", "Zxqvwkjk"]}]
    [task] = lens.tasks(write_items(tmp_path, "mind", items), BenchSettings(), tiny)
    assert [case.wanted for case in task.cases] == [("water",)] and task.name == "mind"
    assert task.left_out == {"words of several tokens": 1, "words that the prompt says": 1}


@pytest.mark.parametrize("name", ["logit", "Jacobian"])
def test_the_lens_names_what_a_plain_lens_names(tiny, tiny_folder, work, monkeypatch, name):
    norm, head = tiny.model.model.norm, tiny.model.lm_head
    carried = torch.randn(tiny.width, tiny.width, generator=torch.Generator().manual_seed(0))
    (work / "of-this-model.pt").touch()
    fitted = Lens({layer: carried for layer in range(tiny.num_layers - 1)}, 7, {})
    monkeypatch.setattr("helpers.lenses.jacobian.load_lens", lambda *_: fitted)
    named = [f"jacobian={work / 'of-this-model.pt'}"] if name == "Jacobian" else []

    def plain_lens(prompt):
        with torch.inference_mode():
            vector = capture(tiny, prompt)["hidden_state"][1, -1]
            return head(norm(carried @ vector if named else vector))

    items = []
    for number in range(12):  # half of the words are among the lens' first ten, half of them are its last
        prompt = f"Number {number} is "
        order = plain_lens(prompt).argsort(descending=True).tolist()
        tokens = order[:10] if number % 2 else order[::-1]
        pieces = (tiny.tokenizer.decode([token]) for token in tokens)
        words = [piece.strip() for piece in pieces if piece.startswith(" ") and piece.strip().isalpha()]
        word = next((word for word in words if lens.is_single(tiny, word)), "water")
        items.append({"name": str(number), "prompt": prompt, "intermediates": [word]})
    folder, out = write_items(work / "sets", "mind", items), work / "out"
    assert run(f"lens={folder}", f"model={tiny_folder}", f"out_dir={out}", "num_rows=0", *FAST, *named) == 0
    table = pd.read_csv(out / "bench_lens.csv").set_index(["method", "layer"])
    about = json.loads((out / "bench_lens.json").read_text())
    assert about.get("texts of the Jacobian lens") == (7 if named else None)
    assert ("Jacobian lens, first 1", "1") in table.index or not named
    hits = []
    for item in items:
        logits = plain_lens(item["prompt"])
        hits.append(int((logits > logits[first_token(tiny, item["intermediates"][0])]).sum()) < 10)
    assert 0 < np.mean(hits) < 1
    assert table.loc[(f"{name} lens, first 10", "1"), "rate"].item() == pytest.approx(np.mean(hits), abs=1e-4)
    assert set(table["tries"]) == {1, 2, 4}


# Banks of concepts


def test_what_counts_in_a_bank(tiny, tmp_path):
    folder = write_items(tmp_path, "multihop-mt", [
        {"name": "a", "prompt": "The author is", "target": "Ian Fleming", "intermediates": ["James Bond"],
         "target_alts": ["Fleming"]},
        {"name": "b", "prompt": "It is", "target": "x", "intermediates": ["water"]},
        {"name": "c", "prompt": "Tell me", "target": "New York", "intermediates": ["New York"], "eval_render": "chat"},
        {"name": "d", "prompt": "Go to", "target": "Golden Gate", "intermediates": ["i"], "units": [
            {"headline": True, "match": ["Golden Gate", "Golden Gate Bridge"]}, {"match": ["San Francisco Bay"]}]},
    ])  # fmt: skip
    write_items(tmp_path, "typo-mt", [
        {"name": "t", "prompt": "He wore a kattana", "target": "katana", "intermediates": ["katana"]}])  # fmt: skip
    multihop, typo = workspace.tasks(folder, BenchSettings(), tiny)
    assert [case.wanted for case in multihop.cases] == [("James Bond", "Ian Fleming"), ("Golden Gate Bridge",)]
    assert multihop.left_out == {"for chat models": 1, "no answer of several tokens": 1}
    assert multihop.cases[0].question == "The author is" and multihop.cases[0].accepted == ("Ian Fleming", "Fleming")
    assert typo.cases[0].question == 'The correct spelling of "kattana" is "'


def test_items_that_the_model_cannot_answer_are_left_out_and_counted(tiny, tiny_folder, work, capsys):
    prompts = [f"{subject} is" for subject in SUBJECTS]
    written = write_after(tiny, prompts, 3)
    items = [
        {"name": prompt, "prompt": prompt, "target": f"{text.split()[-1]}", "intermediates": [f"great {prompt} dam"]}
        for prompt, text in zip(prompts, written, strict=True)
    ]
    known = [item for item in items if get("workspace").RULE(written[items.index(item)], item["target"])]
    assert len(known) >= 10
    items.append({"name": "u", "prompt": "Unknown is", "target": "qqq", "intermediates": ["never said so"]})
    folder, out = write_items(work / "banks", "basic-mt", items), work / "out"
    assert run(f"workspace={folder}", f"model={tiny_folder}", f"out_dir={out}", *FAST) == 0
    about = json.loads((out / "bench_workspace.json").read_text())
    assert about["asked"]["basic-mt"]["asked"] == 13 and about["asked"]["basic-mt"]["answered"] == len(known)
    assert "any source layer: basic-mt (all)." in capsys.readouterr().out


# Refusals


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda folder: None, "no such folder; Patchscopes' attribute tasks are in PAIR-code/interpretability (its folder "
         "patchscopes/code/preprocessed_data): git clone --depth 1 https://github.com/PAIR-code/interpretability"),
        (lambda folder: folder.mkdir(), "holds no *.tsv; Patchscopes' attribute tasks are in"),
        (lambda folder: write_tsv(folder, "a", [], COLUMNS[:3]), "no column object, subject, prompt_source; its columns are "
         "sample_id, prompt_target, position_target"),
        (lambda folder: write_tsv(folder, "a", []), "no rows"),
        (lambda folder: write_tsv(folder, "a", attribute_rows({"Lirra": " "})), "row 1 has no object"),
        (lambda folder: write_tsv(folder, "a", attribute_rows({"Lirra": "Ob"}) + attribute_rows({"Oster": "Po"}, "The x")),
         "2 target prompts; expected the same in all rows"),
        (lambda folder: write_tsv(folder, "a", [row | {"position_target": "2"} for row in attribute_rows({"Lirra": "Ob"})]),
         "position_target is 2; expected -1, the last token"),
        (lambda folder: write_tsv(folder, "few", attribute_rows({"Lirra": "Ob", "Doom": "Po"})),
         "few: left out; 0 usable rows of 0 subjects of 4 that were asked, whose answer the model gives itself: fewer "
         "than 10 of 4"),
    ],
)  # fmt: skip
def test_each_refusal_is_a_sentence(write, words, tiny_folder, work, capsys):
    write(work / "tasks")
    assert run(f"patchscopes={work / 'tasks'}", f"model={tiny_folder}", f"out_dir={work / 'out'}", *FAST) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("patchscopes=") and words in said


def test_refusals_of_items_and_settings(tiny_folder, work, capsys):
    (work / "lens-eval-a.json").write_text("[]")
    assert run(f"lens={work}", f"model={tiny_folder}") == 2
    assert 'not a JSON file with "items"' in capsys.readouterr().err
    for item, words in (({"name": "a", "prompt": "b"}, "item 1 lacks intermediates"),
                        ({"name": "a", "prompt": " ", "intermediates": ["x"]}, "item 1 (a) has a blank prompt"),
                        ({"name": "a", "prompt": "b", "intermediates": []}, "item 1 (a) has no answer")):  # fmt: skip
        write_items(work, "a", [item])
        assert run(f"lens={work}", f"model={tiny_folder}") == 2 and words in capsys.readouterr().err
    folder = write_items(work / "sets", "mind", [{"name": "a", "prompt": "It is", "intermediates": ["water"]}])
    assert run(f"lens={folder}", f"model={tiny_folder}", "jacobian=nowhere.pt") == 2
    assert capsys.readouterr().err.startswith("jacobian='nowhere.pt': no such file")
    assert run() == 2 and "expected a folder for at least one of patchscopes=, lens=, workspace=" in capsys.readouterr().err
    assert run("patchscope=x") == 2 and "did you mean 'patchscopes'?" in capsys.readouterr().err
    folder = write_tsv(work / "tasks", "river", attribute_rows({"Lirra": "Ob"}))
    for setting, words in (("amplifiers=2", "expected 1 among them"), ("rows=some", "expected one of usable, all"),
                           ("component=guidance", "expected one of"), ("target_layers=7", "layers 0–2")):  # fmt: skip
        arguments = [f"patchscopes={folder}", f"model={tiny_folder}", *(one for one in FAST if not one.startswith(setting[:4]))]
        assert run(*arguments, setting) == 2 and words in capsys.readouterr().err, setting


