"""The `sharetune` command. Heavy libraries are imported by the commands that need them."""

import os
import shlex
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, TextIO

import typer

from sharetune.search.commands.unknown_option import Commands
from sharetune.spaces.errors import CONTINUE, ClusterLost, RunError, SharetuneError
from sharetune.spaces.texts import printable

if TYPE_CHECKING:
    from sharetune.search.config import StudyConfig
    from sharetune.spaces.plan import SharingPlan

app = typer.Typer(
    cls=Commands,
    help="AutoML search over cross-layer parameter-sharing plans for Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

NewRun = Annotated[Optional[Path], typer.Option(show_default="runs/NAME", help="run folder")]

Cluster = Annotated[
    Optional[str],
    typer.Option(show_default="workers on this machine", help="a Ray cluster to join"),
]

MOST_PLANS = 1_000_000
"""Plans that a command finds or measures at most."""


def say(text: str, *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print a text at once, with what names of others hold for a terminal as escapes."""
    print(printable(text), file=file, end=end, flush=True)


def _say_version(asked: bool) -> None:
    if asked:
        from sharetune.search.commands.doctor import own_version

        say(f"sharetune {own_version()}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print it")
    ] = False,
) -> None:
    """AutoML search over cross-layer parameter-sharing plans for Transformers."""


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study file")]
Storage = Annotated[
    Optional[list[str]],
    typer.Option(
        "--storage", help="URL of a run's PostgreSQL database that you know, as the run names it"
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]


@app.command()
def search(
    study: StudyFile,
    out: NewRun = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    address: Cluster = None,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", help="override, as budget.trials=8")
    ] = None,
) -> None:
    """Search sharing plans: train candidates, measure them, write the report."""
    from sharetune.search.study_file import load_config

    with user_errors():
        say(f"reading {study}", file=sys.stderr)
        config = load_config(study, tuple(set_ or ()))
        folder = out or Path("runs") / config.name
        _refuse_wrong_names(config, folder)
        task = config.task.get("name", "a task")
        say(f"preparing {config.model} for {task}", file=sys.stderr)
        from sharetune.results.reading.location import Location
        from sharetune.search.live import Live
        from sharetune.search.run import run

        def continued(error: RunError) -> RunError:
            flags = ["--resume"] if Location.of(folder).exists else []
            again = _command("search", study, folder, set_ or [], address, *flags)
            return _continued_by(again, error)

        live = Live(last_words=lambda error: _say_error(continued(error)))
        try:
            run(config, out=folder, resume=resume, address=address, live=live)
        except KeyboardInterrupt:
            _say_stopped(study, folder, set_ or [], address)
            raise typer.Exit(130) from None
        except RunError as error:
            raise continued(error) from error
        _print_front(folder)
        _refuse_nothing_completed(folder)
        _say_what_may_follow(study, folder, set_ or [], address)


def _refuse_wrong_names(config: "StudyConfig", folder: Path) -> None:
    """Raise :class:`SharetuneError` for names that are wrong, before anything heavy is imported.

    A run that was begun has copies of its own.
    """
    from sharetune.search.commands.plain_checks import refuse_wrong_names
    from sharetune.spaces.run_folder import RunFolder as Places

    if not Places(folder).cache.exists():
        refuse_wrong_names(config)


def _say_stopped(study: Path, folder: Path, overrides: list[str], address: str | None) -> None:
    """Say what a search that was stopped keeps, and the command that goes on."""
    from sharetune.results.reading.location import Location
    from sharetune.spaces.run_folder import RunFolder as Places

    if Location.of(folder).exists:
        say("\nstopped; what is finished is kept. To continue:", file=sys.stderr)
        say(_resuming(study, folder, overrides, address), file=sys.stderr)
        return
    say("\nstopped before anything was trained", file=sys.stderr)
    if Places(folder).scores.exists():
        say("what is scored is kept. To continue:", file=sys.stderr)
        say(_command("search", study, folder, overrides, address), file=sys.stderr)


@app.command()
def score(
    study: StudyFile,
    out: NewRun = None,
    address: Cluster = None,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", help="override, as executor=local")
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="time edits as well, for solve --latency-ms")
    ] = False,
) -> None:
    """Measure what each single edit costs and saves, without training; goes on where it was."""
    from sharetune.search.study_file import load_config

    with user_errors():
        config = load_config(study, tuple(set_ or ()))
        folder = out or Path("runs") / config.name
        _refuse_wrong_names(config, folder)
        from sharetune.search.commands.score import score_table
        from sharetune.search.scoring import score_study

        flags = ["--latency"] if latency else []
        again = _command("score", study, folder, set_ or [], address, *flags)
        try:
            found = score_study(config, out=folder, address=address, latency=latency)
        except KeyboardInterrupt:
            say(f"\nstopped; what is scored is kept. To continue:\n{again}", file=sys.stderr)
            raise typer.Exit(130) from None
        except RunError as error:
            raise _continued_by(again, error) from error
        say(score_table(found))
        solving = shlex.join(["sharetune", "solve", str(folder), "--parameters", "80%"])
        say(f"solve: {solving}", file=sys.stderr)


@app.command()
def solve(
    run: RunFolder,
    parameters: Annotated[
        Optional[str], typer.Option(help="most parameters: 100M, or 80% of the unshared model")
    ] = None,
    bytes_: Annotated[Optional[str], typer.Option("--bytes", help="most bytes on disk")] = None,
    flops: Annotated[Optional[str], typer.Option(help="most FLOPs of a forward pass")] = None,
    latency_ms: Annotated[
        Optional[str], typer.Option(help="longest latency, additive only roughly")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=MOST_PLANS, help="plans to find")] = 5,
    measure: Annotated[
        int,
        typer.Option(
            min=0, max=MOST_PLANS, help="whole plans to measure, exchanging edits of the best"
        ),
    ] = 0,
    front: Annotated[bool, typer.Option("--front", help="print the whole front instead")] = False,
    out: Annotated[Optional[Path], typer.Option(help="file to write the best plan to")] = None,
    into: Annotated[
        Optional[Path], typer.Option(help="study file whose plans these are added to")
    ] = None,
) -> None:
    """Find the best plans for any budget from RUN's scores, in under a second."""
    with user_errors():
        from sharetune.search.commands.solve import Solver, plans_as_yaml
        from sharetune.spaces.layer_text import unchanged_text

        sizes = {"parameters": parameters, "bytes": bytes_, "flops": flops}
        solver = Solver.of(run, sizes | {"latency_ms": latency_ms})
        if front:
            say("\n".join(solver.front()))
            return
        try:
            found = solver.best(count, measure)
        except KeyboardInterrupt:
            say("\nstopped; what is measured is kept", file=sys.stderr)
            raise typer.Exit(130) from None
        plans = [one.solution.plan for one in found]
        for text in unchanged_text(solver.stored.header.lacking):
            say(text, file=sys.stderr)
        say(f"{solver.table(found)}\n\n{plans_as_yaml(plans)}", end="")
        if latency_ms is not None:
            say("latency adds up only roughly: measure what you choose", file=sys.stderr)
        _keep(plans, out, into)


def _keep(plans: Sequence["SharingPlan"], out: Path | None, into: Path | None) -> None:
    """Write the best of `plans` to `out`, and add all to the study file `into`."""
    if out is not None:
        out.write_text(plans[0].to_yaml(), "utf-8")
        say(f"plan 1: {out}", file=sys.stderr)
    if into is not None:
        from sharetune.search.commands.insert_plans import insert_plans

        added = insert_plans(into, [plan.written() for plan in plans])
        say(f"{added} of {len(plans)} plans are new in {into}", file=sys.stderr)
        say(f"train them: {shlex.join(['sharetune', 'search', str(into)])}", file=sys.stderr)


@app.command()
def init(
    task: Annotated[str, typer.Option(help="a task's name, as `sharetune list tasks` has it")],
    model: Annotated[str, typer.Option(help="a model of the hub, or a folder")],
    data: Annotated[str, typer.Option(help="training data: a file, folder or data set")],
    test: Annotated[Optional[str], typer.Option(help="test data")] = None,
    out: Annotated[Path, typer.Option(help="the file to write")] = Path("study.yaml"),
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", help="a key of the task, as task.pair=question")
    ] = None,
    hours: Annotated[
        Optional[float],
        typer.Option(min=0.01, help="hours the search may take here; trials and steps then fit"),
    ] = None,
) -> None:
    """Look at a model and data, and write a study file for them."""
    with user_errors():
        from sharetune.search.commands.init import write_study

        given = {"name": task, "train": data} | ({"test": test} if test else {})
        text, expected = write_study(given, model, out, tuple(set_ or ()), hours)
        say(text, end="")
        say(f"{expected}\nsharetune search {out}", file=sys.stderr)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders")],
    open_: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
    json: Annotated[bool, typer.Option("--json", help="print everything as JSON instead")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="name hosts and folders of absolute paths, too")
    ] = False,
    storage: Storage = None,
) -> None:
    """Write RUN/report.html and print the front; of several runs, compare them."""
    with user_errors():
        _name_servers(storage)
        path = _compare(runs, json, private) if len(runs) > 1 else _report(runs[0], json, private)
        if open_:
            webbrowser.open(path.resolve().as_uri())


