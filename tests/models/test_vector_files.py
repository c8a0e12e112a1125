"""Files of vectors: every format gives the same rows, only those asked for are read, and nothing wrong gets through."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file

from helpers import InputError
from helpers.models import vector_files
from helpers.models.vector_files import VectorFile
from helpers.words.vectors import NO_LAYER, FileSource

N, WIDTH = 7, 32
TABLE = torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(0))


def write_sae(folder, table=TABLE, **about):
    """Write an SAE as SAELens lays it out: a decoder row per feature, and a JSON of where it is from."""
    folder.mkdir(exist_ok=True)
    n, width = table.shape
    weights = {"W_dec": table, "W_enc": table.T.contiguous(), "b_enc": torch.zeros(n), "b_dec": torch.zeros(width)}
    save_file(weights, folder / "sae_weights.safetensors")
    about = about or {"metadata": {"hook_name": "blocks.2.hook_resid_post", "model_name": "tiny"}}
    (folder / "cfg.json").write_text(json.dumps({"architecture": "standard", "d_in": width, "d_sae": n} | about))
    return folder


def write_control_vector(path, layers=(1, 2)):
    """Write a control vector as repeng does."""
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(layers))
    for layer in layers:
        writer.add_tensor(f"direction.{layer}", TABLE[layer].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_csv(path, column="vector", **more):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*more, column])
        for row, vector in enumerate(TABLE):
            writer.writerow([*(values[row] for values in more.values()), json.dumps(vector.tolist())])
    return path


def write(name, path):
    """Write the table in one of the formats; return the file."""
    file = path / name
    match name:
        case "table.safetensors":
            save_file({"anything": TABLE}, file)
        case "single.safetensors":
            save_file({f"v{row:02}": vector.clone() for row, vector in enumerate(TABLE)}, file)
        case "table.npy":
            np.save(file, TABLE.numpy())
        case "table.npz":
            np.savez(file, only=TABLE.numpy())
        case "single.npz":
            np.savez(file, **{f"v{row:02}": vector.numpy() for row, vector in enumerate(TABLE)})
        case "table.csv":
            write_csv(file)
        case "named.csv":
            write_csv(file, name=[f"v{row:02}" for row in range(N)])
        case "table.pt":
            torch.save(TABLE, file)
        case "single.pt":
            torch.save({f"v{row:02}": vector for row, vector in enumerate(TABLE)}, file)
        case "sae":
            write_sae(file)
    return file


FILES = (
    "table.safetensors", "single.safetensors", "table.npy", "table.npz", "single.npz", "table.csv", "named.csv",
    "table.pt", "single.pt", "sae",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows_in_the_order_asked(name, tmp_path):
    path = write(name, tmp_path)
    file = VectorFile(FileSource(str(path), allow_pickle=True))
    assert file.width == WIDTH and len(file.names) == N
    assert torch.equal(file.read(range(N)), TABLE)
    assert torch.equal(file.read([4, 5, 0, 4]), TABLE[[4, 5, 0, 4]])
    vectors = file.vectors()
    has_names = name.startswith(("single", "named"))
    assert [vector.token for vector in vectors] == [f"v{row:02}" if has_names else str(row) for row in range(N)]
    assert vectors[3].name == f"{path.stem}:{vectors[3].token}" and vectors[3].position == 3
    assert {vector.layer for vector in vectors} == {2 if name == "sae" else NO_LAYER}


def test_the_key_is_of_the_numbers_whatever_the_file(tmp_path):
    keys = [
        [one.key for one in VectorFile(FileSource(str(write(name, tmp_path)), allow_pickle=True)).vectors()] for name in FILES
    ]
    assert all(some == keys[0] for some in keys) and len(set(keys[0])) == N


def test_a_control_vector_is_of_the_layers_that_its_names_say(tmp_path):
    file = VectorFile(FileSource(str(write_control_vector(tmp_path / "happy.gguf", (2, 1)))))
    assert torch.equal(file.read([0, 1]), TABLE[[1, 2]])
    assert [(one.name, one.layer) for one in file.vectors()] == [("happy:direction.1", 1), ("happy:direction.2", 2)]


@pytest.mark.parametrize(
    ("about", "layer"),
    [
        ({"metadata": {"hook_name": "blocks.7.hook_mlp_out"}}, 7),
        ({"hook_name": "blocks.7.hook_resid_post", "hook_layer": 7}, 7),
        ({"hook_point": "blocks.7.hook_resid_pre"}, 6),
        ({"hook_name": "blocks.0.hook_resid_pre"}, NO_LAYER),
        ({"hook_name": "blocks.3.ln2.hook_normalized", "hook_name_out": "blocks.4.hook_mlp_out"}, 4),
        ({"hook_name": "model.layers.3"}, NO_LAYER),
    ],
)
def test_an_saes_layer_is_the_block_whose_output_it_was_trained_on(about, layer, tmp_path):
    assert VectorFile(FileSource(str(write_sae(tmp_path / "sae", **about)))).layers == [layer] * N


def test_rows_names_and_layers_are_chosen(tmp_path):
    file = VectorFile(FileSource(str(write("single.safetensors", tmp_path))))
    assert [one.position for one in file.vectors(rows="5,0-2,1")] == [5, 0, 1, 2]
    assert [one.position for one in file.vectors(names=("v04", "v01"))] == [4, 1]
    assert {one.layer for one in file.vectors(layer=3)} == {3}
    sae = VectorFile(FileSource(str(write("sae", tmp_path))))
    assert {one.layer for one in sae.vectors(layer="none")} == {NO_LAYER}
    for settings, why in (
        ({"rows": "7"}, "rows='7': .*rows 0–6"),
        ({"rows": "3-9"}, "rows 0–6"),
        ({"rows": "all"}, "rows='all': expected rows, from 0, like 0-99 or 3,17"),
        ({"rows": "0,depth:0.5"}, "expected rows, from 0"),
        ({"rows": "3-1"}, "expected rows, from 0"),
        ({"rows": "1,"}, "expected rows, from 0"),
        ({"rows": "9" * 5000}, "expected rows, from 0"),
        ({"names": ("v4",)}, "did you mean 'v04'"),
        ({"rows": "1", "names": ("v01",)}, "either says"),
    ):
        with pytest.raises(InputError, match=why):
            file.vectors(**settings)


def test_only_the_rows_asked_for_are_read(tmp_path, monkeypatch):
    """A file of 800 MB, most of it a hole, is opened and three rows are read in a few megabytes."""
    import resource

    path = tmp_path / "large.npy"
    large = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(200_000, 1000))
    large[[0, 99_999, 199_999]] = 1
    large.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = VectorFile(FileSource(str(path))).vectors(rows="0,99999,199999")
    assert len(found) == 3 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_checks_go_through_the_file_a_few_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(vector_files, "STEP", 3)
    file, most = VectorFile(FileSource(str(write("table.npy", tmp_path)))), []
    read = file._read
    file._read = lambda rows: most.append(len(rows)) or read(rows)
    assert len(file.vectors()) == N and most == [3, 3, 1]


def spoiled(value):
    table = TABLE.clone()
    table[4] = value
    return table


@pytest.mark.parametrize(
    ("value", "why"), [(0.0, "vector '4' has zeros alone"), (torch.nan, "'4' has .* not finite"), (torch.inf, "not finite")]
)
def test_zeros_and_numbers_that_are_none_are_refused(value, why, tmp_path):
    save_file({"x": spoiled(value)}, tmp_path / "x.safetensors")
    file = VectorFile(FileSource(str(tmp_path / "x.safetensors")))
    with pytest.raises(InputError, match=why):
        file.vectors()
    assert len(file.vectors(rows="0-3,5")) == 5  # of the others, none is


def test_what_is_no_file_of_vectors_is_refused_with_a_sentence(tmp_path, monkeypatch):
    def refused(path, why, **source):
        with pytest.raises(InputError, match=why) as refusal:
            VectorFile(FileSource(str(path), **source))
        assert "\n" not in str(refusal.value)

    refused(tmp_path / "nowhere.npy", "no such file")
    (tmp_path / "x.txt").write_text("1 2 3")
    refused(tmp_path / "x.txt", "expected a .safetensors")
    for suffix in ("safetensors", "npy", "npz", "gguf", "csv", "pt"):
        (tmp_path / f"bad.{suffix}").write_bytes(b"\x00\xffnonsense" * 9)
        refused(tmp_path / f"bad.{suffix}", "can't be read as|no weights|no column", allow_pickle=True)
    save_file({"a": TABLE, "b": TABLE * 2}, tmp_path / "two.safetensors")
    refused(tmp_path / "two.safetensors", re.escape("say which with tensor=…: a (7, 32), b (7, 32)"))
    assert torch.equal(VectorFile(FileSource(str(tmp_path / "two.safetensors"), "b")).read([1]), TABLE[[1]] * 2)
    refused(tmp_path / "two.safetensors", "tensor='c'", tensor="c")
    save_file({"a": TABLE[0].clone(), "b": TABLE[1, :5].clone()}, tmp_path / "uneven.safetensors")
    refused(tmp_path / "uneven.safetensors", "different lengths: 5, 32")
    np.save(tmp_path / "deep.npy", np.ones((2, 3, 4)))
    refused(tmp_path / "deep.npy", "shape")
    np.save(tmp_path / "texts.npy", np.array(["a", "b"]))
    refused(tmp_path / "texts.npy", "numbers of type")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    refused(tmp_path / "objects.npy", "can't be read")
    (tmp_path / "words.csv").write_text("a,b\n1,2\n")
    refused(tmp_path / "words.csv", "no column holds lists")
    (tmp_path / "uneven.csv").write_text('v\n"[1, 2]"\n"[1]"\n')
    refused(tmp_path / "uneven.csv", "row 1 of 'v' is no list of 2 numbers")
    (tmp_path / "empty-sae").mkdir()
    refused(tmp_path / "empty-sae", "has no cfg.json")
    monkeypatch.setattr(vector_files, "MOST_ROWS", 6)
    np.save(tmp_path / "many.npy", TABLE.numpy())
    refused(tmp_path / "many.npy", "7 vectors, at most 6")


def test_a_pickle_is_read_only_if_it_is_allowed_and_then_weights_alone(tmp_path):
    path = write("table.pt", tmp_path)
    with pytest.raises(InputError, match="allow_pickle=False: table.pt is a pickle"):
        VectorFile(FileSource(str(path)))

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"v": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="no weights"):
        VectorFile(FileSource(str(tmp_path / "trap.pt"), allow_pickle=True))
    assert not (tmp_path / "sprung").exists()


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="needs pyarrow: pip install pyarrow, or save .safetensors"):
        VectorFile(FileSource(str(tmp_path / "table.parquet")))


@pytest.mark.parametrize("kind", ["list", "large", "fixed", "half"])
def test_parquet_columns_of_lists(kind, tmp_path):
    """As pandas and datasets write them: several row groups, other columns beside, names; null rows are refused."""
    pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed: pip install pyarrow")
    import pyarrow.parquet

    number = pyarrow.float16() if kind == "half" else pyarrow.float32()
    table = TABLE.half() if kind == "half" else TABLE
    of = {"large": pyarrow.large_list(number), "fixed": pyarrow.list_(number, WIDTH)}.get(kind, pyarrow.list_(number))
    column = pyarrow.array(list(table.numpy()) if kind == "half" else [row.tolist() for row in table], of)
    columns = {"text": ["a"] * N, "name": [f"n{row}" for row in range(N)], "v": column, "words": [["x"]] * N}
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=3)
    file = VectorFile(FileSource(str(path)))
    assert torch.equal(file.read(range(N)), table.float()) and file.names == columns["name"]
    assert [vector.name for vector in file.vectors(rows="2-3")] == ["table:n2", "table:n3"]
    pyarrow.parquet.write_table(pyarrow.table({"v": pyarrow.array([[1.0, 2.0], None, [3.0, 4.0]])}), path)
    with pytest.raises(InputError, match="row 1 of 'v' is no list of 2 numbers"):
        VectorFile(FileSource(str(path)))
    pyarrow.parquet.write_table(pyarrow.table({"a": [[1.0]], "b": [[2.0]]}), path)
    with pytest.raises(InputError, match="say which with tensor=…: a, b"):
        VectorFile(FileSource(str(path)))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="can't be read as .parquet"):
        VectorFile(FileSource(str(path)))


def test_half_precision_becomes_float32(tmp_path):
    save_file({"x": TABLE.bfloat16()}, tmp_path / "x.safetensors")
    file = VectorFile(FileSource(str(tmp_path / "x.safetensors")))
    assert file.read([0]).dtype == torch.float32 and torch.equal(file.read([0])[0], TABLE[0].bfloat16().float())
