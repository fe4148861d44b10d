"""Options, each declared once, and the groups that commands take them in.

A command's parameter whose type is one of the groups below stands for all options of the group:
``command`` replaces it by them and hands the group over filled in. The fields of a group are
named like the keyword arguments of the public functions.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from spatialonnx.measure.opening import RuntimeOptions
    from spatialonnx.measure.opening import SplitOptions as PartOptions
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
_EPS = (
    "Largest allowed drop of the metric: 0.01 is one percentage point, 1%rel one per cent of the "
    "baseline."
)
Eps = Annotated[str, typer.Option("--eps", help=_EPS)]
SearchEps = Annotated[
    str, typer.Option("--eps", help=f"{_EPS} Several may be given, such as 0.005,0.01.")
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="top1, agreement (with the dense model; needs no labels) or python:module:function "
        "(of outputs and labels; higher is better).",
        show_default="what the model was searched with, else top1",
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        help="The original network, where the model is not it with masks: a network tuned with "
        "its masks on.",
        show_default="of a tuned or an 8-bit model the original in its folder, by its hash; else "
        "the model with prediction off",
    ),
]
BenchBaseline = Annotated[
    Path | None,
    typer.Option("--baseline", help="The model that ratios are to.", show_default="the first one"),
]
_PATCH_SIZE = "Side of a patch: 2, 3 or 4."
PatchSize = Annotated[str, typer.Option("--patch-size", help=_PATCH_SIZE)]
SearchPatchSize = Annotated[
    str,
    typer.Option(
        "--patch-size",
        help=f"{_PATCH_SIZE} The strategy joint also takes several, such as 2,3,4.",
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        help="A plan by hand: this pattern in every patch of every site (1001 is the 2 x 2 "
        "diagonal, 1000 one probe).",
    ),
]
_PLAN = (
    "Take over the plan of this model file, whose network was exported again: sites correspond by "
    "name, or by order."
)
PlanSource = Annotated[str | None, typer.Option("--plan", help=_PLAN)]
TunePlan = Annotated[
    str | None,
    typer.Option(
        "--plan",
        help=f"{_PLAN} Or auto: every site gets the pattern and patch size that the MAC budget "
        "favours.",
    ),
]
TunePatchSize = Annotated[
    int | None,
    typer.Option(
        "--patch-size",
        help="A plan by hand: one probe, the first output, in every patch of this side (2, 3 or "
        "4). With --pattern, whose length says it too, they must agree.",
        show_default="that of --pattern",
    ),
]
SampleCount = Annotated[
    int | None,
    typer.Option("--samples", help="Use at most this many samples.", min=1, show_default="all"),
]
StudyFile = Annotated[
    Path | None,
    typer.Option(
        "--study",
        help="Journal of the trials; the same command continues it.",
        show_default="beside the model",
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--confidence",
        help="The bound is met when the one-sided upper limit of the drop meets it, at this "
        "confidence: 0.95.",
        show_default="the drop itself decides",
    ),
]
_LATENCY_TABLE = "File with what sites take on this machine, by shape"
SearchLatencyTable = Annotated[
    Path | None,
    typer.Option(
        "--latency-table",
        help=f"{_LATENCY_TABLE}: what --goal latency lacks is measured and added.",
        show_default="in the study",
    ),
]
TuneLatencyTable = Annotated[
    Path | None,
    typer.Option(
        "--latency-table",
        help=f"{_LATENCY_TABLE}: what --goal latency lacks is measured and added.",
        show_default="measured anew",
    ),
]
DeployLatencyTable = Annotated[
    Path | None,
    typer.Option(
        "--latency-table",
        help=f"{_LATENCY_TABLE}: sites that cannot pay by it are not timed.",
        show_default="every site is timed",
    ),
]
_TRAIN = "Images to learn from, as --data; never those that certify."
TrainData = Annotated[
    str | None,
    typer.Option("--train", help=_TRAIN, show_default="the training split of the built-in set"),
]
OptimizeTrainData = Annotated[
    str | None, typer.Option("--train", help=_TRAIN, show_default="the network is not tuned")
]
SavedGoal = Annotated[
    float,
    typer.Option("--saved", help="MACs that tuning saves, as a fraction of those of all Convs."),
]
Epochs = Annotated[int, typer.Option("--epochs", help="Passes of tuning over the images.", min=1)]
Flip = Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror half of the training images.")]
Crop = Annotated[
    int, typer.Option("--crop", help="Shift training images by up to this many pixels.", min=0)
]
Mix = Annotated[
    float,
    typer.Option(
        "--mix",
        help="Fraction of the training images that are mixed with another one (mixup): worth it "
        "where they are few.",
        min=0,
        max=1,
    ),
]
ModelBatch = Annotated[
    int | None,
    typer.Option(
        "--model-batch",
        help="Images that the model takes at once, where its input leaves their number open and "
        "a Reshape inside does not.",
        min=1,
        show_default="as insert finds it",
    ),
]
_BATCH = typer.Option("--batch", help="Images per run.", min=1)
Batch = Annotated[int, _BATCH]
BenchBatch = Annotated[int | None, _BATCH]
"""None: what the models take at once, else 1."""
Runs = Annotated[
    int,
    typer.Option(
        "--runs", help="Rounds in which each model is timed; fewer than 5 show nothing.", min=1
    ),
]
Cold = Annotated[
    bool,
    typer.Option(
        "--cold",
        help="Time run by run, each model with the caches that the others left; otherwise in "
        "bursts, as in the loop of a server.",
    ),
]


@dataclass(frozen=True)
class CommonOptions:
    """The options that every command takes."""

    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what happens.")] = False
    provider: Annotated[
        str, typer.Option("--provider", help="Execution provider: auto, cpu or cuda.")
    ] = "auto"
    threads: Annotated[
        int,
        typer.Option(
            "--threads",
            help="Threads within an op.",
            min=0,
            show_default="all this process may use",
        ),
    ] = 0
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that spatialonnx did not make.")
    ] = False

    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            help="Time that one run of the model may take: 90s, 30m. A Loop may never end.",
            show_default="no limit",
        ),
    ] = None

    def running(self) -> RuntimeOptions:
        """Provider and threads, as the public functions take them."""
        return {"provider": self.provider, "threads": self.threads}

    def runtime(self) -> Runtime:
        """Provider and threads; says in one line where ``auto`` fell back to the CPU.

        Where there is no sign of a GPU, only ``--verbose`` says it.

        Raises:
            UsageError: The provider is unknown.
            ProviderError: It was asked for and does not load.
        """
        from spatialonnx.runtime.providers import choose_runtime

        return choose_runtime(self.provider, self.threads)


@dataclass(frozen=True)
class ImageOptions:
    """The data set, and how its pictures become the network's input."""

    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Data set: fashion-mnist, mnist, cifar10, cifar100, stl10, imagenet, "
            "tiny-imagenet (each optionally with :train and @PATH), folder:PATH, npz:FILE or "
            "python:module:function.",
            show_default="what the model names",
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option("--mean", help="Means subtracted, one per channel: 0.485,0.456,0.406."),
    ] = None
    std: Annotated[
        str | None, typer.Option("--std", help="Divisors after that, one per channel.")
    ] = None
    image_size: Annotated[
        str | None,
        typer.Option("--image-size", help="Size given to the network: 224 or 224x160."),
    ] = None
    resize: Annotated[
        int | None,
        typer.Option("--resize", help="Length of the shorter side before the centre crop."),
    ] = None
    model_batch: ModelBatch = None


