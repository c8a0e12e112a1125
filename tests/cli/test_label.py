"""./runme.sh label: its table, its CSV, and that nothing wrong gets as far as the weights."""

import pandas as pd
import pytest

from helpers import label
from helpers.cli import main
from helpers.cli.label import likeliest, lines_of

PROMPT, LABELS = "Diana, Princess of Wales", "person, country, a rock band"
TOO_FEW = "prompt\n" + "\n".join(f"Prompt {i}" for i in range(9))


@pytest.fixture(scope="module")
def rows(tiny):
    return label(tiny, PROMPT, LABELS, layers="0-1", amplifiers=(1, 1.5))


def test_a_table_has_a_row_per_vector_and_label(rows, tiny):
    assert len(rows) == 2 * 2 * 3 and list(rows["label"][:3]) == ["person", "country", "a rock band"]
    assert list(rows["continuation"][:3]) == [": person", ": country", ": a rock band"]
    assert set(rows["token"]) == {" Wales"} and set(rows["target layer"]) == {0}
    sums = rows.groupby(["layer", "amplification value"])[["probability", "chance"]].sum()
    assert ((sums - 1).abs() < 1e-5).all(axis=None)
    assert rows["others as probable"].between(0, 1).all() and rows.attrs["references"] == 47
    other = label(tiny, PROMPT, LABELS, layers="0-1", amplifiers=(1, 1.5), batch_size=5)
    pd.testing.assert_frame_equal(other, rows, atol=1e-4, rtol=0)


def test_the_prompt_is_not_among_its_references(tiny, tmp_path):
    """What stands in a file of prompts beside eleven others doesn't change their chance; twelve do."""
    others = "\n".join(f"Some other thing {i}" for i in range(11))
    chances = []
    for number, more in enumerate(("", "\nTitanic", "\nKill Bill")):
        file = tmp_path / f"{number}.csv"
        file.write_text(f"prompt\n{others}{more}\n")
        found = label(tiny, "Titanic", "a, b", layers="1", amplifiers=3, prompts=str(file))
        chances.append((found["chance"].tolist(), found.attrs["references"]))
    assert chances[0] == chances[1] and chances[0][1] == 11
    assert chances[2][0] != chances[0][0] and chances[2][1] == 12


def test_the_command_prints_the_table_and_writes_the_csv(rows, tiny_folder, tmp_path, capsys):
    file = tmp_path / "labels.csv"
    options = ["--layers", "0-1", "--amplifiers", "1,1.5", "--token", "-1", "--model", str(tiny_folder)]
    assert main(["label", PROMPT, LABELS, *options, "--out", str(file)]) == 0
    said = capsys.readouterr().out
    assert "tiny-llama: 4 vectors × 3 labels, each beside 47 other prompts" in said
    assert "“Diana, Princess of Wales”, token 'Wales': hidden states into layer 0" in said and "': person'" in said
    assert "\n" + "\n".join(lines_of(rows, 120)) in said and str(file) in said
    written = pd.read_csv(file)
    pd.testing.assert_frame_equal(written, rows, check_dtype=False, atol=1e-5)
    assert '"references": 47' in file.with_suffix(".json").read_text()


def test_settings_can_be_options_or_not(tiny_folder, capsys):
    options = [f"model={tiny_folder}", "component=mlp_output", "layers=2", "amplifiers=3", "token=Princess"]
    assert main(["label", PROMPT, LABELS, *options]) == 0
    assert "token 'Princess': MLP outputs into the same layer" in capsys.readouterr().out


def test_a_vector_that_fails_and_a_stop_have_their_exit_codes(rows, tiny_folder, capsys, monkeypatch):
    options = [f"model={tiny_folder}", "layers=1"]
    bad = rows.copy()
    bad.loc[0, "probability"] = float("nan")
    monkeypatch.setattr("helpers.runs.labels.label_as_asked", lambda *_: bad)
    assert main(["label", PROMPT, LABELS, *options]) == 3 and "– (" in capsys.readouterr().out

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("helpers.runs.labels.label_as_asked", stop)
    assert main(["label", PROMPT, LABELS, *options]) == 130 and "Stopped; nothing is kept." in capsys.readouterr().err


def table(*probabilities: float, chance: float = 0.4) -> pd.DataFrame:
    labels = ["person", "country", "band"][: len(probabilities)]
    vector = {"source prompt": "S", "token": " x", "component": "hidden_state", "layer": 3, "target layer": 0}
    vector |= {"amplification value": 1.0, "chance": chance}
    return pd.DataFrame([
        vector | {"label": name, "continuation": f": {name}", "probability": value}
        for name, value in zip(labels, probabilities, strict=True)
    ])  # fmt: skip


def test_the_likeliest_is_marked_where_it_is_above_chance():
    assert likeliest(table(0.1, 0.9)) == "country"
    assert likeliest(table(0.39, 0.38, 0.23)) == "" == likeliest(table(float("nan"), 0.5))


def test_a_table_fits_its_terminal():
    rows = table(0.2, 0.7, float("nan"))
    rows.attrs["references"] = 47
    assert list(lines_of(rows, 60))[-2:] == [
        "layer     α  person       country      band",
        "    3     1  .20 (.40)    .70 (.40)    – (.40)",
    ]
    rows["probability"] = [0.2, 0.7, 0.1]
    assert list(lines_of(rows, 60))[-1] == "    3     1  .20 (.40)    .70 (.40) ●  .10 (.40)"
    assert list(lines_of(rows, 48))[-3:] == [
        "layer     α  labels",
        "    3     1  country .70 (.40) ●,",
        "             person .20 (.40), band .10 (.40)",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'LABELS'"),
        ([PROMPT, "person"], "labels=['person']: expected 2 to 50 labels"),
        ([PROMPT, "person, Person"], "labels='Person': given twice"),
        (["", LABELS], "prompt='': expected a text"),
        ([PROMPT, LABELS, "--component", "guidance"], "component='guidance': expected one of mlp_output"),
        ([PROMPT, LABELS, "--layers", "x"], "layers='x': expected"),
        ([PROMPT, LABELS, "--amplifiers", "nan"], "amplifiers='nan': expected finite numbers"),
        ([PROMPT, LABELS, "layers=1", "--layers", "2"], "layers='2': given twice"),
        ([PROMPT, LABELS, "modle=x"], "setting='modle': unknown; did you mean 'model'?"),
        ([PROMPT, LABELS, "--out", "labels.txt"], "--out='labels.txt': expected the name of a CSV file"),
        ([PROMPT, LABELS, "prompts=FILE"], "prompts='9 other prompts': chance needs at least 10"),
        ([PROMPT, LABELS, "--layers", "99"], "layers=99: this model has layers 0–2"),
        ([PROMPT, LABELS, "--token", "London", "layers=1"], "token='London': is not in"),
        ([PROMPT, "band, " + "word " * 38, "layers=1"], "labels='word word"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_the_weights_load(
    arguments, words, tiny_folder, tmp_path, capsys, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("helpers.models.load.load_model", refuse)
    (tmp_path / "few.csv").write_text(TOO_FEW)
    arguments = [one.replace("FILE", str(tmp_path / "few.csv")) for one in arguments]
    assert main(["label", *arguments, f"model={tiny_folder}"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(words) and said.err.count("\n") == 1
    assert said.out in ("", "checking the settings against the model …\n")
