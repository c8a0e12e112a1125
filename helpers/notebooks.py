"""One notebook through papermill: executed in a kernel of this Python, stopped when the user stops it."""

import base64
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import papermill
import psutil
from nbclient.exceptions import DeadKernelError

from . import ROOT, InputError
from .ledger import shown
from .plots.style import with_palette
from .progress import LOG
from .results import write_atomically
from .stopping import KINDS, NO_ROOM, Stopped, Terminated, hearing

NOT_SHOWN = ("reuse", "new", "workers")  # parameters that change no result: where readings came from


@contextmanager
def passing_on_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM go to the running notebook, which ends after the batch in hand; a second one ends it at once.

    Raises:
        Stopped, Terminated: no notebook was running, or it was the second one.
    """

    def pass_on(signum: int) -> bool:
        kernels = _kernels()
        for kernel in kernels:
            with suppress(psutil.Error):  # it is gone
                kernel.send_signal(signum)
        return bool(kernels)

    with hearing(pass_on) as came:
        try:
            yield
        except (RuntimeError, DeadKernelError) as error:  # of a kernel that was starting
            if not came():
                raise
            raise came()("") from error
        if came():  # it came to the kernel at a moment when none is heard
            raise came()("")


def _kernels() -> list[psutil.Process]:
    """The notebook's process, while one runs."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            found += [child] if "ipykernel" in " ".join(child.cmdline()) else []
    return found


def run_notebook(notebook: str, parameters: dict, staging: Path, folder: Path) -> None:
    """Execute one notebook, its results and its executed copy into `staging`; the copy names `folder` instead.

    Raises:
        InputError: as the notebook raised it.
        Stopped, Terminated: by a signal, a full disk, or because the notebook's process was killed.
    """
    out_dir = str(staging)
    given = parameters | {"out_dir": out_dir}
    source = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    # The kernel is this Python, whatever other "python3" the user's Jupyter knows.
    own = f"{sys.prefix}/share/jupyter"
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, *filter(None, [os.environ.get("JUPYTER_PATH")])])
    if not sys.stderr.isatty():
        os.environ[LOG] = "1"
    try:
        with passing_on_signals():
            executed = papermill.execute_notebook(
                source, None, given, kernel_name="python3", progress_bar=False, stderr_file=sys.stderr, cwd=ROOT,
                extra_arguments=["--log-level=CRITICAL"],  # of the kernel's own log; errors in cells come as messages
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if (here := _as_here(error)) is error:
            raise
        raise here from None
    except DeadKernelError:
        raise Terminated(f"the process of {notebook} was killed, perhaps for lack of memory") from None
    target = staging / "notebooks" / f"{notebook}.ipynb"
    target.parent.mkdir(exist_ok=True)
    with write_atomically(target) as file:  # it says that the notebook is through
        nbformat.write(_for_readers(executed, out_dir, shown(folder)), file)


def _as_here(error: papermill.PapermillExecutionError) -> BaseException:
    """What a notebook raised, as it would have been raised here; itself if it is a bug of ours."""
    if error.ename == "InputError":
        return InputError.saying(error.evalue)
    if error.ename in (kind.__name__ for kind in KINDS.values()):
        return next(kind for kind in KINDS.values() if kind.__name__ == error.ename)(error.evalue)
    if error.ename == "KeyboardInterrupt":
        return Stopped("")
    number = re.match(r"\[Errno (\d+)\]", error.evalue)
    if error.ename == "OSError" and number and int(number[1]) in NO_ROOM:
        return Terminated(f"no room: {error.evalue}")
    return error


def _for_readers(notebook: nbformat.NotebookNode, staging: str, folder: str) -> nbformat.NotebookNode:
    """An executed notebook without progress bars, timings and this machine's paths."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(rf"^({'|'.join(NOT_SHOWN)}) = .*\n", "", f"{cell.source}\n", flags=re.M).rstrip("\n")
        cell.source = cell.source.replace(staging, folder)
        cell.source = cell.source.replace(f"{ROOT}/", "")
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "given"  # else a new random one in every run
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for shown in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
                shown["image/png"] = base64.b64encode(with_palette(base64.b64decode(shown["image/png"]))).decode()
    return notebook
