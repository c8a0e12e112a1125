"""What goes wrong on other people's machines: each fault, and the test that shows what happens then.

Here are the faults that need a file system, a process or a locale of their own, and settings drawn at random.
"""

import os
import re
import shutil
import signal
import subprocess
import warnings
from functools import cache

import pytest
from faults import Run, kill_at_random, uninterrupted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import QuickJudge, assert_same_but_for_rounding, make_readings

from helpers import ROOT, InputError
from helpers.cli import main
from helpers.experiments import mlp_output_evaluation
from helpers.judging.judge import Judge
from helpers.models.load import check_hardware
from helpers.runs import ledger
from helpers.runs.readings import Readings
from helpers.runs.results import read_results
from helpers.runs.session import Session
from helpers.words.plans import make_plan
from helpers.words.settings import ModelSettings, read_settings

TESTS = ROOT / "tests"
FAULTS = {  # what goes wrong -> the tests of it, or why it can't
    "a layer out of range": "test_layers_that_the_model_lacks test_layers_beyond_any_model_are_quickly_refused",
    "an empty list, repeats": "test_wrong_settings_name_the_parameter_and_what_is_allowed test_repeats_are_merged_with_a_note",
    "an amplifier that is NaN, infinite or a text": "test_wrong_settings_name_the_parameter_and_what_is_allowed",
    "amplifier 0, or a huge one": "test_rows_with_nonfinite_logits_are_marked test_a_failed_row_is_a_row",
    "an empty or blank prompt": "test_an_empty_prompt_is_refused test_unreadable_prompts",
    "a prompt over the context length": "test_what_the_model_lacks_is_refused_before_anything_runs",
    "a token that is not there, or twice": "test_what_the_model_lacks_is_refused_before_anything_runs",
    "emoji, right-to-left, newlines, quotes; NUL, lone surrogates": "test_texts_come_back_unchanged test_wrong_settings_name_the_parameter_and_what_is_allowed",
    "YAML's no, on, 1:30 as prompts": "test_wrong_settings_name_the_parameter_and_what_is_allowed",
    "an unknown or misspelt parameter": "test_bad_input_is_one_sentence_and_exit_code_2 test_papermill_alone_is_refused_a_misspelt_name",
    "papermill's nan, 1_000, 007, [1,2]": "test_bad_input_is_one_sentence_and_exit_code_2 test_a_notebook_refuses_parameters_that_it_does_not_have",
    "a seed that is negative, fractional, too big": "test_wrong_settings_name_the_parameter_and_what_is_allowed test_bad_input_is_one_sentence_and_exit_code_2",
    "batch_size 0 or -1": "test_batch_size_is_a_whole_number test_bad_input_is_one_sentence_and_exit_code_2",
    "max_new_tokens 0, or beyond the room": "test_what_the_model_lacks_is_refused_before_anything_runs",
    "temperature or top_p out of range": "test_sampling_refuses",
    "a dtype that is none": "test_wrong_settings_are_one_sentence",
    "cuda where there is none": "test_wrong_settings_are_one_sentence",
    "a model that is misspelt, or not here": "test_a_hub_id_is_found_in_the_local_cache test_bad_input_is_one_sentence_and_exit_code_2",
    "a gated model": "test_a_hub_model_that_is_not_available_is_one_sentence",
    "weights that are cut off, or pickled": "test_truncated_weights_are_one_sentence test_pickled_weights_are_refused test_a_model_file_that_was_cut_off",
    "an architecture without these parts": "test_a_model_without_such_parts_is_refused_before_its_weights",
    "no pad token, padding on the wrong side": "none: prompts are padded on the right with token 0 and masked; no tokenizer is asked",
    "a model's own code": "test_a_models_code_does_not_run_unless_asked_for",
    "a prompts file without its column, with a BOM, CRLF, ;, NA": "test_unreadable_prompts test_prompts_with_a_mark_and_windows_lines test_texts_come_back_unchanged",
    "no usable rows": "test_unreadable_results test_unreadable_prompts",
    "an output folder that is read-only, or a file": "test_a_read_only_disk_is_found_before_the_model_loads test_bad_input_is_one_sentence_and_exit_code_2",
    "a ledger of other settings": "test_unfinished_rows_of_other_settings_are_not_mixed_in test_a_ledger_that_was_started_meanwhile_is_named",
    "another model, dtype or method at the resume": "test_another_model_of_the_same_name_is_not_mixed_in test_unfinished_rows_of_other_settings_are_not_mixed_in",
    "nothing left to do": "test_nothing_left_to_do_needs_no_weights test_what_is_finished_is_taken_as_it_is test_a_command_continues_that_was_stopped_while_it_draws",
    "another worker count or batch size at the resume": "test_a_run_goes_on_with_other_workers_and_another_batch_size test_it_goes_on_with_another_batch_size",
    "two runs in one folder; a stale lock": "test_two_runs_in_one_folder test_two_processes_in_one_folder",
    "out of memory": "test_a_batch_that_does_not_fit_is_halved test_halves_until_they_fit_in_order",
    "SIGKILL of the driver, its notebook, a worker, the scheduler": "test_kills_at_random_moments test_a_command_continues_that_was_stopped_while_it_draws test_whoever_is_killed_costs_nothing test_a_scheduler_that_is_killed_loses_nothing",
    "Ctrl-C, once and twice": "test_a_stopped_command_changes_nothing_and_continues test_a_signal_ends_after_the_batch_and_the_rest_is_read_later test_a_second_signal_ends_at_once",
    "SIGTERM, walltime": "test_a_stopped_command_changes_nothing_and_continues test_a_signal_ends_after_the_batch_and_the_rest_is_read_later",
    "a power cut in a line": "test_a_torn_last_line_is_dropped_and_redone test_garbage_in_the_middle_costs_its_batch_alone",
    "a full disk": "test_a_full_disk test_a_full_disk_where_results_go test_a_full_disk_leaves_what_was_there_whole",
    "a network file system that lags": "none: one process writes and reads a ledger, workers send rows by Dask; a table is made only when every id of the plan is there",
    "an item that raises; many that do": "test_a_failed_row_is_a_row test_many_equal_failures_stop_a_run_early",
    "an empty text": "test_a_text_ends_at_end_of_sequence",
    "a hang": "test_a_hang_is_mentioned",
    "a figure that fails": "test_a_command_continues_that_was_stopped_while_it_draws",
    "another locale or time zone": "test_another_locale_and_time_zone_change_no_byte",
    "app: two visitors at once": "test_two_visitors_are_served_in_turn_and_see_their_own",
    "app: a reload, a closed tab": "test_a_link_opens_with_the_results",
    "app: a model that fails to load": "test_a_model_that_cannot_be_loaded_harms_no_other",
    "app: a port that is taken": "test_a_port_in_use_is_named",
    "app: ten megabytes, markup": "test_ten_megabytes_pasted test_prompts_and_readings_are_text",
    "a path in a name": "test_no_file_outside_the_exports_can_be_fetched test_names_are_no_paths",
    "cells that begin with =": "none: a CSV keeps them raw, as its readers need them; spreadsheets ask before they open it",
    "app: no internet": "test_the_policy_keeps_other_hosts_out test_the_server_asks_no_other_host_and_stops_when_told_to",
}  # fmt: skip


