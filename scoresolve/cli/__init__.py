"""The command line ``scoresolve``: one module for each command, registered here.

Exit codes: 0 done; 1 the run failed, or ``doctor`` or ``conform`` found a fault; 2 an argument that cannot be
understood. Results go to stdout, all else (progress, errors) to stderr.
"""

from __future__ import annotations

from importlib import import_module

import typer

COMMANDS = ("list", "sample", "bench", "advise", "likelihood", "encode", "doctor", "conform")
"""Each is the function ``command`` of the module of its name in this package: to add one, add its name."""

app = typer.Typer(
    name="scoresolve",
    help="Solvers for score networks: sample, compare, encode, measure and check your own.",
    epilog="Exit codes: 0 done, 1 the run failed or a fault was found, 2 an argument that cannot be understood.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


for _name in COMMANDS:
    app.command(_name)(import_module(f".{_name}", __name__).command)


def main() -> None:
    """The entry point of the script."""
    app()
