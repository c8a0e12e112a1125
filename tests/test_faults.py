"""What goes wrong on other people's machines: each fault, and the test that shows what happens then.

Here are the faults that need a file system, a process or a locale of their own, and settings drawn at random.
"""

import os
import re
import shutil
import subprocess
import warnings

import pytest
from faults import ROWS, Run, kill_at_random
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import ROOT, InputError, ledger
from helpers.batches import check_batch_size
from helpers.models import check_hardware
from helpers.parameters import parse_settings, plans_of, read_parameters
from helpers.plans import make_plan
from helpers.readings import Readings
from helpers.reproduce import main
from helpers.results import read_results

TESTS = ROOT / "tests"
FAULTS = {  # what goes wrong -> the tests of it, or why it can't
    "a layer out of range": "test_plans.test_layers_that_the_model_lacks",
    "an empty list, repeats": "test_plans.test_wrong_settings_name_the_parameter_and_what_is_allowed test_plans.test_repeats_are_merged_with_a_note",
    "an amplifier that is NaN, infinite or a text": "test_plans.test_wrong_settings_name_the_parameter_and_what_is_allowed",
    "amplifier 0, or a huge one": "test_engine.test_rows_with_nonfinite_logits_say_so test_ledger.test_a_failed_row_is_a_row",
    "an empty or blank prompt": "test_reproduce.test_an_empty_prompt_is_refused test_results.test_unreadable_prompts",
    "a prompt over the context length": "test_plans.test_what_the_model_lacks_is_said_before_anything_runs",
    "a token that is not there, or twice": "test_plans.test_what_the_model_lacks_is_said_before_anything_runs",
    "emoji, right-to-left, newlines, quotes; NUL, lone surrogates": "test_results.test_texts_come_back_unchanged test_plans.test_wrong_settings_name_the_parameter_and_what_is_allowed",
    "YAML's no, on, 1:30 as prompts": "test_plans.test_wrong_settings_name_the_parameter_and_what_is_allowed",
    "an unknown or misspelt parameter": "test_reproduce.test_bad_input_is_one_sentence_and_exit_code_2 test_reproduce.test_papermill_alone_is_refused_a_misspelt_name",
    "papermill's nan, 1_000, 007, [1,2]": "test_reproduce.test_bad_input_is_one_sentence_and_exit_code_2 test_reproduce.test_a_notebook_refuses_parameters_that_it_does_not_have",
    "a seed that is negative, fractional, too big": "test_plans.test_wrong_settings_name_the_parameter_and_what_is_allowed test_reproduce.test_bad_input_is_one_sentence_and_exit_code_2",
    "batch_size 0 or -1": "test_engine.test_batch_size_is_a_whole_number test_reproduce.test_bad_input_is_one_sentence_and_exit_code_2",
    "max_new_tokens 0, or beyond the room": "test_plans.test_what_the_model_lacks_is_said_before_anything_runs",
    "temperature or top_p out of range": "test_plans.test_sampling_refuses",
    "a dtype that is none": "test_models.test_wrong_settings_are_one_sentence",
    "cuda where there is none": "test_models.test_wrong_settings_are_one_sentence",
    "a model that is misspelt, or not here": "test_models.test_a_hub_id_is_found_in_the_local_cache test_reproduce.test_bad_input_is_one_sentence_and_exit_code_2",
    "a gated model": "test_sources.test_a_hub_model_that_is_not_to_be_had_is_one_sentence",
    "weights that are cut off, or pickled": "test_models.test_truncated_weights_are_one_sentence test_models.test_pickled_weights_are_refused test_faults.test_a_model_file_that_was_cut_off",
    "an architecture without these parts": "test_families.test_what_has_no_such_parts_is_refused_before_its_weights",
    "no pad token, padding on the wrong side": "none: prompts are padded on the right with token 0 and masked; no tokenizer is asked",
    "a model's own code": "test_sources.test_code_of_its_own_only_by_name",
    "a prompts file without its column, with a BOM, CRLF, ;, NA": "test_results.test_unreadable_prompts test_results.test_prompts_with_a_mark_and_windows_lines test_results.test_texts_come_back_unchanged",
    "no usable rows": "test_results.test_unreadable_results test_results.test_unreadable_prompts",
    "an output folder that is read-only, or a file": "test_faults.test_a_read_only_disk_is_found_before_the_model_loads test_reproduce.test_bad_input_is_one_sentence_and_exit_code_2",
    "a ledger of other settings": "test_ledger.test_unfinished_rows_of_other_settings_are_not_mixed_in",
    "another model, dtype or method at the resume": "test_ledger.test_another_model_of_the_same_name_is_not_mixed_in test_ledger.test_unfinished_rows_of_other_settings_are_not_mixed_in",
    "nothing left to do": "test_ledger.test_nothing_left_to_do_needs_no_weights test_reproduce.test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been",
    "another worker count or batch size at the resume": "test_cluster.test_a_run_goes_on_with_other_workers_and_another_batch_size test_ledger.test_it_goes_on_with_another_batch_size",
    "two runs in one folder; a stale lock": "test_ledger.test_two_runs_in_one_folder test_faults.test_two_processes_in_one_folder",
    "out of memory": "test_batches.test_a_batch_that_does_not_fit_is_halved test_batches.test_halves_until_they_fit_in_order",
    "SIGKILL of the driver, its notebook, a worker, the scheduler": "test_faults.test_kills_at_random_moments test_reproduce.test_a_notebook_that_is_killed_goes_on test_cluster.test_a_worker_that_is_killed_costs_nothing test_cluster.test_a_scheduler_that_is_killed_loses_nothing",
    "Ctrl-C, once and twice": "test_reproduce.test_a_stopped_run_changes_nothing_and_goes_on test_ledger.test_a_signal_ends_after_the_batch_and_the_rest_is_read_later test_ledger.test_a_second_signal_ends_at_once",
    "SIGTERM, walltime": "test_reproduce.test_a_stopped_run_changes_nothing_and_goes_on test_reproduce.test_a_notebook_that_is_killed_goes_on",
    "a power cut in a line": "test_ledger.test_a_torn_last_line_is_dropped_and_redone test_ledger.test_garbage_in_the_middle_costs_its_batch_alone",
    "a full disk": "test_faults.test_a_full_disk test_faults.test_a_full_disk_where_results_go test_ledger.test_a_full_disk_leaves_what_was_there_whole",
    "a network file system that lags": "none: one process writes and reads a ledger, workers send rows by Dask; a table is made only when every id of the plan is there",
    "an item that raises; many that do": "test_ledger.test_a_failed_row_is_a_row test_ledger.test_many_equal_failures_stop_a_run_early",
    "an empty text": "test_engine.test_a_text_ends_at_end_of_sequence",
    "a hang": "test_ledger.test_a_hang_is_told_of",
    "a figure that fails": "test_reproduce.test_a_figure_that_fails_is_drawn_alone",
    "another locale or time zone": "test_faults.test_another_locale_and_time_zone_change_no_byte",
    "app: two visitors at once": "test_app_page.test_two_visitors_are_served_in_turn_and_see_their_own",
    "app: a reload, a closed tab": "test_app_page.test_a_link_restores_the_settings_and_a_reload_the_run",
    "app: a model that fails to load": "test_app.test_one_model_in_memory_and_one_that_fails_harms_nothing",
    "app: a port that is taken": "test_app.test_a_port_in_use_is_named",
    "app: ten megabytes, markup": "test_app_page.test_ten_megabytes_pasted test_app_page.test_prompts_and_readings_are_text",
    "a path in a name": "test_app.test_no_file_outside_the_exports_can_be_fetched test_faults.test_names_are_no_paths",
    "cells that begin with =": "none: a CSV keeps them raw, as its readers need them; spreadsheets ask before they open it",
    "app: no internet": "test_app_page.test_the_policy_keeps_other_hosts_out test_app.test_the_server_asks_no_other_host_and_ctrl_c_stops_it",
}  # fmt: skip


