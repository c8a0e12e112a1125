"""Where files go, and that they are written whole or not at all."""

from pathlib import Path

import pytest

from helpers import ROOT, InputError
from helpers.models.sources import find_source
from helpers.words.files import check_writable, in_repository, json_of, results_folder, shown, slug, write_atomically
from helpers.words.grammar import read_path
from helpers.words.prompts import read_prompts
from helpers.words.settings import SourceOptions


def test_folders_and_names(tmp_path):
    assert results_folder("smollm2-135m") == ROOT / "data/smollm2-135m"
    assert results_folder("meta-llama/Llama-2-13b-chat-hf").name == "meta-llama--llama-2-13b-chat-hf"
    assert results_folder("any", "runs/x") == ROOT / "runs/x" and results_folder("any", tmp_path) == tmp_path
    assert slug("models/Some-Model.Q4.gguf") == "some-model.q4" and slug(str(tmp_path)) == tmp_path.name.lower()
    assert slug("owner/name:file.gguf") == "file"
    assert slug("llama", revision="v2", adapter="x/lora", quantization="4bit") == "llama@v2+lora-4bit"
    assert in_repository("data/prompts.csv") == ROOT / "data/prompts.csv" and in_repository(tmp_path) == tmp_path
    assert shown(ROOT / "data/x") == "data/x" and shown(tmp_path) == str(tmp_path)
    assert json_of(Path("a/b.csv.gz")) == json_of(Path("a/b.csv")) == Path("a/b.json")


@pytest.mark.parametrize("name", ["~no-such-user/x", pytest.param("x" * 5000, id="long")])
def test_a_home_of_nobody_and_a_name_that_no_file_can_have_are_no_files(name):
    assert slug(name) == name.replace("/", "--") and results_folder("any", name) == in_repository(name) == ROOT / name
    assert read_path(name) == name
    with pytest.raises(InputError, match="no such file"):
        read_prompts(name)
    with pytest.raises(InputError, match="model=.*: expected"):
        find_source(name, SourceOptions())
    with pytest.raises(InputError, match="adapter=.*: expected a PEFT folder"):
        SourceOptions.of({"adapter": name})


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, old):
    path = tmp_path / "x.csv"
    if old:
        path.write_text(old)
    with pytest.raises(RuntimeError), write_atomically(path) as file:
        file.write("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == (["x.csv"] if old else [])
    assert not old or path.read_text() == old


def test_a_write_replaces_the_file(tmp_path):
    for text in ("old", "new\n"):
        with write_atomically(tmp_path / "x.csv") as file:
            file.write(text)
    assert (tmp_path / "x.csv").read_bytes() == b"new\n" and len(list(tmp_path.iterdir())) == 1
    assert (tmp_path / "x.csv").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_takes_no_files(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="^out_dir=.*can't be written"):
        check_writable(tmp_path / "file")
    with pytest.raises(InputError, match="^--out=.*can't be written"):
        check_writable(tmp_path / "file", "--out")
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