def test_the_table_names_tests_that_are_there():
    """Wherever they are below tests/."""
    tests = "".join(file.read_text(encoding="utf-8") for file in TESTS.rglob("test_*.py"))
    known = set(re.findall(r"^def (test_\w+)\(", tests, re.M))
    assert len(FAULTS) == 51
    missing = [
        (fault, name)
        for fault, names in FAULTS.items()
        if not names.startswith("none: ")
        for name in names.split()
        if name not in known
    ]
    assert not missing


@pytest.fixture(scope="module")
def whole(tiny_folder):
    """The bytes of a sweep that nothing happens to, and how long it takes."""
    return uninterrupted(tiny_folder)


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path, tiny_folder, whole):
    """`python tests/runs/faults.py 20` does more of them, on a real model."""
    table = kill_at_random(Run(tmp_path, tiny_folder), 3, *whole, seed=os.getpid())
    assert sum("lost" in entry for entry in table) == 3 and not any(entry.get("lost") for entry in table), table
    assert all(entry.get("same", True) for entry in table), table


@pytest.fixture
def disk(tmp_path):
    """Mount a small disk: (folder, what changes its options)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs Linux and its root")
    yield folder, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk(tmp_path, tiny_folder, disk, whole):
    """The ledger is on a disk of 48 KiB; then there is room, and the same command goes on."""
    folder, remount = disk
    run = Run(tmp_path / "run", tiny_folder)
    (run.folder / "work").symlink_to(folder, target_is_directory=True)
    first = run.start()
    _, said = first.communicate(timeout=300)
    assert first.returncode and "No space left on device (0.0 MiB free)" in said and "rows are kept in" in said
    assert 0 < run.rows < run.total and run.file.read_bytes() == run.lines, "nothing torn is left"
    kept = run.lines
    remount("size=10m")
    assert_same_but_for_rounding(run.finish(), whole[0])
    assert run.lines.startswith(kept)


@pytest.mark.slow
def test_a_full_disk_where_results_go(disk, tiny_folder, capfd):
    folder, remount = disk
    (folder / "earlier.csv").write_text("a\n1\n")
    command = ["--only", "mlp_output_evaluation", "--model", str(tiny_folder), "num_prompts=2", "layers=1,2",
               f"out_dir={folder}"]  # fmt: skip
    remount("size=8k")
    try:
        assert main(command) == 143
        said = capfd.readouterr().err
        assert "No space left on device" in said and "./runme.sh reproduce --only mlp_output_evaluation" in said
        assert (folder / "earlier.csv").read_text() == "a\n1\n"
        remount("size=10m")
        assert main(command) == 0
        assert "through already" in capfd.readouterr().out and len(read_results(folder / "mlp_output.csv")) == 24
    finally:
        shutil.rmtree(ledger.run_folder(folder))


def test_a_read_only_disk_is_found_before_the_model_loads(disk, tiny_folder, monkeypatch, capfd):
    """A mount, since permissions don't bind root."""
    folder, remount = disk
    remount("ro")
    assert main(["--only", "mlp_output_evaluation", f"out_dir={folder / 'results'}"]) == 2
    assert "results': can't be written (Read-only file system)" in capfd.readouterr().err
    monkeypatch.setattr(ledger, "WORK", folder / "work")
    monkeypatch.setattr("helpers.models.load.load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    with pytest.raises(InputError, match=r"work/.*can't be written \(Read-only file system\)"):
        make_readings(tiny_folder, folder.parent / "results").of("x.csv", [make_plan("Titanic", layers=1)])


@pytest.mark.slow
def test_two_processes_in_one_folder(tmp_path, tiny_folder, whole):
    run = Run(tmp_path, tiny_folder)
    first = run.begin()
    first.send_signal(signal.SIGSTOP)  # however long a second process takes to start
    try:
        second = run.start()
        _, said = second.communicate(timeout=300)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode and f"is in use by process {first.pid} on" in said
    assert first.wait(300) == 0
    assert_same_but_for_rounding(run.results, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["model.safetensors", "model.gguf"])
def test_a_model_file_that_was_cut_off(tiny_folder, tmp_path, weights, capfd):
    """Exit code 2 and a sentence, and nothing is left in the folder of results."""
    from helpers.models.sources import find_source
    from helpers.words.settings import SourceOptions

    if weights.endswith("gguf"):
        source = find_source("smollm2-135m", SourceOptions())
        model = tmp_path / weights
        model.write_bytes((source.folder / source.gguf_file).read_bytes()[:50_000_000])
    else:
        model = shutil.copytree(tiny_folder, tmp_path / "cut")
        (model / weights).write_bytes((model / weights).read_bytes()[:100_000])
    out = tmp_path / "results"
    try:
        assert main(["--only", "mlp_output_evaluation", "--model", str(model), "layers=1", f"out_dir={out}"]) == 2
    finally:
        shutil.rmtree(ledger.run_folder(out), ignore_errors=True)
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"model={str(model)!r}: ") and not list(out.glob("*"))