@dataclass(frozen=True)
class DataOptions(ImageOptions):
    """The data set, and the memory for measuring on it."""

    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="Memory of the whole process, beside what the libraries take: 4G. It bounds the "
            "images that run together and, in a search, stored activations.",
            show_default="half of what is free",
        ),
    ] = None


@dataclass(frozen=True)
class ScoreOptions:
    """How the answers of the network are scored."""

    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            help="File with the classes in the order of the network's outputs, for pictures in "
            "class folders: one name or id per line, lines FOLDER NUMBER, or JSON.",
            show_default="class folders in the order of their names",
        ),
    ] = None
    score_output: Annotated[
        str | None,
        typer.Option(
            "--score-output",
            help="Output that is scored.",
            show_default="by its shape and the labels",
        ),
    ] = None
    decision: Annotated[
        float | None,
        typer.Option(
            "--decision",
            help="Value above which an output of one column says yes, class 1: 0.5 for "
            "probabilities.",
        ),
    ] = None
    accept_baseline: Annotated[
        bool,
        typer.Option(
            "--accept-baseline",
            help="Go on where the accuracy of the dense network cannot mean anything.",
        ),
    ] = False


@dataclass(frozen=True)
class SplitOptions:
    """How the data are cut into search, select and verify."""

    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Seed of the split.",
            min=0,
            show_default="what the model was searched with, else 0",
        ),
    ] = None
    search_samples: Annotated[
        int | None,
        typer.Option("--search-samples", help="Samples that trials run on.", show_default="1000"),
    ] = None
    select_samples: Annotated[
        int | None,
        typer.Option(
            "--select-samples",
            help="Samples that choose among the best.",
            show_default="2000",
        ),
    ] = None
    verify_samples: Annotated[
        int | None,
        typer.Option(
            "--verify-samples",
            help="Samples that certify the bound and choose nothing.",
            show_default="the rest, at most 5000",
        ),
    ] = None

    def sizes(self) -> PartOptions:
        """The split, as the public functions take it."""
        return {
            "seed": self.seed,
            "search_samples": self.search_samples,
            "select_samples": self.select_samples,
            "verify_samples": self.verify_samples,
        }


