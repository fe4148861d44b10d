"""Claim: a masked 8-bit model, deployed, beats the 8-bit network that ONNX Runtime runs.

    python benchmarks/int8_models.py vgg6.int8.masked.onnx resnet18.int8.masked.onnx --write

Every model is fused site by site where that pays, as ``spatialonnx deploy`` does, and timed in
alternation against the same network with full masks in 8 bit, against its float original (found
beside it by its hash, or ``--baseline``), and against both in OpenVINO, where that is installed
(extra ``bench``). Rows: one and two threads, batch 1 in bursts and run by run, batch 8; with the
best kernels of this processor, and with those of ``--isa``, such as avx512vnni where AMX is best.

With ``--bits`` nothing is timed: the deployed model and the simulation of its plan are compared on
all images of the data set, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tables import DOCS, make_table, run_with, write_table

from spatialonnx.deployment.deployment import DeployedSite, DeployJob
from spatialonnx.deployment.forms import choose_forms, measure_sites, timed_images
from spatialonnx.graph.fuse import dense_form, explain_unfusable, fuse_sites
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.evaluate import evaluate_model
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network
from spatialonnx.measure.opening import open_experiment
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.model_file import load_model
from spatialonnx.runtime.machine import instruction_set
from spatialonnx.runtime.timing import compare_timings, open_timed, time_alternately

DOCUMENT = DOCS / "int8.md"
CASES = ((1, False), (1, True), (8, False))
"""Batch, and whether models are timed run by run."""
BURST = 10


@dataclass(frozen=True)
class Row:
    """One row of the table: medians, in milliseconds.

    Attributes:
        model: Name of the file.
        isa: Instruction set of SpatialQConv.
        threads: Threads.
        batch: Images per run.
        cold: Whether models were timed run by run.
        fused: Sites fused, and sites.
        saved: MACs saved by the fused sites, a fraction of all.
        drop: Of the plan on verify, against the float original; a fraction.
        ours: The deployed model.
        int8: The dense 8-bit model.
        float32: The float original; None where there is none.
        ratio: The deployed model to the dense 8-bit model, with its 95 % interval.
        openvino: OpenVINO's float32 and int8; None where it is not installed.
    """

    model: str
    isa: str
    threads: int
    batch: int
    cold: bool
    fused: str
    saved: float
    drop: float
    ours: float
    int8: float
    float32: float | None
    ratio: tuple[float, float, float]
    openvino: tuple[float, float] | None = None

    def cells(self) -> list[str]:
        """The row of the table."""
        value, low, high = self.ratio
        found = [f"{ms / self.int8:.2f}" for ms in self.openvino or ()] or ["-", "-"]
        return [
            *(self.model, self.isa, str(self.threads), str(self.batch)),
            "run by run" if self.cold else "bursts",
            f"{self.fused}, {100 * self.saved:.1f} %",
            f"{100 * self.drop:.2f}",
            f"{self.ours:.3f}",
            f"{value:.3f} ({low:.3f} to {high:.3f})",
            "-" if self.float32 is None else f"{self.ours / self.float32:.3f}",
            *found,
        ]


HEADER = [
    *("model", "kernels", "threads", "batch", "timed", "fused, MACs saved"),
    *("drop, points", "ms"),
    *("/ dense int8 (95 %)", "/ dense float32", "OpenVINO float32 / int8", "OpenVINO int8 / int8"),
]


@dataclass(eq=False)
class OpenVino:
    """A network in OpenVINO, with the part of a Session that timing uses."""

    inputs: tuple[Any, ...]
    request: Any = field(repr=False)

    @staticmethod
    def open(proto: onnx.ModelProto, inputs: tuple[Any, ...], threads: int) -> OpenVino:
        """Compiles a model for latency; in float32 without bfloat16, as ONNX Runtime computes."""
        import openvino

        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = core.read_model(proto.SerializeToString())
        return OpenVino(inputs, core.compile_model(model, "CPU", settings).create_infer_request())

    def run(self, feeds: dict[str, NDArray[Any]]) -> Any:
        """Runs it once."""
        return self.request.infer(feeds, share_inputs=True)


def open_model(path: Path, options: argparse.Namespace, threads: int) -> Experiment:
    """The experiment of a masked model, on the images of its search."""
    model = load_model(path)
    settings: Any = {"provider": "cpu", "threads": threads}
    if options.baseline is not None:
        settings["baseline"] = options.baseline
    record = read_search_record(model.proto)
    return open_experiment(model, options.data, settings, record=record)


def fuse(experiment: Experiment, fuse_all: bool) -> tuple[onnx.ModelProto, list[DeployedSite]]:
    """The deployed model: sites that gain are fused, the others dense."""
    proto = experiment.model.proto
    job = DeployJob(experiment, fuse="all" if fuse_all else "auto")
    images = timed_images(job)
    sites = measure_sites(experiment, Network(proto, experiment.runtime), images)
    sites = choose_forms(job, sites, explain_unfusable(proto), images, None)
    fused, dense = ([s.name for s in sites if s.form == form] for form in ("fused", "dense"))
    return fuse_sites(proto, fused, dense), sites


def measure(path: Path, options: argparse.Namespace, threads: int) -> list[Row]:
    """The rows of one model and number of threads."""
    experiment = open_model(path, options, threads)
    proto = experiment.model.proto
    drop = float(Certifier.of(experiment).measure(None, experiment.verify).drop)
    deployed, sites = fuse(experiment, options.fuse_all)
    dense = dense_form(proto)
    networks = [dense, deployed]
    if experiment.baseline is not None:
        networks.append(experiment.baseline.proto)
    sessions: list[Any] = [open_timed(network, experiment.runtime) for network in networks]
    others = [*networks[2:], dense] if options.openvino and len(networks) > 2 else []
    sessions += [OpenVino.open(network, sessions[0].inputs, threads) for network in others]
    rows = []
    for batch, cold in CASES:
        images = timed_images(DeployJob(experiment, batch=batch))
        timings = time_alternately(
            sessions, images, options.rounds * (BURST if cold else 1), burst=1 if cold else BURST
        )
        ratio = compare_timings(timings[1], timings[0])
        ms = [1e3 * timing.median for timing in timings]
        fused = [site for site in sites if site.form == "fused"]
        rows.append(
            Row(
                path.name.removesuffix(".onnx").removesuffix(".masked"),
                instruction_set("int8"),
                threads,
                batch,
                cold,
                f"{len(fused)} of {len(sites)}",
                sum(site.predicted * site.share for site in fused),
                drop,
                ms[1],
                ms[0],
                ms[2] if len(networks) > 2 else None,
                (ratio.value, ratio.low, ratio.high),
                (ms[3], ms[4]) if others else None,
            )
        )
        print(" | ".join(rows[-1].cells()), file=sys.stderr, flush=True)
    return rows


def compare_bits(path: Path, options: argparse.Namespace) -> None:
    """Compares the deployed model and the simulation of its plan on every image."""
    experiment = open_model(path, options, options.threads[0])
    proto = experiment.model.proto
    unfusable = explain_unfusable(proto)
    fused = [name for name in Network(proto, experiment.runtime).plan if name not in unfusable]
    every = Samples(experiment.dataset, np.arange(len(experiment.dataset), dtype=np.int64))
    simulated, deployed = (
        evaluate_model(model, every, runtime=experiment.runtime).outputs[0]
        for model in (proto, fuse_sites(proto, fused, ()))
    )
    same = (simulated == deployed).reshape(len(every), -1).all(axis=1)
    print(
        f"{path.name} ({instruction_set('int8')}): {len(fused)} sites fused, outputs of "
        f"{int(same.sum())} of {len(every)} images equal to the last bit"
    )
    if not same.all():
        raise SystemExit(1)


def to_row(value: dict[str, Any]) -> Row:
    """A row as it was written to JSON."""
    return replace(Row(**value), ratio=tuple(value["ratio"]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", type=Path, nargs="+", help="masked 8-bit models")
    parser.add_argument("--baseline", type=Path, help="float original, where it is not beside them")
    parser.add_argument("--data", help="images, where a model names no data set")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--isa", nargs="*", default=["", "avx512vnni"], help="kernels to time")
    parser.add_argument(
        "--fuse-all", action="store_true", help="every site, whether it pays or not"
    )
    parser.add_argument("--no-openvino", dest="openvino", action="store_false")
    parser.add_argument("--bits", action="store_true", help="compare outputs; time nothing")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    parser.add_argument("-o", "--output", type=Path, help="JSON: only the kernels of this process")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.bits:
        for path in options.models:
            compare_bits(path, options)
        return
    if options.output:
        found = [
            row for p in options.models for n in options.threads for row in measure(p, options, n)
        ]
        options.output.write_text(json.dumps([asdict(row) for row in found]))
        return
    rows = [to_row(row) for isa in options.isa for row in run_with(isa, __file__, given)]
    table = make_table(HEADER, [row.cells() for row in rows])
    print(table)
    if options.write:
        write_table(DOCUMENT, Path(__file__).name, table)


if __name__ == "__main__":
    main()