@pytest.mark.slow
def test_another_locale_and_time_zone_change_no_byte(tmp_path, tiny_folder, whole, monkeypatch):
    for name, value in {"LC_ALL": "C", "LANG": "de_DE", "TZ": "Asia/Tokyo", "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    assert Run(tmp_path, tiny_folder).finish() == whole[0]


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "runs/../../x"])
def test_names_are_no_paths(name, tmp_path, capfd):
    for arguments in (["--only", name], ["--model", name], [f"model={name}"]):
        assert main([*arguments, f"out_dir={tmp_path}"]) == 2
        assert capfd.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


ODD = [
    "", " ", "nan", "inf", "-1", "0", "1e-3", "1e308", "007", "1_000", "[1,2]", "no", "on", "True", "1:30", "1,1,1",
    "🙂", "a\0b", "'", '"', "../..", "99999999999999999999", "1-3,9", "depth:0.5", "1:3:0.5", "{x}", "x" * 500, "None",
    "same", "all", "=1+1", "-0",
]  # fmt: skip
USUAL = {
    "layers": ["0-2", "1", "all", "depth:0,1"], "amplifiers": ["1", "1,2.5", "0,-3", "1e30", "1:3:0.5"],
    "token": ["-1", "0"], "target_layer": ["same", "0", "2"], "way": ["plain", "norm"],
    "target_component": ["hidden_state", "block_input", "embedding", "attention_output"], "max_new_tokens": ["1", "4"],
    "temperature": ["0", "0.7"], "stop_at_item": ["true", "false"], "continue_tokens": ["0", "2"],
    "top_p": ["0.9", "1"], "seed": ["0", "4294967295"], "batch_size": ["0", "1", "7"], "num_prompts": ["0", "1"],
    "dtype": ["float32", "bfloat16"], "device": ["auto", "cpu"], "new": ["true", "false"], "workers": ["0"],
    "target_prompt": ["", "Syria: Country, x", "Syria: Country, {x}, y"], "prompts": ["data/prompts.csv"],
    "reuse": ["", "data/smollm2-135m"], "judge": [""],
}  # fmt: skip


