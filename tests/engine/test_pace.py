"""All threads where the cores are the process's own; beside other work as many as are fastest, tried again in a while."""

import pytest
import torch
from reading import read

from helpers.engine import interpret, pace
from helpers.engine.pace import AGAIN, Pace


def chosen(costs, shares, batches, threads=4):
    """Return how many threads each batch gets: costs and shares by the number of threads, or functions of the batch."""
    one, counts = Pace(), []
    one._begin(threads, "")
    for batch in range(batches):
        counts.append(one.count)
        now, ran = (given(batch) if callable(given) else given for given in (costs, shares))
        one.note(counts[-1], now[counts[-1]], ran[counts[-1]])
    return counts


ALONE, BESIDE = {4: 0.95, 2: 0.98, 1: 1.0}, {4: 0.3, 2: 0.4, 1: 0.5}


def test_alone_all_threads_work():
    assert set(chosen({4: 1.0, 2: 1.9, 1: 3.7}, ALONE, 100)) == {4}


def test_beside_other_work_the_fastest_count_is_found_and_tried_again():
    counts = chosen({4: 20.0, 2: 6.0, 1: 8.0}, BESIDE, 60)
    assert counts[:3] == [4, 1, 2] and set(counts[3 : AGAIN + 1]) == {2}
    assert counts.count(4) <= 4, "all threads are tried once in a while"


def test_all_threads_stay_where_fewer_are_no_faster():
    counts = chosen({4: 5.0, 2: 6.0, 1: 8.0}, BESIDE, 60)
    assert counts.count(4) > 50


def test_all_threads_work_again_when_the_others_have_ended():
    def costs(batch):
        return {4: 20.0, 2: 6.0, 1: 8.0} if batch < 10 else {4: 1.0, 2: 1.9, 1: 3.7}

    counts = chosen(costs, lambda batch: BESIDE if batch < 10 else ALONE, 80)
    assert set(counts[10 + AGAIN :]) == {4}


def test_a_single_thread_has_no_choice():
    assert set(chosen({1: 1.0}, {1: 0.1}, 50, threads=1)) == {1}


def test_torch_has_its_threads_again_also_after_an_error(monkeypatch):
    before, one = torch.get_num_threads(), Pace()
    try:
        torch.set_num_threads(2)
        one._begin(2, "a")
        one._trying = [1]
        with pytest.raises(ValueError), one.batch(8, "a"):
            assert torch.get_num_threads() == 1
            raise ValueError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype, is_asked", [("float32", True), ("bfloat16", False)])
def test_only_results_that_do_not_depend_on_threads_are_paced(tiny_folder, monkeypatch, dtype, is_asked):
    """In a lower precision, a batch's rounding may hang on its threads, and the same run gives the same bytes."""
    from helpers.models.load import load_model

    works, mine = [], Pace()
    usual = mine.batch
    monkeypatch.setattr(mine, "batch", lambda work, kind: works.append(work) or usual(work, kind))
    monkeypatch.setattr(interpret, "PACE", mine)
    read(load_model(str(tiny_folder), dtype), "Titanic", layers="0-2", amplifiers=[1, 2], max_new_tokens=3, batch_size=4)
    assert works == ([4 * 3, 2 * 3] if is_asked else [])
    assert pace.PACE is not mine
