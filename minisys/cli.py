"""The command line: ``minisys info``, ``claims``, ``bench``, ``grade`` and ``rag``.

A bad argument or a broken file is one line on standard error and exit status 2, never a traceback.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from minisys import claims as ledger_module
from minisys.bench import command, results
from minisys.core import paths
from minisys.grade import command as grade_command
from minisys.kgrag.command import app as rag_app


class Commands(TyperGroup):
    """Turns a ValueError of any command into a message; what else goes wrong is a bug and shows as one."""

    def invoke(self, ctx) -> object:  # a click.Context, which some versions of typer bring themselves
        try:
            return super().invoke(ctx)
        except ValueError as error:
            typer.echo(f"minisys: {error}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The large-model systems of 2025, implemented, measured and taught.",
)


app.add_typer(rag_app, name="rag")


@app.callback()
def main() -> None:
    pass  # with a callback, a single command would still be called by its name


@app.command()
def info() -> None:
    """Show versions, the device and where the data files are."""
    for name, found in results.versions().items():
        typer.echo(f"{name:<8} {found or 'not installed'}")
    typer.echo(f"{'device':<8} {_device()}")
    typer.echo(f"{'claims':<8} {paths.claims_file()}")
    count = len(results.names())
    typer.echo(f"{'results':<8} {paths.results_directory()} ({count} {'file' if count == 1 else 'files'})")


@app.command()
def claims(
    id: str | None = typer.Argument(None, help="A row, for example nsa-stride; without it, every row."),
    check: bool = typer.Option(False, "--check", help="Check the ledger; exit status 1 if broken."),
) -> None:
    """Show the claims ledger, or one of its rows."""
    try:
        ledger = ledger_module.load()
    except ledger_module.ClaimsError as error:
        if check:
            typer.echo("\n".join(f"{error.path}: {problem}" for problem in error.problems), err=True)
            raise typer.Exit(1) from error
        others = len(error.problems) - 1
        more = f" ({others} more: minisys claims --check)" if others else ""
        raise ValueError(f"{error.path}: {error.problems[0]}{more}") from error
    if id is not None:
        _show_claim(ledger, ledger[id])
    elif not check:
        _show_table(ledger)
    if check:
        typer.echo(f"{len(ledger)} claims, none broken: {_summary(ledger)}")


@app.command()
def bench(
    topic: Annotated[str, typer.Argument(help=", ".join(command.TOPICS), show_default=False)],
    quick: Annotated[bool, typer.Option("--quick", help="small sizes, under a minute on two cores")] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default the GPU where there is one")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the result file; by default benchmarks/results")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="start no row that would end later; run again for the rest")
    ] = command.MINUTES,
) -> None:
    """Check a topic's code against float64, then time it beside other libraries and write a result file."""
    raise typer.Exit(command.bench(topic, quick=quick, device=device, out=out, minutes=minutes))


@app.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
def grade(words: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENTS")] = None) -> None:
    """Grade an assignment: a folder, a class of folders, or the assignment itself."""
    raise typer.Exit(grade_command.run(words or []))  # it reads its own options, for machines without typer


def _show_table(ledger: ledger_module.Ledger) -> None:
    table = Table(title=f"{len(ledger)} claims: {_summary(ledger)}", title_justify="left")
    table.add_column("id", no_wrap=True)
    for heading in ("status", "claim", "ours"):
        table.add_column(heading, overflow="fold")
    for claim in ledger:
        ours = "\n".join(map(str, claim.ours))
        table.add_row(claim.id, claim.status, escape(claim.claim), escape(ours))
    Console().print(table)


def _show_claim(ledger: ledger_module.Ledger, claim: ledger_module.Claim) -> None:
    measured_on = [f"{name}.json: {hardware}" for name, hardware in claim.measured_on.items()]
    fields = {
        "claim": [claim.claim],
        "said by": [ledger.sources[key].name for key in claim.source],
        "claimed": list(map(str, claim.claimed)),
        "ours": list(map(str, claim.ours)) or ["none"],
        "measured on": measured_on,
        "status": [f"{claim.status}: {ledger_module.STATUSES[claim.status]}"],
        "evidence": [claim.evidence] if claim.evidence else [],
        "needs": [claim.needs] if claim.needs else [],
        "measure": [claim.how, *claim.commands],
        "runs on": [claim.hardware],
    }
    table = Table(title=claim.id, title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, lines in fields.items():
        if lines:
            table.add_row(name, escape("\n".join(lines)))
    Console().print(table)


def _summary(ledger: ledger_module.Ledger) -> str:
    return ", ".join(f"{count} {status}" for status, count in ledger.counts().items())


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu: PyTorch sees no GPU"
    count = torch.cuda.device_count()
    return f"cuda: {count} × {torch.cuda.get_device_name(0)}"


if __name__ == "__main__":
    app()