@st.composite
def given_settings(draw):
    names = draw(st.lists(st.sampled_from(sorted(USUAL)), max_size=5, unique=True))
    odd = st.sampled_from(ODD) | st.text(max_size=8)
    usual = [draw(st.integers(0, 4)) > 0 for _ in names]
    return [
        f"{name}={draw(st.sampled_from(USUAL[name]) if is_usual else odd)}"
        for name, is_usual in zip(names, usual, strict=True)
    ]


@pytest.mark.slow
def test_any_settings_end_in_a_whole_table_or_a_sentence(tiny_folder, tmp_path, monkeypatch):
    """As the command and then the notebook take them; a table's rows are just the plan's."""
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text('prompt\nTitanic\n"Diana, Princess of Wales 🙂"\n', encoding="utf-8")
    experiment = mlp_output_evaluation
    usual = {
        "layers": "1", "amplifiers": [1, 2], "max_new_tokens": 2, "prompts": str(prompts), "model": str(tiny_folder),
        "out_dir": str(tmp_path / "results"),
    }  # fmt: skip
    ends = {0: 0, 2: 0}

    @cache
    def session(dtype, device):
        which = {"model": str(tiny_folder), "dtype": dtype, "device": device}
        return Session(ModelSettings.of(which), QuickJudge())

    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(given_settings())
    def outcome(texts):
        try:
            with warnings.catch_warnings(action="ignore"):  # repeats are merged with a note
                given = usual | read_settings(texts, [experiment.Settings])
                own = experiment.Settings.of(given).model_copy(update={"new": True})
                plans = experiment.plans(own)
            check_hardware(own.dtype, own.device)
            Judge(own.judge)
            if sum(len(plan.items(session(own.dtype, own.device).card)) for plan in plans) > 100:
                return
            readings = Readings(own, session(own.dtype, own.device), None)
            readings.of("x.csv", plans)
        except InputError as error:
            said, ended = str(error), 2
            names = ["setting", "prompts", *(text.partition("=")[0] for text in texts)]
            assert "\n" not in said and re.split(r"[\[=]", said)[0] in names, said
        else:
            rows, ended = read_results(tmp_path / "results" / "x.csv"), 0
            lm = readings.lm
            assert rows["id"].tolist() == [item.id for plan in plans for item in plan.items(lm, lm.identity)]
            assert set(rows["status"]) <= {"ok", "nonfinite"}
        ends[ended] += 1

    outcome()
    assert ends[0] > 50 and ends[2] > 50, ends


def test_the_random_settings_cover_the_notebook_s_parameters():
    others = {"model", "source_options", "out_dir"}
    assert set(USUAL) | others == set(mlp_output_evaluation.Settings.model_fields)
