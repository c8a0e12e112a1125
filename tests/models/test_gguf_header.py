"""GGUF files with wrong headers: a sentence, soon, whatever their counts, lengths and offsets say."""

import resource
import struct

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import InputError
from helpers.models.gguf_header import BadHeader, check_header
from helpers.models.load import read_model

ABSURD = (0, 1, 255, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A whole GGUF file: (path, its bytes, where its tensors' data begin)."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_head_count(2)
    writer.add_token_list([f"token{number}" for number in range(40)])
    writer.add_token_scores([0.5] * 40)
    writer.add_chat_template("{{ x }}")
    writer.add_tensor("token_embd.weight", np.ones((40, 32), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, path.read_bytes(), GGUFReader(path).data_offset


def changed(small, tmp_path_factory, place: int, new: bytes):
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    content = bytearray(small[1])
    content[place : place + len(new)] = new
    path.write_bytes(content)
    return path


def test_whole_files_pass(small, lm):
    check_header(small[0])
    check_header(lm.source.folder / lm.source.gguf_file)


@pytest.mark.parametrize(
    "place, new, why",
    [
        (0, b"GGML", "doesn't begin as a GGUF file"),
        (4, struct.pack("<I", 77), "version 77; expected 2 or 3"),
        (8, struct.pack("<Q", 2**60), "the number of tensors is 1,152,921,504,606,846,976"),
        (16, struct.pack("<Q", 2**50), "the number of fields is"),
        (24, struct.pack("<Q", 2**63), "the length of a field's name is"),
    ],
)
def test_what_does_not_fit_is_named(small, tmp_path_factory, place, new, why):
    with pytest.raises(BadHeader, match=why):
        check_header(changed(small, tmp_path_factory, place, new))


@pytest.mark.parametrize("name", ["block_count", "embedding_length"])
def test_sizes_beyond_the_tensors(small, tmp_path_factory, name):
    place = small[1].index(name.encode()) + len(name) + 4
    file = changed(small, tmp_path_factory, place, struct.pack("<I", 2**31))
    with pytest.raises(InputError, match=f"its files can't be read .*llama.{name} is 2,147,483,648, and its tensors"):
        read_model(str(file))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off(small, tmp_path, share):
    (tmp_path / "cut.gguf").write_bytes(small[1][: int(share * len(small[1]))])
    with pytest.raises(InputError, match="model=.*: its files can't be read"):
        read_model(str(tmp_path / "cut.gguf"))


@settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_change_of_the_header_ends_soon_and_small(small, tmp_path_factory, data):
    """Where the check lets a header pass, the library gets through it, too."""
    place = data.draw(st.integers(0, small[2] - 1))
    new = data.draw(
        st.binary(min_size=1, max_size=4)
        | st.sampled_from(ABSURD).map(lambda number: struct.pack("<Q", number))
        | st.sampled_from(ABSURD[:5]).map(lambda number: struct.pack("<I", number))
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    file = changed(small, tmp_path_factory, place, new)
    try:
        check_header(file)
    except BadHeader:
        pass
    else:
        try:
            GGUFReader(file)
        except (ValueError, KeyError, IndexError, UnicodeDecodeError):
            pass  # read_model says it in a sentence
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
