"""The lab's commands.

The problem: a learner needs one word to start everything, and one plain sentence when that
fails. The idea: each command reads the settings, calls one room of the package and prints what
it returns; a `SetupError` from anywhere becomes its sentence on standard error and exit code 1.

The commands promise no stable output for programs: those read ``state.json`` in the home folder.
"""

import asyncio
import logging
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer

from labshop.errors import SetupError
from labshop.locks.address import without_password
from labshop.settings import Settings, read_settings
from labshop.stack.detach import answering, run_detached
from labshop.stack.doctor import examine
from labshop.stack.home import read_state
from labshop.stack.jupyter import jupyter_command, running_jupyter
from labshop.stack.leash import Leash
from labshop.stack.ports import choose_port, http_url
from labshop.stack.status import describe
from labshop.stack.supervisor import Supervisor, end_running_lab, ended_by_signals
from labshop.stack.topology import DEFAULT_PROFILE, specs_of

if TYPE_CHECKING:
    from labshop.judge.verdict import Verdict

NOT_RUNNING = 3
"""Exit code of `labshop status` when nothing runs, as `systemctl status` has it."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A Black-Friday sale on real Redis processes.",
)

Profile = Annotated[str, typer.Option(help="The lesson whose nodes are started.")]
Seed = Annotated[int, typer.Option(help="Draws the crowd and the faults.")]
Runs = Annotated[int, typer.Option(min=1, help="How often, each time with another seed.")]
Picture = Annotated[Path | None, typer.Option(help="Draw a violation into this HTML file.")]
Scenarios = Annotated[list[str] | None, typer.Option(help="Which; may be given several times.")]


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
    profile: Profile = DEFAULT_PROFILE,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start Redis and the shop, and end both on Ctrl-C."""
    settings = read_settings()
    if detach:
        run_detached(settings.home, ["up", "--profile", profile])
        _print_running(settings)
        typer.echo("Stop it by: make down (or: labshop down)")
        return
    with (
        answering(ready_fd) as is_ready,
        ended_by_signals(),
        suppress(KeyboardInterrupt),
        Supervisor(settings, specs_of(profile), typer.echo) as supervisor,
    ):
        _print_running(settings)
        typer.echo("Stop it by Ctrl-C, or in another terminal: labshop down")
        is_ready()
        supervisor.watch()
    typer.echo("The lab has ended.")


@app.command()
def down() -> None:
    """Stop what `up` or `lab` started here."""
    settings = read_settings()
    pid = end_running_lab(settings.home)
    if pid is None:
        typer.echo(f"The lab is not running in {settings.home}.")
    else:
        typer.echo(f"The lab has ended (it was process {pid}).")


@app.command()
def reset() -> None:
    """Stop what runs here and forget its orders: the next group finds a new shop."""
    settings = read_settings()
    if settings.database_url is not None:
        raise SetupError("The ledger is at LABSHOP_DATABASE_URL; empty that database yourself.")
    end_running_lab(settings.home)
    # The secret goes too: a token of the last group would name a user of the next.
    for forgotten in (*settings.home.glob("ledger.db*"), settings.home / "jwt-secret"):
        forgotten.unlink(missing_ok=True)
    shutil.rmtree(settings.home / "nodes", ignore_errors=True)
    typer.echo(f"The shop in {settings.home} is as new. Start it by: labshop up")