def test_the_table_names_tests_that_are_there():
    assert len(FAULTS) == 51
    for fault, tests in FAULTS.items():
        for test in [] if tests.startswith("none: ") else tests.split():
            module, name = test.split(".")
            assert re.search(rf"^def {name}\(", (TESTS / f"{module}.py").read_text(), re.M), (fault, test)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a sweep that nothing happens to, and how long it takes."""
    import time

    started = time.monotonic()
    return Run(tmp_path_factory.mktemp("whole")).finish(), time.monotonic() - started


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path, whole):
    """`python tests/faults.py 20` does more of them."""
    table = kill_at_random(Run(tmp_path), 4, *whole, seed=os.getpid())
    assert sum("lost" in one for one in table) == 4 and not any(one.get("lost") for one in table), table
    assert all(one.get("same", True) for one in table), table


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, mounted: (folder, what changes its options)."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", place]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs Linux and its root")
    yield place, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
def test_a_full_disk(tmp_path, disk, whole):
    """The ledger is on a disk of 48 KiB; then there is room, and the same command goes on."""
    place, remount = disk
    run = Run(tmp_path / "run")
    (run.place / "work").symlink_to(place, target_is_directory=True)
    first = run.start()
    _, said = first.communicate(timeout=120)
    assert first.returncode and "No space left on device (0.0 MiB free)" in said and "rows are kept in" in said
    assert 0 < run.rows < ROWS and run.file.read_bytes() == run.lines, "nothing torn is left"
    kept = run.lines
    remount("size=10m")
    assert run.finish() == whole[0] and run.lines.startswith(kept)


@pytest.mark.slow
def test_a_full_disk_where_results_go(disk, capfd):
    place, remount = disk
    (place / "earlier.csv").write_text("a\n1\n")
    command = ["--only", "mlp_output_evaluation", "num_prompts=2", "layers=1,5", f"out_dir={place}"]
    remount("size=8k")
    try:
        assert main(command) == 143
        said = capfd.readouterr().err
        assert "No space left on device" in said and "./runme.sh reproduce --only mlp_output_evaluation" in said
        assert (place / "earlier.csv").read_text() == "a\n1\n"
        remount("size=10m")
        assert main(command) == 0
        assert "through already" in capfd.readouterr().out and len(read_results(place / "mlp_output.csv")) == 24
    finally:
        shutil.rmtree(ledger.run_folder(place))


def test_a_read_only_disk_is_found_before_the_model_loads(disk, tiny_folder, monkeypatch, capfd):
    """A mount, since permissions don't bind root."""
    place, remount = disk
    remount("ro")
    assert main(["--only", "mlp_output_evaluation", f"out_dir={place / 'results'}"]) == 2
    assert "results': can't be written (Read-only file system)" in capfd.readouterr().err
    monkeypatch.setattr(ledger, "WORK", place / "work")
    monkeypatch.setattr("helpers.readings.load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    with pytest.raises(InputError, match=r"work/.*can't be written \(Read-only file system\)"):
        Readings(str(tiny_folder), out_dir=place.parent / "results").of("x.csv", [make_plan("Titanic", layers=1)])


@pytest.mark.slow
def test_two_processes_in_one_folder(tmp_path, whole):
    run = Run(tmp_path)
    first = run.begin(rows=32)
    second = run.start()
    _, said = second.communicate(timeout=60)
    assert second.returncode and f"is in use by process {first.pid} on" in said
    assert first.wait(120) == 0
    assert (run.place / "results" / "sweep.csv").read_bytes() == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["model.safetensors", "model.gguf"])
