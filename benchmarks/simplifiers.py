"""Which simplifier lets insert find the most sites and keeps outputs equal to the last bit?

Claim measured: on what exporters leave between a Conv and its ReLU, ONNX Runtime's own basic
optimiser (which insert uses) leaves at least as many sites as onnxslim and onnxsim and the fewest
nodes, and its result equals the original's outputs bit by bit at ORT_ENABLE_EXTENDED. The networks
are the tests' messy graphs, ResNet-like with 64 channels so that rounding shows, and architectures
of the onnx package.

    pip install onnxslim onnxsim
    python benchmarks/simplifiers.py
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.models import MESS, Net, channels_last, feeds
from support.networks import keras_mobilenet
from support.zoo import light_model

from spatialonnx.errors import ModelError
from spatialonnx.graph.simplify import prepare_model, simplify_model
from spatialonnx.graph.sites import find_sites
from spatialonnx.runtime.session import open_session

Simplifier = Callable[[onnx.ModelProto], onnx.ModelProto]


def wide(mess: str) -> onnx.ModelProto:
    """A residual network with 64 channels and foldable nodes after every Conv."""
    net = Net(("n", 3, 16, 16))
    x = net.relu(MESS[mess](net, net.conv("x", 64)))
    for _ in range(3):
        y = net.relu(MESS[mess](net, net.conv(x, 64)))
        y = MESS[mess](net, net.conv(y, 64))
        x = net.relu(net.node("Add", y, x))
    return net.model(net.head(x))


def networks(quick: bool) -> dict[str, Callable[[], onnx.ModelProto]]:
    table: dict[str, Callable[[], onnx.ModelProto]] = {mess: partial(wide, mess) for mess in MESS}
    table["NHWC, ReLU in NCHW"] = channels_last
    table["NHWC, ReLU in NHWC"] = lambda: channels_last(relu_inside=False)
    table["Keras, NHWC"] = keras_mobilenet
    if not quick:
        for name in ("squeezenet", "shufflenet", "inception_v2", "densenet121", "resnet50"):
            table[name] = partial(light_model, name)
    return table


def simplifiers() -> dict[str, Simplifier]:
    """The installed simplifiers; each works on a copy."""
    table: dict[str, Simplifier] = {"none": lambda proto: proto, "onnxruntime": simplify_model}
    for name, call in (
        ("onnxslim", lambda module, proto: module.slim(proto)),
        ("onnxsim", lambda module, proto: module.simplify(proto)[0]),
    ):
        try:
            module = importlib.import_module(name)
        except ImportError:
            print(f"{name} is not installed: left out", file=sys.stderr)
            continue
        table[name] = partial(call, module)
    return table


def measure(proto: onnx.ModelProto, simplifier: Simplifier, expected: Any) -> dict[str, Any]:
    arrays = feeds(proto)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    start = time.perf_counter()
    try:
        simple = simplifier(copy)
        seconds = time.perf_counter() - start
        got = open_session(simple, level="extended").run(arrays)
    except (ModelError, RuntimeError, ValueError, AttributeError, TypeError, KeyError) as error:
        return {"error": f"{type(error).__name__}: {str(error)[:60]}"}
    pairs = list(zip(expected, got, strict=True))
    return {
        "sites": len(find_sites(simple).sites),
        "nodes": len(simple.graph.node),
        "exact": all(np.array_equal(a, b) for a, b in pairs),
        "difference": max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--quick", action="store_true", help="leave out the networks of the onnx package"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    tools = simplifiers()
    rows: dict[str, dict[str, Any]] = {}
    for name, make in networks(arguments.quick).items():
        proto = prepare_model(make())
        expected = open_session(proto, level="extended").run(feeds(proto))
        rows[name] = {tool: measure(proto, tools[tool], expected) for tool in tools}
        if not arguments.json:
            print_row(name, rows[name])
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for tool in tools:
        done = [row[tool] for row in rows.values() if "error" not in row[tool]]
        print(
            f"{tool}: {sum(r['sites'] for r in done)} sites, "
            f"{sum(r['nodes'] for r in done)} nodes, "
            f"exact on {sum(r['exact'] for r in done)} of {len(rows)} networks, "
            f"{sum(r['seconds'] for r in done):.1f} s"
        )


def print_row(name: str, row: dict[str, dict[str, Any]]) -> None:
    cells = []
    for tool, result in row.items():
        if "error" in result:
            cells.append(f"{tool}: {result['error']}")
            continue
        exact = "exact" if result["exact"] else f"{result['difference']:.0e}"
        cells.append(f"{tool}: {result['sites']} sites {result['nodes']} nodes {exact}")
    print(f"{name:22} " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