@app.command()
def serve(
    run: RunFolder,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port on this machine; 0 takes a free one")
    ] = 8642,
    open_: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
    storage: Storage = None,
) -> None:
    """Show RUN's report on localhost, refreshed while its search runs. Ctrl-C ends it."""
    from threading import Event

    from sharetune.results.page.serving import serving

    with user_errors():
        _name_servers(storage)
        with serving(run, port) as address:
            say(address)
            if open_:
                webbrowser.open(address)
            with suppress(KeyboardInterrupt):
                Event().wait()


@app.command()
def show(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="a plan file or a preset's name")],
    model: Annotated[str, typer.Option(help="a model of the hub, or a folder")],
    max_length: Annotated[
        Optional[int],
        typer.Option(
            show_default="128, or as many as the model reads", help="tokens of the forward pass"
        ),
    ] = None,
) -> None:
    """Draw a plan's layers and count what it stores on a model. Trains nothing."""
    with user_errors():
        from sharetune.spaces.paths import require_model
        from sharetune.spaces.plan import SharingPlan, presets

        read = SharingPlan.preset(plan) if plan in presets() else SharingPlan.load(Path(plan))
        require_model(model)
        from sharetune.search.commands.show import describe_plan

        say(describe_plan(read, model, max_length))


@app.command()
def export(
    run: RunFolder,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="the trial's number")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a folder that does not exist")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="shared, code, dense, albert, onnx, gguf or gguf-q8_0 and the like"
        ),
    ] = "shared",
    push: Annotated[
        Optional[str], typer.Option(metavar="USER/NAME", help="upload it to the hub as well")
    ] = None,
    private: Annotated[bool, typer.Option(help="let only the user see what is uploaded")] = False,
    storage: Storage = None,
    plugin: Annotated[
        Optional[list[str]], typer.Option(help="a plugin, as RUN has it, whose code may be run")
    ] = None,
) -> None:
    """Write a trial's model for others to load, check it, and print how to load it."""
    with user_errors():
        _name_servers(storage)
        _name_plugins(plugin)
        _refuse_wrong_export(run, trial, format_)
        from sharetune.search.commands.export import export_trial

        exported = export_trial(run, trial, out, format_)
        say(exported.load(out))
        say(exported.summary(out), file=sys.stderr)
        if push is not None:
            from sharetune.trainers.hub import push as upload

            say(f"uploaded to {upload(out, push, private=private)}", file=sys.stderr)