def test_a_model_file_that_was_cut_off(tiny_folder, tmp_path, weights, capfd):
    """Exit code 2 and one sentence, and nothing is left in the folder of results."""
    from helpers.sources import SourceOptions, find_source

    if weights.endswith("gguf"):
        source = find_source("smollm2-135m", SourceOptions())
        model = tmp_path / weights
        model.write_bytes((source.folder / source.gguf_file).read_bytes()[:50_000_000])
    else:
        model = shutil.copytree(tiny_folder, tmp_path / "cut")
        (model / weights).write_bytes((model / weights).read_bytes()[:100_000])
    out = tmp_path / "results"
    assert main(["--only", "mlp_output_evaluation", "--model", str(model), "layers=1", f"out_dir={out}"]) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"model={str(model)!r}: ") and not list(out.glob("*"))


@pytest.mark.slow
def test_another_locale_and_time_zone_change_no_byte(tmp_path, whole, monkeypatch):
    for name, value in {"LC_ALL": "C", "LANG": "de_DE", "TZ": "Asia/Tokyo", "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    assert Run(tmp_path).finish() == whole[0]


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "runs/../../x"])
def test_names_are_no_paths(name, tmp_path, capfd):
    for arguments in (["--only", name], ["--model", name], [f"model={name}"]):
        assert main([*arguments, f"out_dir={tmp_path}"]) == 2
        assert capfd.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


