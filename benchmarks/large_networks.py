"""What every stage costs on networks of ImageNet's size: seconds, processor seconds, peak memory.

VGG-16 and ResNet-50 of torchvision's shapes with drawn weights, 224 x 224. Each stage is one
command in a process of its own.

    python benchmarks/large_networks.py --network vgg16 --images 100 --memory 4G --threads 2

--images are the search and the select samples each; verify has twice as many. ``histogram`` runs
the code histograms of all sites and, for its ratio, the dense pass that they are counted in.

Peak memory is that of the process, or of a child of it where that is more. ``libraries`` is that
of a process that imports the stages and opens a session of one node; a step keeps to --memory
where its peak is at most 1.1 times that beside what the libraries take (``held``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.cli.quantities import parse_memory

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of the 3 x 3 convolutions; 0 is a pooling."""
RESNET50 = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Inner channels and blocks of each stage."""
_TELL = """
import atexit, pathlib, resource
def tell():
    from spatialonnx.runtime.resources import peak_memory
    children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    pathlib.Path("peak.txt").write_text(str(max(peak_memory(), children)))
atexit.register(tell)
"""
"""What a process runs first to say its peak: the one that its parent sees includes the parent's."""
RUN = f"{_TELL}\nfrom spatialonnx.cli import main\nmain()"
LIBRARIES = f"""{_TELL}
import numpy, scipy.stats, PIL.Image
import spatialonnx.cli.app, spatialonnx.deployment.run, spatialonnx.searching.run
from onnx import helper
from spatialonnx.runtime.session import open_session
x, y = (helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "none", [x], [y])
opsets = [helper.make_opsetid("", 17)]
open_session(helper.make_model(graph, ir_version=8, opset_imports=opsets)).run(
    {{"x": numpy.zeros(1, "f")}}
)
"""
"""A process that does nothing but what every command does."""
BOUNDED = "evaluate", "histogram", "search", "deploy"
STEPS = "insert", "evaluate", "histogram", "search", "deploy"
SIDE, CLASSES = 224, 1000


class Builder:
    """A graph that grows node by node, with weights drawn as He et al. (2015) start them."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns its output."""
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], output, **attributes))
        return output

    def weight(self, *shape: int, gain: float = 2.0) -> str:
        """Adds drawn weights; returns their name."""
        name = f"w_{len(self.weights)}"
        deviation = (gain / np.prod(shape[1:])) ** 0.5
        values = deviation * self._rng.standard_normal(shape, np.float32)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def bias(self, count: int) -> str:
        """Adds a drawn bias; returns its name."""
        name = f"b_{len(self.weights)}"
        values = (0.05 * self._rng.standard_normal(count)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """Adds a convolution; returns its output."""
        gain = 2.0 if kernel == 3 or inputs == 3 else 1.0
        weight = self.weight(outputs, inputs, kernel, kernel, gain=gain)
        pads, strides = [kernel // 2] * 4, [stride] * 2
        return self.op("Conv", x, weight, self.bias(outputs), pads=pads, strides=strides)

    def model(self, output: str) -> onnx.ModelProto:
        """The model of what was built."""
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", CLASSES])],
            self.weights,
        )
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def vgg16() -> onnx.ModelProto:
    """VGG-16, configuration D."""
    build = Builder()
    x, channels = "x", 3
    for width in VGG16:
        if width:
            x = build.op("Relu", build.conv(x, channels, width, 3))
            channels = width
        else:
            x = build.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = build.op("Flatten", x)
    sizes = channels * 7 * 7, 4096, 4096, CLASSES
    for k, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        x = build.op("Gemm", x, build.weight(outputs, inputs), build.bias(outputs), transB=1)
        x = x if k == 2 else build.op("Relu", x)
    return build.model(x)


def resnet50() -> onnx.ModelProto:
    """ResNet-50 with its BatchNormalizations folded into the convolutions."""
    build = Builder()
    x = build.op("Relu", build.conv("x", 3, 64, 7, 2))
    x = build.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (width, blocks) in enumerate(RESNET50):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inner = build.op("Relu", build.conv(x, channels, width, 1))
            inner = build.op("Relu", build.conv(inner, width, width, 3, stride))
            inner = build.conv(inner, width, 4 * width, 1)
            beside = x if block else build.conv(x, channels, 4 * width, 1, stride)
            x = build.op("Relu", build.op("Add", inner, beside))
            channels = 4 * width
    x = build.op("Flatten", build.op("GlobalAveragePool", x))
    return build.model(build.op("Gemm", x, build.weight(CLASSES, channels), transB=1))


NETWORKS = {"vgg16": vgg16, "resnet50": resnet50}


def write_files(network: str, images: int, folder: Path) -> None:
    """The model, and smooth noise in place of pictures."""
    onnx.save(NETWORKS[network](), str(folder / "m.onnx"))
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (4 * images, 28, 28, 3), dtype=np.uint8)
    pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)
    np.savez(folder / "d.npz", x=pixels, y=np.zeros(len(pixels), np.int64))


