"""Notebooks through papermill: executed in kernels of this Python, stopped when the user stops them."""

import base64
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from .. import ROOT, InputError
from ..runs.progress import LOG
from ..runs.stopping import KINDS, NO_ROOM, Stopped, Terminated, deferring_signals
from ..words.files import shown, write_atomically
from ..words.machine import cores
from ..words.settings import Record

if TYPE_CHECKING:
    import nbformat
    import papermill

AT_ONCE = 2  # notebooks; each has a kernel with its own imports and figures
JUPYTER = f"{sys.prefix}/share/jupyter"
NOT_SHOWN = ("reuse", "new", "workers")  # parameters of who reads and when, which change no result


class KernelDied(RuntimeError):
    """The process of a notebook ended in the middle of it."""


@contextmanager
def passing_on_signals() -> Iterator[Callable[[], type[Stopped] | None]]:
    """Pass Ctrl-C and SIGTERM on to the running notebooks, which then end; a second one ends this process at once.

    Yields:
        What tells which kind of end the signal that came asks for; None if none came.

    Raises:
        Stopped, Terminated: no notebook was running, or it was the second signal.
    """

    def pass_on(signum: int) -> bool:
        kernels = _kernels()
        for kernel in kernels:
            with suppress(psutil.Error):  # it has ended
                kernel.send_signal(signum)
        return bool(kernels)

    with deferring_signals(pass_on) as stopped_by:
        try:
            yield stopped_by
        except RuntimeError as error:  # of a kernel that was starting, or that the signal ended
            if not stopped_by():
                raise
            raise stopped_by()("") from error
        if stopped_by():  # it came to a kernel at a moment when none is heard
            raise stopped_by()("")


def _kernels() -> list[psutil.Process]:
    """Find the processes of the running notebooks."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            found += [child] if "ipykernel" in " ".join(child.cmdline()) else []
    return found


def parameters_of(settings: Record) -> dict[str, object]:
    """Return the settings that differ from a notebook's own, as the literals that papermill writes."""
    return {name: _literal(value) for name, value in settings.changed.items() if name not in NOT_SHOWN}


def _literal(value: object) -> object:
    if isinstance(value, Record):
        return {name: _literal(option) for name, option in value.changed.items()}
    if isinstance(value, tuple):
        return [int(item) if isinstance(item, float) and item.is_integer() else item for item in value]
    return value


def run_notebooks(given: Mapping[str, dict | None], staging: Path, folder: Path) -> None:
    """Run notebooks, two at a time where the machine has two cores: a kernel spends its first seconds on imports.

    Args:
        given: name of a notebook -> parameters that differ from its own; None if it is through already.
        staging: where results and executed copies go.
        folder: the folder that the copies name instead.

    Raises:
        InputError: as a notebook raised it.
        Stopped, Terminated: by a signal, by a full disk, or because a notebook's process was killed.
    """
    # The kernel is this Python, whatever other "python3" the user's Jupyter knows.
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [JUPYTER, os.environ.get("JUPYTER_PATH")]))
    if not sys.stderr.isatty():
        os.environ[LOG] = "1"
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what ends a notebook is raised, and said once
    try:
        with passing_on_signals() as stopped_by, chdir(ROOT):
            _run_some_at_once(given, staging, folder, stopped_by)
    except KernelDied as error:
        raise Terminated(str(error)) from None


def _run_some_at_once(given: Mapping[str, dict | None], staging: Path, folder: Path, stopped_by: Callable) -> None:
    """Start the notebooks in order, each when there is room beside those that run."""
    running: list[Future] = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        try:
            for number, (name, parameters) in enumerate(given.items(), start=1):
                title = f"[{number}/{len(given)}] notebooks/{name}.ipynb"
                if parameters is None:
                    print(f"{title}: through already", flush=True)
                    continue
                running = _wait(running, until=min(AT_ONCE, cores()) - 1)
                if stopped_by():
                    break
                print(title, flush=True)
                running.append(threads.submit(run_notebook, name, parameters, staging, folder))
            _wait(running)
        except BaseException:
            _kill(running)
            raise


def _wait(running: list[Future], until: int = 0) -> list[Future]:
    """Wait until so many are left; once one has failed, wait for all.

    Returns:
        Those that are left, in order.

    Raises:
        What the first failed one raised.
    """
    while len(left := [future for future in running if not future.done()]) > until:
        wait(left, return_when=FIRST_COMPLETED)
        if any(future.exception() for future in running if future.done()):
            until = 0
    for future in running:
        if future.done():
            future.result()
    return left


def _kill(running: list[Future]) -> None:
    """End the notebooks that still run, so that no thread waits for one."""
    while not all(future.done() for future in running):
        for kernel in _kernels():
            with suppress(psutil.Error):
                kernel.kill()
        time.sleep(0.1)


def run_notebook(name: str, parameters: dict, staging: Path, folder: Path) -> None:
    """Execute one notebook, its results and its executed copy into `staging`; the copy names `folder` instead.

    Raises:
        InputError, Stopped, Terminated: as `run_notebooks`.
        KernelDied: its process was killed.
        papermill.PapermillExecutionError: a bug of ours.
    """
    import nbformat
    import papermill

    source = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    try:
        executed = papermill.execute_notebook(
            source, None, parameters | {"out_dir": str(staging)}, kernel_name="python3", progress_bar=False,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=CRITICAL"],  # of the kernel's own log; errors in cells come as messages
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if (raised := _raised_here(error)) is error:
            raise
        raise raised from None
    except RuntimeError as error:  # nbclient's DeadKernelError, or while the kernel was starting
        if not str(error).startswith("Kernel died"):
            raise
        raise KernelDied(f"the process of {name} was killed, perhaps for lack of memory") from None
    target = staging / "notebooks" / f"{name}.ipynb"
    target.parent.mkdir(exist_ok=True)
    with write_atomically(target) as file:  # it says that the notebook is through
        nbformat.write(_for_readers(executed, str(staging), shown(folder)), file)


def _raised_here(error: "papermill.PapermillExecutionError") -> BaseException:
    """Return what a notebook raised, as it would have been raised here; the error itself if it is a bug of ours."""
    kinds = {kind.__name__: kind for kind in KINDS.values()} | {"KeyboardInterrupt": lambda words: Stopped("")}
    if error.ename == "InputError":
        return InputError.saying(error.evalue)
    if error.ename in kinds:
        return kinds[error.ename](error.evalue)
    if error.ename == "SameFailures":
        from ..engine.batches import SameFailures

        return SameFailures(error.evalue)
    number = re.match(r"\[Errno (\d+)\]", error.evalue)
    if error.ename == "OSError" and number and int(number[1]) in NO_ROOM:
        return Terminated(f"no room: {error.evalue}")
    return error


def _for_readers(notebook: "nbformat.NotebookNode", staging: str, folder: str) -> "nbformat.NotebookNode":
    """Remove progress bars, timings and this machine's paths from an executed notebook."""
    from ..figures.style import with_palette

    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for about in ("papermill", "execution"):
            cell.metadata.pop(about, None)
        is_injected = "injected-parameters" in cell.metadata.get("tags", [])
        if is_injected:
            cell.source = re.sub(rf"^({'|'.join(NOT_SHOWN)}) = .*\n", "", f"{cell.source}\n", flags=re.M).rstrip("\n")
            cell.id = "given"  # else a new random one in every run
        cell.source = cell.source.replace(staging, folder).replace(f"{ROOT}/", "")
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for data in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
                data["image/png"] = base64.b64encode(with_palette(base64.b64decode(data["image/png"]))).decode()
    return notebook
