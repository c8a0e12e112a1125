"""The command line: `./runme.sh …` and `superscopes …`.

commands   what can be typed, with its help and shell completion
reproduce  read, then run the notebooks, then publish what is complete
announce   check the settings against the model; say rows and minutes
staging    what a command has written so far, published when all is complete
label      which of a few labels a prompt's vectors are
read       what given vectors say: a file's, or an expression's
lens       fit a model's Jacobian lens
bench      tasks with ground truth
score      stored readings, judged anew
notebooks  run a notebook through papermill
docs       write the numbers of README.md and docs/, and the notebooks' parameter cells
numbers    what those numbers are

Only `commands` is imported before it is known what was asked for: help, status and a refused setting take no time.
"""

import shlex
import sys
from collections.abc import Sequence

from .. import InputError

DONE, OUR_BUG, BAD_INPUT, FAILED_ROWS = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see `./runme.sh help`.

    Args:
        arguments: without the program's name; those of this process if left out.

    Returns:
        The exit code: 0 done, 1 a bug of ours, 2 bad input, 3 done with failed rows, 130 and 143 stopped.
    """
    import typer
    from typer.exceptions import TyperException

    from .commands import cli, with_command

    arguments = with_command(list(sys.argv[1:] if arguments is None else arguments))
    again = shlex.join(["./runme.sh", *(word for word in arguments if word not in ("--new", "new=true"))])
    # The shell completes the name that is installed; a script in this folder has none that it knows.
    program = "superscopes" if any("-completion" in word for word in arguments) else "./runme.sh"
    try:
        return typer.main.get_command(cli).main(
            arguments, program, "_SUPERSCOPES_COMPLETE", standalone_mode=False, obj={"again": again}
        ) or DONE
    except InputError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except typer.Abort:
        return OUR_BUG
    except TyperException as error:  # an option that doesn't exist, or lacks its value
        print(" ".join(error.format_message().split()), file=sys.stderr)
        return error.exit_code
