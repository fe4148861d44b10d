"""The Typer application: its commands, and how errors become exit codes."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from spatialonnx.cli import stopping
from spatialonnx.cli.baseline import baseline
from spatialonnx.cli.bench import bench
from spatialonnx.cli.demo import demo
from spatialonnx.cli.deploy import deploy
from spatialonnx.cli.doctor import doctor
from spatialonnx.cli.evaluate import evaluate
from spatialonnx.cli.insert import insert
from spatialonnx.cli.optimize import optimize
from spatialonnx.cli.quantize import quantize
from spatialonnx.cli.report import report
from spatialonnx.cli.search import search
from spatialonnx.cli.tune import tune
from spatialonnx.errors import MORE_MEMORY, LibraryError, SetupError, SpatialOnnxError

_COMMANDS = {
    "All at once": (optimize,),
    "From a model to a faster one": (insert, search, tune, quantize, deploy),
    "Measure and show": (evaluate, bench, baseline, report),
    "Start here": (demo, doctor),
}
"""What ``--help`` lists, by heading."""
_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NO_MEMORY = f"there is not enough memory: {MORE_MEMORY}"
_USAGE = 2
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""Typer's own error for options that it cannot read; Typer does not export it."""


class ErrorGroup(TyperGroup):
    """Turns a known error into one line and its exit code; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except SpatialOnnxError as error:
            if isinstance(error, LibraryError) and stopping.was_asked():
                raise _stopped() from None  # the signal cut off an import
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            raise typer.Exit(stopping.exit_code(error.exit_code)) from None
        except _USAGE_ERROR as error:
            command = getattr(getattr(error, "ctx", None), "command_path", "spatialonnx")
            text = " ".join(error.format_message().split()).rstrip(".")
            print(f"error: {text}; see {command} --help", file=sys.stderr)  # noqa: T201
            raise typer.Exit(_USAGE) from None
        except KeyboardInterrupt:
            raise _stopped() from None
        except MemoryError:
            print(f"error: {_NO_MEMORY}", file=sys.stderr)  # noqa: T201
            raise typer.Exit(SetupError.exit_code) from None
        except OSError as error:
            if error.errno not in _FULL and "temporary directory" not in str(error):
                raise
            print(f"error: {_full(error)}", file=sys.stderr)  # noqa: T201
            raise typer.Exit(SetupError.exit_code) from None
        except Exception:
            # A module whose import Ctrl-C cut off may raise anything.
            if stopping.was_asked():
                raise _stopped() from None
            raise


def _stopped() -> typer.Exit:
    print("stopped", file=sys.stderr)  # noqa: T201
    return typer.Exit(stopping.exit_code(_INTERRUPTED))


def _full(error: OSError) -> str:
    """What to do where temporary files cannot be written."""
    where = f" {error.filename}" if error.filename else ""
    reason = error.strerror or "there is no folder for temporary files"
    return f"cannot write{where}: {reason}; free some space, or set TMPDIR to a folder with room"


app = typer.Typer(
    name="spatialonnx",
    cls=ErrorGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Skip the convolutions that ReLU would set to zero, under a bound on accuracy.\n\n"
        "[bold]insert[/bold] model.onnx -> model.spatial.onnx, [bold]search[/bold] --eps 0.01 -> "
        "model.masked.onnx, [bold]deploy[/bold] -> model.deploy.onnx, a faster model for "
        "ONNX Runtime. [bold]demo[/bold] shows it all in two minutes."
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        from spatialonnx import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
) -> None:
    del version


for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(_command.__name__, rich_help_panel=_panel)(_command)


def main() -> None:
    """Entry point of the ``spatialonnx`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # No name may cost a result because the terminal's encoding lacks a character.
            stream.reconfigure(errors="replace")
    stopping.install()
    try:
        app()
    except KeyboardInterrupt:  # before a command begins
        print("stopped", file=sys.stderr)  # noqa: T201
        sys.exit(stopping.exit_code(_INTERRUPTED))
    except SystemExit as end:  # Typer exits as after Ctrl-C where SIGTERM comes before a command
        code = end.code
        sys.exit(stopping.exit_code(code) if isinstance(code, int) else code)
    finally:
        stopping.ignore()