ODD = ["", " ", "nan", "inf", "-1", "0", "1e-3", "1e308", "007", "1_000", "[1,2]", "no", "on", "True", "1:30", "1,1,1", "🙂", "a\0b",
       "'", '"', "../..", "99999999999999999999", "1-3,9", "depth:0.5", "x" * 500, "None", "same", "all", "=1+1", "-0"]  # fmt: skip
USUAL = {
    "layers": ["0-2", "1", "all", "depth:0,1"], "amplifiers": ["1", "1,2.5", "0,-3", "1e30"], "token": ["-1", "0"],
    "target_layer": ["same", "0", "2"], "max_new_tokens": ["1", "4"], "temperature": ["0", "0.7"], "top_p": ["0.9", "1"],
    "seed": ["0", "4294967295"], "batch_size": ["0", "1", "7"], "num_prompts": ["0", "1"], "dtype": ["float32", "bfloat16"],
    "device": ["auto", "cpu"], "target_prompt": ["", "Syria: Country, x"], "new": ["true", "false"], "prompts": ["data/prompts.csv"], "workers": ["0"],
}  # fmt: skip


@st.composite
def given_settings(draw):
    names = draw(st.lists(st.sampled_from(sorted(USUAL)), max_size=5, unique=True))
    odd = st.sampled_from(ODD) | st.text(max_size=8)
    usual = [draw(st.integers(0, 4)) > 0 for _ in names]
    return [
        f"{name}={draw(st.sampled_from(USUAL[name]) if one else odd)}" for name, one in zip(names, usual, strict=True)
    ]


@pytest.mark.slow
def test_any_settings_end_in_a_whole_table_or_a_sentence(tiny_folder, tiny, tmp_path, monkeypatch):
    """As the command and then the notebook take them; a table's rows are just the plan's."""
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text('prompt\nTitanic\n"Diana, Princess of Wales 🙂"\n', encoding="utf-8")
    notebook = "mlp_output_evaluation"
    defaults = {notebook: read_parameters(notebook) | {"layers": "1", "amplifiers": [1, 2], "max_new_tokens": 2}}
    defaults[notebook] |= {"prompts": str(prompts), "model": str(tiny_folder), "out_dir": str(tmp_path / "results")}
    ends = {0: 0, 2: 0}

    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(given_settings())
    def outcome(texts):
        try:
            own = defaults[notebook] | parse_settings(texts, defaults)
            with warnings.catch_warnings(action="ignore"):  # repeats are merged with a note
                plans = plans_of(notebook, own)
            check_batch_size(own["batch_size"] or None)
            check_hardware(own["dtype"], own["device"])
            if sum(len(plan.items(tiny)) for plan in plans) > 100:
                return
            readings = Readings(
                own["model"], own["dtype"], own["device"], own["out_dir"], batch_size=own["batch_size"] or None,
                new=True, workers=own["workers"],
            )  # fmt: skip
            readings.of("x.csv", plans)
        except InputError as error:
            said, ended = str(error), 2
            assert "\n" not in said and said.partition("=")[0] in (
                "setting",
                "prompts",
                *(t.partition("=")[0] for t in texts),
            ), said
        else:
            rows, ended = read_results(tmp_path / "results" / "x.csv"), 0
            assert rows["id"].tolist() == [id for plan in plans for id in plan.ids(plan.items(tiny), readings.lm)]
            assert set(rows["status"]) <= {"ok", "nonfinite"}
        ends[ended] += 1

    outcome()
    assert ends[0] > 50 and ends[2] > 50, ends


def test_the_random_settings_cover_the_notebooks_parameters():
    others = {"model", "source_options", "prompts", "out_dir"}
    assert set(USUAL) | others == set(read_parameters("mlp_output_evaluation"))
