"""A comparison: which systems are measured, and the table that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spatialonnx.baseline.diagonal import Diagonal, measure_diagonals
from spatialonnx.baseline.exact import Exact, measure_exact
from spatialonnx.baseline.nonnegative import Candidates, find_candidates
from spatialonnx.baseline.yardstick import Row, Setup, Yardstick
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.insert import insert_predictors
from spatialonnx.modelfile import ModelFile
from spatialonnx.ops import find_predictors
from spatialonnx.search.run import Watch
from spatialonnx.session import Runtime

DIAGONAL, EXACT = "diagonal", "snapea-exact"
METHODS = (DIAGONAL, EXACT)
_EARLY = (EXACT,)
"""Those that stop sums early."""


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        setup: What all systems have in common.
        rows: One a system; the dense network first.
        diagonals: The diagonal pattern's taxonomy, by patch size.
        candidates: The sites that SnaPEA may take; None where no method needs them.
        exact: SnaPEA exact, by site.
    """

    setup: Setup
    rows: tuple[Row, ...]
    diagonals: tuple[Diagonal, ...] = ()
    candidates: Candidates | None = None
    exact: Exact | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``baseline --json`` prints."""
        setup = self.setup
        parts = setup.split.search, setup.split.select, setup.split.verify
        value: dict[str, Any] = {
            "model": str(setup.model.path),
            "data": setup.dataset.name,
            "eps": str(setup.bound),
            "samples": dict(zip(("search", "select", "verify"), map(len, parts), strict=True)),
            "seed": setup.seed,
            "batch": setup.batch,
            "threads": setup.runtime.threads,
            "baseline": {"score": float(self.rows[0].measured.baseline)},
            "rows": [row.to_json() for row in self.rows],
            "diagonal": [diagonal.to_json() for diagonal in self.diagonals],
        }
        if self.candidates is not None:
            value["snapea"] = self.candidates.to_json()
        if self.exact is not None:
            value["snapea_exact"] = self.exact.to_json()
        return value


def prepare_model(model: ModelFile, runtime: Runtime) -> ModelFile:
    """The model with SpatialPredict nodes; a user's own model gets them in memory.

    Raises:
        ModelError: It is a deployed model, or has no site.
    """
    if model.stage == "deploy":
        raise ModelError(
            f"{model.path} is deployed: name the original model, or model.spatial.onnx"
        )
    if find_predictors(model.proto):
        return model
    inserted = insert_predictors(model, runtime=runtime)
    return ModelFile(model.path, inserted.proto, model.sha256)


def compare_systems(setup: Setup, methods: Sequence[str], watch: Watch | None = None) -> Comparison:
    """Measures systems on verify.

    Args:
        setup: What they have in common.
        methods: Names out of ``METHODS``.
        watch: Who is told how far it got.

    Raises:
        UsageError: A method is unknown.
    """
    watch = watch or Watch()
    check_methods(methods)
    watch.say("running the dense network")
    yardstick = Yardstick(setup)
    rows = [yardstick.measure_dense()]
    diagonals: list[Diagonal] = []
    if DIAGONAL in methods:
        watch.say("diagonal patterns")
        diagonals = list(measure_diagonals(yardstick, progress=watch.samples))
        rows += [diagonal.row for diagonal in diagonals]
    candidates: Candidates | None = None
    if set(methods) & set(_EARLY):
        watch.say("looking for inputs that are never negative")
        candidates = find_candidates(setup)
    exact: Exact | None = None
    if EXACT in methods and candidates is not None:
        watch.say("SnaPEA exact")
        exact = measure_exact(yardstick, candidates, watch.samples)
        rows.append(exact.row)
    return Comparison(setup, tuple(rows), tuple(diagonals), candidates, exact)


def check_methods(methods: Sequence[str]) -> None:
    """Makes sure that every method is one.

    Raises:
        UsageError: One is not, or there is none.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise UsageError(f"--method {unknown[0] if unknown else ''}: use {', '.join(METHODS)}")