@app.command()
def status() -> None:
    """Show what runs here; exit code 3 when nothing does."""
    settings = read_settings()
    state = read_state(settings.home)
    if state is None:
        typer.echo(f"The lab is not running in {settings.home}. Start it by: labshop up")
        raise typer.Exit(NOT_RUNNING)
    typer.echo(describe(state))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 is any.")] = None,
) -> None:
    """Run only the shop's API, on the Redis that runs here or that LABSHOP_GATE_URL names."""
    asked = {"api_host": host, "api_port": port}
    settings = read_settings(**{name: value for name, value in asked.items() if value is not None})
    state = read_state(settings.home)
    gate_url = _gate_url(settings)
    former_port = urlsplit(state.api_url).port if state and state.api_url else None
    lock_urls = settings.lock_urls or ",".join(state.lock_urls() if state else ())
    chosen = choose_port(settings.api_host, settings.api_port, former_port or 8000)
    shown = without_password(gate_url)
    typer.echo(f"Serving {http_url(settings.api_host, chosen)} on the gate {shown} ...")
    replica_url = settings.replica_url
    if replica_url is None and state and gate_url == state.url_of("primary"):
        replica_url = state.url_of("replica")
    found = {
        "gate_url": gate_url,
        "replica_url": replica_url,
        "lock_urls": lock_urls,
        "api_port": chosen,
    }
    _serve(settings.model_copy(update=found))


@app.command()
def reconcile() -> None:
    """Compare gate and ledger now, and repair; exit code 1 if they do not agree."""
    settings = read_settings()
    if settings.shard_urls():
        raise SetupError("The stock is split by LABSHOP_GATE_SHARD_URLS: no gate holds all of it.")
    import structlog  # noqa: PLC0415  # as in `_serve`

    from labshop.ops.inspection import reconcile_once  # noqa: PLC0415

    # What is found is printed below, and is no news for a log.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    looking = reconcile_once(
        _gate_url(settings),
        settings.ledger_url(),
        node_timeout_ms=settings.node_timeout_ms,
        database_timeout_ms=settings.database_timeout_ms,
        say=typer.echo,
    )
    if not asyncio.run(looking):
        raise typer.Exit(1)


@app.command()
def lab(
    extra: Annotated[
        list[str] | None, typer.Argument(help="Arguments for JupyterLab, after a --.")
    ] = None,
    profile: Profile = DEFAULT_PROFILE,
) -> None:
    """Open the lessons in JupyterLab, with Redis and the shop running; end all on Ctrl-C."""
    settings = read_settings()
    command = jupyter_command(extra or [])
    with ended_by_signals(), suppress(KeyboardInterrupt):
        raise typer.Exit(_run_lessons(settings, profile, command))


@app.command()
def doctor() -> None:
    """Say what this machine has for the lab and what it lacks."""
    findings = examine(read_settings())
    for finding in findings:
        typer.echo(finding.line())
    if any(finding.required and finding.found is None for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    output: Annotated[Path, typer.Option(help="Where the figures are written.")] = Path(
        "build/bench.json"
    ),
    only: Annotated[
        Literal["locks", "purchases"] | None, typer.Option(help="Measure just this part.")
    ] = None,
) -> None:
    """Measure locks, ours and others', and a purchase against their yardsticks, in one run."""
    from labshop.load.bench import run_bench  # noqa: PLC0415  # as in `_serve`

    typer.echo(run_bench(output, only))
    typer.echo(f"Written to {output}.")


@app.command("try")
def try_strategy(
    strategy: Annotated[str, typer.Argument(help="module:Class, or a stage such as v1.")],
    scenario: Scenarios = None,
    seed: Seed = 1,
    picture: Picture = None,
    history: Annotated[Path | None, typer.Option(help="Write the history to this file.")] = None,
) -> None:
    """Let a strategy sell on real servers, and judge it; exit code 1 if it is INVALID."""
    from labshop.lab.trial import commands  # noqa: PLC0415  # as in `_serve`

    verdict = commands.try_strategy(strategy, scenario or (), seed, history, typer.echo)
    _finish(verdict, picture)


@app.command()
def zoo(
    names: Annotated[list[str] | None, typer.Argument(help="Which inhabitants; all.")] = None,
    runs: Runs = 1,
    seed: Seed = 1,
) -> None:
    """Let each bug of the zoo sell, and see it caught; exit code 1 if one gets away."""
    from labshop.lab.trial import commands  # noqa: PLC0415  # as in `_serve`

    if commands.zoo(names or (), range(seed, seed + runs), typer.echo):
        raise typer.Exit(1)