@dataclass(frozen=True)
class ConfidenceOptions:
    """What must meet the bound: the drop itself, or its upper limit."""

    confidence: Confidence = None
    select_confidence: Annotated[
        float | None,
        typer.Option(
            "--select-confidence",
            help="The same on select, where plans are chosen: a margin against plans that meet "
            "the bound there by chance.",
            show_default="as --confidence",
        ),
    ] = None


MaxTrials = Annotated[int | None, typer.Option("--max-trials", help="Trials to run now.", min=0)]


@dataclass(frozen=True)
class BudgetOptions:
    """The budgets of a search."""

    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget", help="Time before certification: 90s, 30m or 2h; a number is minutes."
        ),
    ] = None
    max_trials: MaxTrials = None


@dataclass(frozen=True)
class StageBudgetOptions:
    """The budgets of the search stage."""

    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget",
            help="Time of the search stage alone, before its certification: 90s, 30m or 2h; a "
            "number is minutes. All other stages take what they need.",
        ),
    ] = None
    max_trials: MaxTrials = None


_PANELS: dict[type, str] = {
    CommonOptions: "Common to all commands",
    DataOptions: "Data",
    ImageOptions: "Data",
    ScoreOptions: "Scores",
    SplitOptions: "Split of the data",
    ConfidenceOptions: "Certification",
    StageBudgetOptions: "The budgets of a search",
}
"""Under which heading ``--help`` lists a group; a group of one command has its docstring."""

Function = Callable[..., None]


class _LineFormatter(logging.Formatter):
    """Messages as the commands write their own: warnings marked, names never a terminal's code."""

    def format(self, record: logging.LogRecord) -> str:
        from spatialonnx.cli.console import printable

        mark = "warning: " if record.levelno >= logging.WARNING else ""
        # Lines stay lines: a traceback that a library logs has several.
        lines = super().format(record).splitlines()
        return mark + "\n".join(printable(line).plain for line in lines)


def command(function: Function) -> Function:
    """Makes a function a command: groups of options become options, and logging is set up.

    Args:
        function: Its first parameter is ``CommonOptions``; the parameters that are groups are
            handed over filled in.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    own = list(inspect.signature(function, eval_str=True).parameters.values())
    for parameter in [*own[1:], own[0]]:
        group = parameter.annotation
        if isinstance(group, type) and is_dataclass(group):
            groups[parameter.name] = group
            parameters += _options_of(group)
        else:
            parameters.append(parameter.replace(kind=kind))

    @functools.wraps(function)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            chosen = {field.name: values.pop(field.name) for field in fields(group)}
            values[name] = group(**chosen)
        common = values.pop(own[0].name)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_LineFormatter())
        level = logging.INFO if common.verbose else logging.WARNING
        logging.basicConfig(level=level, handlers=[handler])
        if common.timeout is not None:
            from spatialonnx.cli.quantities import parse_seconds
            from spatialonnx.runtime.run_limit import limit_runs

            limit_runs(parse_seconds("--timeout", common.timeout))
        function(common, **values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    # Typer keeps the line breaks of a docstring.
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    run.__doc__ = "\n\n".join(" ".join(text.split()) for text in paragraphs)
    return run


@functools.cache
def _options_of(group: type[Any]) -> tuple[inspect.Parameter, ...]:
    """The fields of a group as parameters that Typer reads, the same in every command."""
    hints = get_type_hints(group, include_extras=True)
    panel = _PANELS.get(group, (group.__doc__ or "").rstrip("."))
    # Hints are evaluated for each class, and an option that is inherited stays the same object.
    base = group.__base__
    inherited = _options_of(base) if base is not None and is_dataclass(base) else ()
    parameters = list(inherited)
    for field in fields(group)[len(inherited) :]:
        _, option = get_args(hints[field.name])
        option.rich_help_panel = panel
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
        )
    return tuple(parameters)
