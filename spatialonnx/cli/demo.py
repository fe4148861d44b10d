"""``spatialonnx demo``: a faster network in two minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import CommonOptions, command

if TYPE_CHECKING:
    from rich.table import Table

_FAST_INT8 = ("amx", "avx512vnni", "avxvnni")
"""Instruction sets that multiply 8-bit values fast."""


@command
def demo(
    common: CommonOptions,
    modes: Annotated[
        bool,
        typer.Option(
            "--modes", help="Search masks of all four modes for the shipped ResNet-18 instead."
        ),
    ] = False,
) -> None:
    """Make a shipped network fast: quantize, deploy, bench and report, in two minutes.

    The network is a VGG-6 for Fashion-MNIST and comes with the form that `tune` made of it. Writes
    into ./spatialonnx-demo/ and can be run again (what is finished is not repeated).
    """
    if modes:
        _show_modes(common)
        return
    from pathlib import Path

    from spatialonnx.cli.console import show, warn
    from spatialonnx.cli.optimize import result_lines
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.demo import DATA, EPS, MODEL, SEARCH, VERIFY, run_demo
    from spatialonnx.errors import BoundMissedError
    from spatialonnx.runtime.machine import instruction_set

    warn(
        common,
        f"{MODEL} and its tuned form on {DATA}, eps {EPS}; shortened: {SEARCH} search samples "
        f"instead of 1000, {VERIFY} to verify",
    )
    with show_progress(common) as progress:
        result = run_demo(Path(), common.runtime(), progress)
    for note in result.notes:
        warn(common, note)
    lines = result_lines(result)
    if instruction_set("int8") not in _FAST_INT8:
        lines.append(
            f"this processor ({instruction_set('int8')}) has no fast 8-bit instructions that the "
            "kernels use, so 8 bit gains less here; the table is what was measured"
        )
    lines.append(f"{result.seconds:.0f} s")
    show(common, result.to_json(), lines)
    if result.best is None:
        raise BoundMissedError(f"the bound of {result.bound} does not hold on verify")


def _show_modes(common: CommonOptions) -> None:
    """The demo of the four modes."""
    from pathlib import Path

    from spatialonnx import demo
    from spatialonnx.cli.console import percent, points, show, table, verdict, warn
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.errors import BoundMissedError

    warn(
        common,
        f"{demo.MODES_MODEL} on {demo.DATA}, eps {demo.MODES_EPS}; shortened: "
        f"{demo.MODES_SEARCH} search samples instead of 1000, {demo.MODES_SELECT} to select "
        f"instead of 2000, {demo.MODES_VERIFY} to verify",
    )
    with show_progress(common) as progress:
        result = demo.run_modes_demo(Path(), common.runtime(), progress)
    report = result.report
    (answer,) = report.results
    low, high = answer.verify.interval
    rule = verdict(answer.bound, answer.bound_met, answer.verify, None)
    rows: list[list[object]] = [
        ["accuracy, dense", percent(float(answer.verify.baseline))],
        ["sites with a SpatialPredict op", len(result.insertion.sites)],
        ["MACs saved on verify", percent(answer.verify.saved_fraction)],
        ["drop on verify", points(float(answer.verify.drop))],
        ["95 % interval of the drop", f"{100 * low:+.2f} to {100 * high:+.2f} points"],
        ["bound", rule.removeprefix("bound of ")],
        ["trials", report.trials],
        ["time", f"{result.seconds:.0f} s"],
    ]
    lines: list[str | Table] = [
        table(f"Certified on {answer.verify.samples} images that no choice used", ["", ""], rows),
        f"the model: {result.model}",
    ]
    if result.page is None:
        warn(common, f"no report: {result.why_not}")
    else:
        lines.append(f"the report, with masks of all four modes: {result.page}")
    value = {
        **report.to_json(),
        "output": str(result.model),
        "folder": str(result.folder),
        "report": None if result.page is None else str(result.page),
    }
    show(common, value, lines)
    if not answer.bound_met:
        raise BoundMissedError(f"the bound of {answer.bound} does not hold on verify")