def _refuse_wrong_export(run: Path, trial: int, format_: str) -> None:
    """Raise :class:`SharetuneError` for what cannot be exported, before torch is imported."""
    from sharetune.results.reading.study import read_study
    from sharetune.search.commands.kept_weights import kept_weights
    from sharetune.search.commands.plain_checks import EXPORTS, require_extra

    study = read_study(run)
    if not study.config.get("plugins"):
        EXPORTS.refuse_unknown(format_)
    require_extra(f"the {format_} format", format_)
    kept_weights(study, trial)


@app.command(name="list")
def list_(
    kind: Annotated[Optional[str], typer.Argument(help="one kind only")] = None,
) -> None:
    """List what is registered: forms, assignments, presets, objectives, exports and more."""
    from sharetune.search.commands.listing import listing

    with user_errors():
        say(listing(kind))


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="folder for runs")] = Path("runs"),
) -> None:
    """Print versions, devices, free memory and disk, Ray, and what extras miss."""
    from sharetune.search.commands.doctor import diagnosis

    for line in diagnosis(out):
        say(line)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the program with one line, a hint and exit code 2 for a user's mistake."""
    try:
        yield
    except ClusterLost as error:
        _say_error(error)
        os._exit(2)  # Ray's own end of the process waits for what is gone
    except SharetuneError as error:
        _fail(error)
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        _fail(RunError("a path holds a null byte", "name a path that can be used so"))
    except BrokenPipeError:  # the reader of a pipe has closed it
        raise
    except OSError as error:
        place = "a file" if error.filename is None else error.filename
        _fail(RunError(f"{place}: {error.strerror or error}", "name a path that can be used so"))