@app.command()
def soak(
    strategy: Annotated[str, typer.Argument(help="module:Class, or a stage such as v1.")] = "v1",
    runs: Runs = 200,
    scenario: Scenarios = None,
    seed: Seed = 1,
    picture: Picture = None,
) -> None:
    """Let a sound strategy sell again and again under faults, until it breaks."""
    from labshop.lab.trial import commands  # noqa: PLC0415  # as in `_serve`

    seeds = range(seed, seed + runs)
    _finish(commands.soak(strategy, scenario or (), seeds, typer.echo), picture)


@app.command()
def chaos(
    faults: Annotated[int, typer.Option(min=1, help="How many have to be made.")] = 200,
    minutes: Annotated[float, typer.Option(help="No sale begins after this time.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the first sale; the next has the next.")] = 1,
    stage: Annotated[str, typer.Option(help="A stage such as v4, or module:Class.")] = "v4",
) -> None:
    """Let two API processes sell under faults of every kind; exit code 1 if anything is missed."""
    from labshop.lab.chaos import FIGURES, run_campaign  # noqa: PLC0415  # as in `_serve`

    report = run_campaign(
        faults=faults, minutes=minutes, seed=seed, stage=stage, say=typer.echo, output=FIGURES
    )
    typer.echo(f"\n{report}\nWritten to {FIGURES}.")
    if report.misses:
        raise typer.Exit(1)


@app.command()
def judge(
    files: Annotated[list[Path], typer.Argument(help="Histories as JSON lines.")],
    picture: Picture = None,
) -> None:
    """Judge a recorded history; exit code 1 if it is INVALID, 2 if it is UNKNOWN."""
    from labshop.lab.trial import commands  # noqa: PLC0415  # as in `_serve`

    _finish(commands.judge(files), picture)


def main() -> None:
    """Run the command that the terminal asks for."""
    try:
        app()
    except SetupError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


def _run_lessons(settings: Settings, profile: str, command: Sequence[str]) -> int:
    if read_state(settings.home) is not None:
        _print_running(settings)
        with Leash() as leash, running_jupyter(command, leash, settings.home) as jupyter:
            return jupyter.wait()
    with Supervisor(settings, specs_of(profile), typer.echo) as supervisor:
        _print_running(settings)
        with running_jupyter(command, supervisor.topology.leash, settings.home) as jupyter:
            supervisor.watch(lambda: jupyter.poll() is not None)
            return jupyter.wait()


def _gate_url(settings: Settings) -> str:
    """The Redis that a setting names, or that runs here."""
    state = read_state(settings.home)
    gate_url = settings.gate_url or (state and state.url_of("primary"))
    if not gate_url:
        raise SetupError(
            "No Redis is running here. Start the lab by `labshop up`, "
            "or name a server by LABSHOP_GATE_URL."
        )
    return gate_url


def _serve(settings: Settings) -> None:
    # The other commands answer at once because none of them imports the web framework.
    from labshop.api.server import run  # noqa: PLC0415

    run(settings)


def _finish(verdict: "Verdict", picture: Path | None) -> None:
    from labshop.lab.verdict_chart import draw  # noqa: PLC0415  # as in `_serve`

    typer.echo(str(verdict))
    for violation in verdict.first_of_each[1:]:
        typer.echo(f"  also {violation}")
    if picture is not None and verdict.violations:
        draw(verdict.violations[0]).write_html(picture, include_plotlyjs=True)
        typer.echo(f"Drawn in {picture}")
    if verdict.outcome != "VALID":
        raise typer.Exit(1 if verdict.outcome == "INVALID" else 2)


def _print_running(settings: Settings) -> None:
    state = read_state(settings.home)
    if state is not None:
        typer.echo(describe(state))


if __name__ == "__main__":
    main()
