"""Options, each declared once: commands name these types."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spatialonnx.runtime.session import Runtime

ModelArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        help="ONNX file. May be left out where the folder holds exactly one fitting file.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="File to write.", show_default="beside the model"),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Data set: fashion-mnist, mnist, cifar10, cifar100, stl10, imagenet, tiny-imagenet "
        "(each optionally with :train and @PATH), folder:PATH, npz:FILE or "
        "python:module:function.",
        show_default="what the model names",
    ),
]
Metric = Annotated[
    str,
    typer.Option(
        "--metric",
        help="top1, agreement (with the dense model; needs no labels) or python:module:function "
        "(of outputs and labels; higher is better).",
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        help="The original network, where the model at hand was tuned with its masks on. "
        "--strategy joint then goes on from these masks.",
        show_default="the model with prediction off",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the split.", min=0)]
SearchSamples = Annotated[
    int | None,
    typer.Option("--search-samples", help="Samples that trials run on.", show_default="1000"),
]
SelectSamples = Annotated[
    int | None,
    typer.Option(
        "--select-samples", help="Samples that choose among the best.", show_default="2000"
    ),
]
VerifySamples = Annotated[
    int | None,
    typer.Option(
        "--verify-samples",
        help="Samples that certify the bound and choose nothing.",
        show_default="the rest, at most 5000",
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--confidence",
        help="The bound holds when the one-sided upper limit of the drop does, as 0.95.",
        show_default="the drop itself decides",
    ),
]
SelectConfidence = Annotated[
    float | None,
    typer.Option(
        "--select-confidence",
        help="The same where plans are chosen, on select: a margin against plans that hold there "
        "by chance, as 0.95.",
        show_default="as --confidence",
    ),
]
PatchSize = Annotated[int, typer.Option("--patch-size", help="Side of a patch: 2, 3 or 4.")]
Batch = Annotated[int, typer.Option("--batch", help="Images in a timed run.", min=1)]
Runs = Annotated[int, typer.Option("--runs", help="Timed runs of each model.", min=1)]
Mean = Annotated[
    str | None,
    typer.Option("--mean", help="Means subtracted, one a channel, as 0.485,0.456,0.406."),
]
Std = Annotated[str | None, typer.Option("--std", help="Divisors after that, one a channel.")]
ImageSize = Annotated[
    str | None, typer.Option("--image-size", help="Size given to the network, as 224 or 224x160.")
]
Resize = Annotated[
    int | None,
    typer.Option("--resize", help="Length of the shorter side before the centre crop."),
]

_Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
_Verbose = Annotated[bool, typer.Option("--verbose", help="Log what happens.")]
_Provider = Annotated[
    str, typer.Option("--provider", help="Execution provider: auto, cpu or cuda.")
]
_Threads = Annotated[
    int,
    typer.Option(
        "--threads", help="Threads within an op.", min=0, show_default="all this process may use"
    ),
]
_Force = Annotated[
    bool, typer.Option("--force", help="Replace files that spatialonnx did not make.")
]
_COMMON: dict[str, tuple[Any, Any]] = {
    "json": (_Json, False),
    "quiet": (_Quiet, False),
    "verbose": (_Verbose, False),
    "provider": (_Provider, "auto"),
    "threads": (_Threads, 0),
    "force": (_Force, False),
}


@dataclass(frozen=True)
class Common:
    """The options that every command takes."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    provider: str = "auto"
    threads: int = 0
    force: bool = False

    def runtime(self) -> Runtime:
        """Provider and threads; says in one line where ``auto`` fell back to the CPU.

        Where there is no sign of a GPU, only ``--verbose`` says it.

        Raises:
            UsageError: The provider is unknown.
            ProviderError: It was asked for and does not load.
        """
        from spatialonnx.errors import UsageError
        from spatialonnx.runtime.session import Runtime, choose_provider, is_unexpected

        if self.provider not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--provider {self.provider}: use auto, cpu or cuda")
        provider, reason = choose_provider(self.provider)
        if reason:
            level = logging.WARNING if is_unexpected(reason) else logging.INFO
            logging.getLogger("spatialonnx").log(level, "running on the CPU: %s", reason)
        return Runtime(provider, self.threads)


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command whose first parameter is ``Common``; its options are added here."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        kind = inspect.Parameter.KEYWORD_ONLY
        common = [
            inspect.Parameter(key, kind, default=default, annotation=annotation)
            for key, (annotation, default) in _COMMON.items()
        ]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            chosen = Common(**{key: values.pop(key) for key in _COMMON})
            logging.basicConfig(
                stream=sys.stderr,
                level=logging.INFO if chosen.verbose else logging.WARNING,
                format="%(message)s",
            )
            function(chosen, **values)

        parameters = [p.replace(kind=kind) for p in own] + common
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return app.command(name)(run)

    return register
