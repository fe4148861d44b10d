"""``spatialonnx demo``: the whole job in two minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spatialonnx.cli.options import CommonOptions, command

if TYPE_CHECKING:
    from rich.table import Table


@command
def demo(common: CommonOptions) -> None:
    """Run insert, search, certification and report on the shipped network and images.

    Writes into ./spatialonnx-demo/ and can be run again (a finished search is not repeated).
    """
    from pathlib import Path

    from spatialonnx.cli.console import percent, points, show, table, verdict, warn
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.demo import DATA, EPS, MODEL, SEARCH, SELECT, VERIFY, run_demo
    from spatialonnx.errors import BoundMissedError

    warn(
        common,
        f"{MODEL} on {DATA}, eps {EPS}; shortened: {SEARCH} search samples instead of 1000, "
        f"{SELECT} to select instead of 2000, {VERIFY} to verify",
    )
    with show_progress(common) as progress:
        result = run_demo(Path(), common.runtime(), progress)
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
