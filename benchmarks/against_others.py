"""Claim: a tuned network in 8 bit beats what an engineer would use instead. Losses are printed too.

    python benchmarks/against_others.py --search vgg6 --prepare
    python benchmarks/against_others.py --search vgg6 --write

Every network is given as NAME=ORIGINAL[,TUNED[,THINNER]]: the dense network, the same one tuned
(with its plan, or without: then one probe per 2 x 2 patch), and a thinner dense network of about
the MACs that the tuned one keeps: a file (``benchmarks/tuning.py --rival`` trains one), or a
network of ``models/`` with its width, for example ``resnet18-w41``, which is timed with random
weights and has no accuracy. Systems: ONNX Runtime and OpenVINO in float32 and in 8 bit (the same
QDQ file), ours in both, not tuned and tuned, and the thinner network.

``--prepare`` makes the files and counts accuracy on verify images; it takes minutes, its
stages are kept, and the same command continues. Without it only latencies and peak memory are
measured, run by run in turns, all systems in one process, which takes a few minutes and wants a
quiet machine; times are kept as well, and ``--kept`` makes the table of the last ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spatialonnx.deployment.quantize import quantize
from spatialonnx.deployment.run import deploy
from spatialonnx.graph.insert import insert
from spatialonnx.measure.evaluate import evaluate
from spatialonnx.measure.opening import open_experiment
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.optimizing.results_folder import ResultsFolder, StageResult
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.runtime.peak_memory import measure_peak
from spatialonnx.runtime.resources import peak_memory
from spatialonnx.runtime.session import Runtime, Session
from spatialonnx.runtime.timing import Timing, compare_timings, open_timed, time_alternately
from spatialonnx.searching.api import search

DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN = "<!-- table: benchmarks/against_others.py --write -->"
END = "<!-- end of table -->"
SHIPPED = "models/pretrained/vgg6-fashion-mnist"
VGG6 = f"vgg6={SHIPPED}.onnx,{SHIPPED}.tuned.masked.onnx"
DATA = "fashion-mnist"
EPS = "0.005"
SEARCH_SECONDS = 60.0
"""Of trials, for the rows that are not tuned."""
ROUNDS, IMAGES = 20, 32
FEW: Any = {"verify_samples": 1000}
"""What the stages count on; accuracy is counted by itself."""
REFERENCE = "ONNX Runtime int8"
TIMES = "times.json"


@dataclass(frozen=True)
class Network:
    """One network: its files.

    Attributes:
        name: Its name.
        original: The dense network.
        tuned: The tuned one.
        thinner: The thinner one: a file, or a name and a width of ``models/``.
    """

    name: str
    original: Path
    tuned: Path | None = None
    thinner: Path | None = None

    @property
    def trained(self) -> bool:
        """Whether the thinner network is a file."""
        return self.thinner is not None and self.thinner.suffix == ".onnx"

    @staticmethod
    def parse(text: str) -> Network:
        """Reads NAME=ORIGINAL[,TUNED[,THINNER]]; a part may be empty."""
        name, _, rest = text.partition("=")
        files = [Path(part) if part else None for part in rest.split(",")]
        original, tuned, thinner = (*files, None, None)[:3]
        if original is None:
            raise SystemExit(f"{text}: give NAME=ORIGINAL[,TUNED[,THINNER]]")
        return Network(name, original, tuned, thinner)


@dataclass(frozen=True)
class System:
    """One row: a runtime with a file per number of threads.

    Attributes:
        name: The row's name.
        files: By number of threads.
        engine: ``ort`` or ``openvino``.
        trained: Whether it has an accuracy.
    """

    name: str
    files: Mapping[int, Path]
    engine: str = "ort"
    trained: bool = True

    def file(self, threads: int) -> Path:
        """The file for a number of threads."""
        return self.files[threads]


class OpenVinoSession:
    """A model in OpenVINO, with what ``time_alternately`` uses of a session."""

    def __init__(self, path: Path, shape: Sequence[int], threads: int) -> None:
        """Compiles the model for one shape of images."""
        import openvino

        model = openvino.Core().read_model(path)
        self._name = model.inputs[0].any_name
        model.reshape({self._name: list(shape)})
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(self, feeds: Mapping[str, Any], _names: object = None) -> list[Any]:
        """Runs one batch."""
        (images,) = feeds.values()
        return list(self._request.infer({self._name: images}).values())

    def like(self, session: Session) -> OpenVinoSession:
        """The same, with the inputs of a session of ONNX Runtime."""
        self.inputs = session.inputs
        return self


class Preparation:
    """The files of one network."""

    def __init__(
        self, network: Network, folder: Path, threads: Sequence[int], verify: int, *, search: bool
    ) -> None:
        """Opens the folder."""
        self._sizes: Any = {"verify_samples": verify}
        self._search = search
        self._network = network
        self._source = load_model(network.original)
        self._threads = threads
        self.results = ResultsFolder(folder / network.name, self._source.sha256, force=True)

    @property
    def image(self) -> tuple[int, int, int, int]:
        """The shape of a batch of one image."""
        _, channels, height, width = find_image_input(model_inputs(self._source.proto)).shape
        assert channels is not None and height is not None and width is not None
        return 1, channels, height, width

    def systems(self) -> list[System]:
        """Every system, its files made where they are missing."""
        network, int8 = self._network, self._int8()
        both = dict.fromkeys(self._threads, network.original)
        quantized = dict.fromkeys(self._threads, int8)
        rows = [
            System("ONNX Runtime float32", both),
            System(REFERENCE, quantized),
            System("OpenVINO float32", both, "openvino"),
            System("OpenVINO int8", quantized, "openvino"),
        ]
        for precision in ("float32", "int8") if self._search else ():
            files = {t: self._deployed(self._searched(precision), precision, "", t)
                     for t in self._threads}  # fmt: skip
            rows.append(System(f"ours {precision}, not tuned", files))
        if network.tuned is not None:
            for precision in ("float32", "int8"):
                files = {t: self._deployed(self._tuned(precision), precision, "tuned", t)
                         for t in self._threads}  # fmt: skip
                rows.append(System(f"ours {precision}, tuned", files))
        if network.thinner is not None:
            thin = network.thinner if network.trained else self._untrained(str(network.thinner))
            for precision in ("float32", "int8"):
                name = f"thinner, {precision}"
                path = thin
                if precision == "int8":
                    path = self._quantized(thin, "thinner.int8.onnx")
                files = dict.fromkeys(self._threads, path)
                rows.append(System(name, files, trained=network.trained))
        return rows

    def accuracy(self, system: System) -> float:
        """Top-1 on verify, counted once; OpenVINO runs it itself."""
        path = system.file(min(self._threads))

        def make() -> StageResult:
            if system.engine == "ort":
                found = evaluate(path, DATA, split="verify", provider="cpu", **self._sizes)
                score = (found.top1 or 0) / found.samples
            else:
                options: Any = {"provider": "cpu", **self._sizes}
                verify = open_experiment(load_model(path), DATA, options).verify
                shape = [100, *verify.dataset.images(verify.indices[:1]).shape[1:]]
                session = OpenVinoSession(path, shape, 2)
                answers = [
                    np.argmax(session.run({"x": images})[0], 1) for images in verify.batches(100)
                ]
                score = float((np.concatenate(answers) == verify.labels).mean())
            return StageResult({"score": score})

        key = {"file": load_model(path).sha256, "engine": system.engine, **self._sizes}
        return float(self.results.run(f"accuracy {system.name}", key, make).facts["score"])

    def _run(self, name: str, source: Path, make: Any) -> Path:
        def stage() -> StageResult:
            print(f"  {self._network.name}: {name}", file=sys.stderr, flush=True)
            path = self.results.path(name)
            make(path)
            return StageResult({}, path)

        found = self.results.run(name, {"source": load_model(source).sha256}, stage)
        assert found.path is not None
        return found.path

    def _untrained(self, text: str) -> Path:
        """A network of ``models/`` before its training: it takes the same time."""
        from models.export import export_onnx  # needs torch
        from models.networks import NetworkSpec, build_network

        name, _, width = text.rpartition("-w")
        _, channels, size, _ = self.image
        spec = NetworkSpec(name, 10, channels, int(width), size)

        def make(path: Path) -> None:
            save_model(export_onnx(build_network(spec).eval(), (channels, size, size), {}), path)

        return self._run(f"{text}.onnx", self._network.original, make)

    def _quantized(self, source: Path, name: str) -> Path:
        original = None if name.startswith("thinner") else self._source
        options = {**FEW, **({} if original is None else {"baseline": original})}
        return self._run(name, source, lambda to: quantize(source, DATA, **options).save(to))

    def _int8(self) -> Path:
        return self._quantized(self._network.original, "int8.onnx")

    def _searched(self, precision: str) -> Path:
        """The plan of a search by latency, in floats or on the quantised model."""
        source = self._network.original
        spatial = self._run("spatial.onnx", source, lambda to: insert(source).save(to))
        options: Any = {}
        if precision == "int8":
            spatial = self._quantized(spatial, "int8.spatial.onnx")
            options["baseline"] = self._source
        name = f"searched.{precision}.masked.onnx"

        def make(path: Path) -> None:
            study = path.with_suffix(".study.db")
            found = search(
                spatial,
                DATA,
                eps=EPS,
                goal="latency",
                study=study,
                time_budget=SEARCH_SECONDS,
                **options,
            )
            save_model(found.model, path)

        return self._run(name, spatial, make)

    def _tuned(self, precision: str) -> Path:
        source = self._network.tuned
        assert source is not None
        if load_model(source).stage != "masked":
            plain = source
            source = self._run(
                "tuned.masked.onnx", plain, lambda to: insert(plain, pattern="1000").save(to)
            )
        return source if precision == "float32" else self._quantized(source, "tuned.int8.onnx")

    def _deployed(self, masked: Path, precision: str, kind: str, threads: int) -> Path:
        name = f"{kind or 'searched'}.{precision}.{threads}.deploy.onnx"
        against: Any = {} if not kind and precision == "float32" else {"baseline": self._source}

        def make(path: Path) -> None:
            found = deploy(masked, DATA, threads=threads, runs=5, **FEW, **against)
            save_model(found.model, path)

        return self._run(name, masked, make)


def time_systems(
    systems: Sequence[System], batch: int, threads: int, images: np.ndarray[Any, Any]
) -> list[Timing]:
    """Latencies of all systems, taken in turns."""
    runtime = Runtime("cpu", threads)
    batches = np.split(images[: len(images) // batch * batch], len(images) // batch)
    reference = open_timed(systems[0].file(threads), runtime)
    sessions: list[Any] = [
        open_timed(system.file(threads), runtime)
        if system.engine == "ort"
        else OpenVinoSession(system.file(threads), batches[0].shape, threads).like(reference)
        for system in systems
    ]
    return list(time_alternately(sessions, batches, ROUNDS, burst=3))


def peak_of(system: System, shape: Sequence[int]) -> int | None:
    """Bytes that loading and running adds to a process, with one thread."""
    path = system.file(min(system.files))
    if system.engine == "ort":
        return measure_peak(path, shape, Runtime("cpu", 1))
    command = [sys.executable, __file__, "--peak", str(path), *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.stdout.strip().isdigit() else None


def print_peak(path: Path, shape: Sequence[int]) -> None:
    """What ``peak_of`` runs for OpenVINO in a process of its own."""
    import openvino  # noqa: F401

    before = peak_memory()
    session = OpenVinoSession(path, shape, 1)
    for _ in range(3):
        session.run({"x": np.zeros(shape, np.float32)})
    print(peak_memory() - before)


def measure(
    network: Network, made: Preparation, threads: Sequence[int], sizes: Sequence[int]
) -> None:
    """Times all systems of a network, and keeps the times in its folder."""
    systems = made.systems()
    experiment = open_experiment(load_model(network.original), DATA, {"provider": "cpu"})
    images = experiment.dataset.images(experiment.split.search[:IMAGES])
    found = []
    for case in product(sizes, threads):
        times = time_systems(systems, *case, images)
        found.append([case, [timing.seconds.tolist() for timing in times]])
    made.results.path(TIMES).write_text(json.dumps(found), encoding="utf-8")


def table(network: Network, made: Preparation) -> list[str]:
    """The rows of one network, with the times that were kept."""
    systems = made.systems()
    kept = json.loads(made.results.path(TIMES).read_text(encoding="utf-8"))
    times = {tuple(case): [Timing(np.array(row)) for row in rows] for case, rows in kept}
    cases = list(times)
    position = [system.name for system in systems].index(REFERENCE)
    heads = [f"batch {size}, {count} thread{'s' * (count > 1)}: ms" for size, count in cases]
    columns = [network.name, "top-1", "drop, points", *heads, "MB", "peak MB"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    dense = made.accuracy(systems[0])
    for number, system in enumerate(systems):
        cells = [system.name, "not trained", "-"]
        if system.trained:
            score = made.accuracy(system)
            cells[1:] = [f"{100 * score:.2f} %", f"{100 * (dense - score):+.2f}"]
        for case in cases:
            ratio = compare_timings(times[case][number], times[case][position])
            cells.append(f"{1e3 * times[case][number].median:.2f} ({ratio.value:.2f})")
        path = system.file(min(system.files))
        peak = peak_of(system, made.image)
        size = path.stat().st_size
        cells += [f"{size / 1e6:.1f}", "-" if peak is None else f"{peak / 1e6:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=[VGG6], help="NAME=ORIGINAL,TUNED,THINNER")
    parser.add_argument("--prepare", action="store_true", help="only make the files")
    parser.add_argument("--kept", action="store_true", help="take the times of the last run")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--verify-samples", type=int, default=5000)
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="NAME",
        help="also this network in ours without tuning, with a search of a minute",
    )
    parser.add_argument("--folder", type=Path, default=Path("build/against_others"))
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT}")
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak:
        path, *shape = options.peak
        print_peak(Path(path), [int(size) for size in shape])
        return
    import openvino

    networks = [Network.parse(text) for text in options.networks]
    lines: list[str] = []
    for network in networks:
        made = Preparation(
            network,
            options.folder,
            options.threads,
            options.verify_samples,
            search=network.name in options.search,
        )
        with made.results.locked():
            if options.prepare:
                for system in made.systems():
                    found = made.accuracy(system) if system.trained else "not trained"
                    print(network.name, system.name, found, flush=True)
                continue
            if not options.kept:
                measure(network, made, options.threads, options.batch)
            lines += [*table(network, made), ""]
    if options.prepare:
        return
    machine, known = describe_machine(), versions()
    lines.append(
        f"{machine['processor']}, {machine['processors']} processors, {instruction_set()}, 8 bit "
        f"{instruction_set('int8')}; onnxruntime {known['onnxruntime']}, openvino "
        f"{openvino.__version__.split('-')[0]}. In brackets: as a multiple of {REFERENCE}."
    )
    print("\n".join(lines))
    (options.folder / "table.json").write_text(json.dumps(lines), encoding="utf-8")
    if options.write:
        head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        text = f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}"
        DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