def _continued_by(command: str, error: RunError) -> RunError:
    """Return the error with a command in its hint, if it says that what was begun goes on."""
    return type(error)(error.message, error.hint.replace(CONTINUE, f"continue: {command}"))


def _name_servers(urls: list[str] | None) -> None:
    from sharetune.results.reading.location import checked_url
    from sharetune.results.reading.servers import name_server

    for url in urls or ():
        name_server(checked_url(url))


def _name_plugins(plugins: list[str] | None) -> None:
    from sharetune.results.reading.servers import name_plugins

    name_plugins(plugins or ())


def _report(run: Path, as_json: bool, private: bool) -> Path:
    from sharetune.results.as_json import studies_as_json
    from sharetune.results.page.report import write_report

    path = write_report(run, private=private)
    if as_json:
        say(studies_as_json([run], private=private))
        say(f"report: {path}", file=sys.stderr)
    else:
        _print_front(run)
    return path


def _compare(runs: list[Path], as_json: bool, private: bool) -> Path:
    from sharetune.results.as_json import studies_as_json
    from sharetune.results.page.comparison import comparison_table, write_comparison

    path = write_comparison(runs, private=private)
    say(studies_as_json(runs, private=private) if as_json else comparison_table(runs))
    say(f"comparison: {path}", file=sys.stderr)
    return path


def _fail(error: SharetuneError, code: int = 2) -> None:
    _say_error(error)
    raise typer.Exit(code)


def _say_error(error: SharetuneError) -> None:
    say(error.as_text(), file=sys.stderr)


def _resuming(study: Path, folder: Path, overrides: list[str], address: str | None) -> str:
    return _command("search", study, folder, overrides, address, "--resume")


def _command(
    name: str,
    study: Path,
    folder: Path,
    overrides: list[str],
    address: str | None,
    *flags: str,
) -> str:
    """Return the command line of `name` for a study, as it can be typed."""
    joined = [] if address is None else ["--address", address]
    settings = [word for override in overrides for word in ("--set", override)]
    words = ["sharetune", name, str(study), "--out", str(folder), *flags]
    return shlex.join([*words, *joined, *settings])


def _say_what_may_follow(
    study: Path, folder: Path, overrides: list[str], address: str | None
) -> None:
    from sharetune.results.terminal import next_steps

    def resume(changes: Sequence[str]) -> str:
        keys = tuple(f"{change.split('=')[0]}=" for change in changes)
        lasting = [override for override in overrides if not override.startswith(keys)]
        return _resuming(study, folder, [*lasting, *changes], address)

    for what, command in next_steps(folder, resume).items():
        say(f"{what}:\n  {command}", file=sys.stderr)


def _refuse_nothing_completed(folder: Path) -> None:
    """End the program with exit code 1 if no trial of the search was completed, and say why."""
    from sharetune.results.judging.unfinished import nothing_completed
    from sharetune.results.reading.study import read_study

    error = nothing_completed(read_study(folder))
    if error is not None:
        _fail(error, 1)


def _print_front(folder: Path) -> None:
    from sharetune.results.terminal import front_table, warning

    say(front_table(folder))
    if text := warning(folder):
        say(text, file=sys.stderr)
    say(f"report: {folder / 'report.html'}", file=sys.stderr)


def main() -> None:
    """Run the `sharetune` command."""
    from sharetune.search.commands.plain_output import show_everywhere

    show_everywhere()
    app()


if __name__ == "__main__":
    main()