def measure(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Seconds, processor seconds and peak memory of a command, in a process of its own."""
    told = folder / "peak.txt"
    told.unlink(missing_ok=True)
    start = time.monotonic()
    with (folder / "out.txt").open("w+") as out, (folder / "err.txt").open("w+") as err:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        err.seek(0)
        said = err.read().strip()
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - start, 1),
        "processor": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(int(told.read_text()) / 2**20) if told.exists() else 0,
        **({"said": said[-300:]} if status else {}),
    }


def count(folder: Path, threads: int, patch_size: int, samples: int, memory: int | None) -> None:
    """The code histograms of all sites, as a search counts them; prints their time."""
    from spatialonnx.measure.experiment import Experiment
    from spatialonnx.measure.fitting import SEARCHING
    from spatialonnx.measure.opening import open_experiment
    from spatialonnx.model.model_file import load_model
    from spatialonnx.plan.patterns import full_pattern
    from spatialonnx.runtime.resources import peak_memory
    from spatialonnx.searching.modes import MODES
    from spatialonnx.searching.rate_distortion.code_tables import Choices, CodeTables
    from spatialonnx.searching.targets import Layout
    from spatialonnx.simulate.segmented import SegmentSimulator

    experiment: Experiment = open_experiment(
        load_model(folder / "m.spatial.onnx"),
        "npz:d.npz",
        {
            "threads": threads,
            "metric": "agreement",
            "search_samples": samples,
            "select_samples": samples,
            "verify_samples": 2 * samples,
            "accept_baseline": True,
            "memory": memory,
        },
        copies=SEARCHING,
    )
    simulator = SegmentSimulator(experiment, memory=memory)
    layout = Layout(simulator.sites, patch_size, 0)
    choices = Choices(list(range(1, full_pattern(patch_size))), (0.2, 0.5))
    begun, used = time.monotonic(), time.process_time()
    for site in simulator.sites:
        grain = MODES["uniform-patch"].grain
        for _ in CodeTables(simulator, [site.name], grain, layout, choices, {}):
            pass  # a pass over the activations for as many targets as memory has room for
    took = time.monotonic() - begun
    Path("peak.txt").write_text(str(peak_memory()))
    print(
        json.dumps(
            {
                "dense_seconds": round(simulator.seconds_per_pass, 1),
                "histogram_seconds": round(took, 1),
                "histogram_processor": round(time.process_time() - used, 1),
                "ratio": round(took / simulator.seconds_per_pass, 2),
            }
        )
    )


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The command of every step."""
    data = ["--data", "npz:d.npz", "--metric", "agreement"]
    threads = ["--threads", str(arguments.threads), "--quiet", "--force"]
    n = arguments.images
    parts = ["--search-samples", str(n), "--select-samples", str(n)]
    parts += ["--verify-samples", str(2 * n), "--accept-baseline"]
    bound = ["--memory", arguments.memory] if arguments.memory else []
    own = [] if arguments.unbounded else bound
    run = [sys.executable, "-c", RUN]
    size, patch_size = str(n), str(arguments.patch_size)
    search = ["--eps", str(arguments.eps), "--patch-size", patch_size, "--mode", arguments.mode]
    if arguments.time_budget:
        search += ["--time-budget", arguments.time_budget]
    counting = ["--count", "--threads", str(arguments.threads), "--images", size]
    counting += ["--patch-size", patch_size, "--memory", arguments.memory]
    script = [sys.executable, str(Path(__file__).resolve())]
    deployed = ["--data", "npz:d.npz", "--runs", "4", "--accept-baseline"]
    evaluated = ["--split", "search", *parts]
    table = {
        "insert": [*run, "insert", "m.onnx", *threads],
        "evaluate": [*run, "evaluate", "m.spatial.onnx", *data, *threads, *own, *evaluated],
        "histogram": [*script, *counting],
        "search": [*run, "search", "m.spatial.onnx", *search, *data, *threads, *parts, *bound],
        "deploy": [*run, "deploy", "m.masked.onnx", *deployed, *threads, *own],
    }
    return {name: table[name] for name in STEPS if name in arguments.steps.split(",")}


def main() -> int:
    """Runs the steps of one network and prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="resnet50", choices=list(NETWORKS))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--memory", default="4G")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patch-size", type=int, default=2)
    parser.add_argument("--mode", default="uniform-layer")
    parser.add_argument("--eps", type=float, default=0.05)
    parser.add_argument("--time-budget", default="")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--keep", type=Path, help="folder for the files; a later run uses them")
    parser.add_argument(
        "--unbounded", action="store_true", help="give --memory to search alone (older versions)"
    )
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        images, size = arguments.images, arguments.patch_size
        memory = parse_memory(arguments.memory or None)
        count(Path(), arguments.threads, size, images, memory)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        if not (folder / "m.onnx").exists():
            write_files(arguments.network, arguments.images, folder)
        libraries = measure([sys.executable, "-c", LIBRARIES], folder.resolve())["peak_mb"]
        print(json.dumps({"step": "libraries", "peak_mb": libraries}))
        for name, command in commands(arguments).items():
            if name == "deploy" and not (folder / "m.masked.onnx").exists():
                # Networks of drawn weights miss bounds; what their plan takes is measured anyway.
                command = [word.replace("m.masked.", "m.masked.missed.") for word in command]
            figures: dict[str, Any] = measure(command, folder.resolve())
            if arguments.memory and name in BOUNDED:
                allowed = 1.1 * (parse_memory(arguments.memory) or 0) / 2**20 + libraries
                figures |= {"allowed_mb": round(allowed), "held": figures["peak_mb"] <= allowed}
            print(json.dumps({"network": arguments.network, "step": name, **figures}))
            if name == "histogram" and not figures["code"]:
                print((folder / "out.txt").read_text().strip())
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
