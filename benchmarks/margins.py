"""Measures how far a drop scatters, and which safety margin keeps a bound.

    python benchmarks/margins.py model.spatial.onnx model.study.db --data fashion-mnist

A family of plans of a study is run on all images once. The images are then split repeatedly; each
rule chooses, among the plans that it accepts on the search and select parts, the one that saves
most.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.data.opening import open_dataset
from spatialonnx.graph.ops import write_plan
from spatialonnx.measure.calibration import expected_losses, fit_temperature
from spatialonnx.measure.evaluate import evaluate_model
from spatialonnx.measure.measured import DenseRun, Measured, compare
from spatialonnx.measure.metrics import TOP1, kl_divergence
from spatialonnx.measure.samples import Samples
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching.rate_distortion.safety_margin import estimate_drop
from spatialonnx.searching.study import Study

KLS = (0.0035, 0.0181, 0.0207, 0.0256, 0.0298, 0.0335, 0.0445)
"""Divergences on the study's samples; the plan closest to each one is taken."""
SEARCH, SELECT, VERIFY = 1000, 2000, 5000


def run_family(model: Path, study: Path, data: str, kept: Path) -> dict[str, NDArray[Any]]:
    """Logits of the dense network and of the plans on all images, cached in a file."""
    if kept.exists():
        with np.load(kept) as file:
            return dict(file)
    proto, runtime = load_model(model).proto, Runtime("cpu", 1)

    def run(plan: PlanLike) -> NDArray[Any]:
        return evaluate_model(write_plan(proto, plan), samples, runtime=runtime).outputs[0]

    dataset = open_dataset(data)
    samples = Samples(dataset, np.arange(len(dataset)))
    logits, saved = [run(Plan())], []
    with Study(study, readonly=True) as journal:
        _, total = journal.scale()
        records = [
            r for r in journal.records() if r.target == "network" and (r.outcome.kl or 0) > 0
        ]
        for wanted in KLS:
            near = min(records, key=lambda r: abs(np.log((r.outcome.kl or 0) / wanted)))
            plan = journal.plan(near.plan_key)
            logits.append(run(plan))
            saved.append((near.outcome.saved or 0) / total)
    labels, outcomes, fractions = np.asarray(samples.labels), np.stack(logits), np.asarray(saved)
    np.savez(kept, logits=outcomes, labels=labels, saved=fractions)
    return {"logits": outcomes, "labels": labels, "saved": fractions}


class Family:
    """Plans in order of saving, measured on any subset of the images."""

    def __init__(self, found: dict[str, NDArray[Any]]) -> None:
        """Sorts the plans."""
        order = np.argsort(found["saved"])
        self.saved = found["saved"][order]
        self.dense, self.masked = found["logits"][0], found["logits"][1:][order]
        self.labels = found["labels"]
        self.right = (self.dense.argmax(1) == self.labels).astype(np.float64)
        self.losses = self.right - (self.masked.argmax(2) == self.labels)

    def measure(self, plan: int, rows: NDArray[np.int64]) -> Measured:
        """Certifies a plan on some of the images."""
        dense, labels = self.dense[rows], self.labels[rows]
        run = DenseRun([dense], labels, TOP1.score([dense], labels))
        masked = self.masked[plan, rows]
        found = compare(TOP1, run, [masked], saved=0, conv_total=1, confidence=None)
        expected = expected_losses(dense, masked, fit_temperature(dense, labels))
        return Measured(
            **{
                **vars(found),
                "expected": float(expected.mean()),
                "expected_error": float(expected.std() / np.sqrt(len(rows))),
            }
        )


Rule = Callable[[Family, int, NDArray[np.int64], NDArray[np.int64], float], bool]


def both_hold(family: Family, plan: int, search: Any, select: Any, eps: float) -> bool:
    """Accepts by the drop on search and the drop on select."""
    losses = family.losses[plan]
    return bool(losses[search].mean() <= eps and losses[select].mean() <= eps)


def pooled_holds(family: Family, plan: int, search: Any, select: Any, eps: float) -> bool:
    """Accepts by the drop on both parts together."""
    return bool(family.losses[plan, np.concatenate([search, select])].mean() <= eps)


def likely_holds(family: Family, plan: int, search: Any, select: Any, eps: float) -> bool:
    """Accepts by the drop on both parts and the likely drop predicted from select."""
    if not both_hold(family, plan, search, select, eps):
        return False
    measured = family.measure(plan, select)
    return measured.holds(Fraction(eps)) and estimate_drop(measured, VERIFY).likely <= eps


RULES: dict[str, Rule] = {
    "holds on search and on select": both_hold,
    "holds on both pooled": pooled_holds,
    "holds on both, and likely on verify": likely_holds,
}


def main() -> None:
    """Prints how plans scatter, and how often each rule keeps its bound and what it saves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--keep", type=Path, default=Path("build/margins.npz"))
    parser.add_argument("--splits", type=int, default=200)
    arguments = parser.parse_args()
    arguments.keep.parent.mkdir(parents=True, exist_ok=True)
    family = Family(run_family(arguments.model, arguments.study, arguments.data, arguments.keep))
    every = np.arange(len(family.labels))
    print("| saved, % | KL, nats | drop, points | expected | scatter a sample | of expected |")
    print("|---|---|---|---|---|---|")
    for plan, saved in enumerate(family.saved):
        measured = family.measure(plan, every)
        kl = kl_divergence(family.dense, family.masked[plan]).mean()
        scatter = (measured.expected_error or 0) * np.sqrt(len(every))
        print(
            f"| {100 * saved:.1f} | {kl:.4f} | {100 * float(measured.drop):.2f} "
            f"| {100 * (measured.expected or 0):.2f} | {family.losses[plan].std():.3f} "
            f"| {scatter:.3f} |"
        )
    print("| rule | eps | met on verify, % | saved, % | drop, points |\n|---|---|---|---|---|")
    random = np.random.default_rng(5)
    splits = [random.permutation(len(every)) for _ in range(arguments.splits)]
    for eps in (0.005, 0.01):
        for name, rule in RULES.items():
            met, saved, drops = 0, 0.0, 0.0
            for split in splits:
                search, select, verify = np.split(
                    split[: SEARCH + SELECT + VERIFY], [SEARCH, SEARCH + SELECT]
                )
                passing = (
                    p
                    for p in reversed(range(len(family.saved)))
                    if rule(family, p, search, select, eps)
                )
                best = next(passing, None)
                drop = 0.0 if best is None else float(family.losses[best, verify].mean())
                met += drop <= eps
                saved += 0.0 if best is None else float(family.saved[best])
                drops += drop
            n = len(splits) / 100
            print(f"| {name} | {eps} | {met / n:.0f} | {saved / n:.1f} | {drops / n:.2f} |")


if __name__ == "__main__":
    main()
