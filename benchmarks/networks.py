"""Inserts predictions into networks of many origins and writes the table of docs/networks.md.

Claim measured: sites are found in every kind of ONNX CNN, each other Conv has a reason, and with
full masks outputs are equal to the last bit at ORT_ENABLE_EXTENDED and within 1e-5 of the
largest output at the default level.

    python benchmarks/networks.py              # prints the table
    python benchmarks/networks.py --write      # also puts it into docs/networks.md

The detector and the segmentation network need torch; without it they are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.models import channels_last, feeds, messy, plain
from support.networks import keras_mobilenet, pixel_shuffle, quantised, squeeze_excite
from support.zoo import light_model

from spatialonnx.errors import ModelError
from spatialonnx.graph.insert import insert

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "networks.md"
BEGIN, END = "<!-- table: benchmarks/networks.py --write -->", "<!-- end of table -->"
Maker = Callable[[], onnx.ModelProto]

LIGHT = {
    "AlexNet": "bvlc_alexnet",
    "ZFNet-512": "zfnet512",
    "VGG-19": "vgg19",
    "SqueezeNet": "squeezenet",
    "Inception v1": "inception_v1",
    "Inception v2": "inception_v2",
    "ResNet-50": "resnet50",
    "DenseNet-121": "densenet121",
    "ShuffleNet": "shufflenet",
}


def int8() -> onnx.ModelProto:
    proto = plain(depth=3)
    return quantised(proto, feeds(proto, batch=8)["x"])


def networks() -> dict[str, tuple[str, Maker]]:
    """Origin and builder of each network, by name."""
    table: dict[str, tuple[str, Maker]] = {
        name: ("onnx package", partial(light_model, file)) for name, file in LIGHT.items()
    }
    table |= torch_networks()
    table["MobileNet-like, NHWC"] = ("as Keras, written by hand", keras_mobilenet)
    table["NHWC, ReLU in NCHW"] = ("written by hand", channels_last)
    table["BatchNorm as Sub/Mul/Add"] = ("written by hand", lambda: messy("Sub/Mul/Add"))
    table["Transpose islands"] = ("written by hand", lambda: messy("Transpose island"))
    table["super-resolution"] = ("written by hand", pixel_shuffle)
    table["squeeze-and-excite"] = ("written by hand", squeeze_excite)
    table["QDQ int8"] = ("ONNX Runtime's quantiser", int8)
    return table


def torch_networks() -> dict[str, tuple[str, Maker]]:
    try:
        from models.detector import Detector
        from models.plain_export import export_plainly
        from models.segmenter import Segmenter
    except ImportError:
        print("torch is not installed: its networks are left out", file=sys.stderr)
        return {}
    return {
        "detector, two scales": (
            "torch, models/detector.py",
            lambda: export_plainly(Detector(), (3, 64, 64), ["boxes", "scores"]),
        ),
        "U-Net": (
            "torch, models/segmenter.py",
            lambda: export_plainly(Segmenter(), (3, 32, 32), ["logits"]),
        ),
    }


def row(name: str, origin: str, make: Maker) -> str:
    proto = make()
    convs = sum(node.op_type == "Conv" for node in proto.graph.node)
    start = time.perf_counter()
    try:
        result = insert(proto)
    except ModelError as error:
        return f"| {name} | {origin} | {convs} | refused | {error} | |"
    seconds = time.perf_counter() - start
    reasons = Counter(shorten(entry.reason) for entry in result.skipped)
    skipped = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common()) or "none"
    macs = result.conv_macs
    exact = "exact" if result.difference.exact else "equal to the simplified graph"
    print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    size = "any size" if macs is None else f"{macs / 1e6:,.{0 if macs >= 1e7 else 2}f} M"
    return (
        f"| {name} ({size}) | {origin} | {convs} | {len(result.sites)} | {skipped} | "
        f"{exact}; {result.difference.largest:.0e} |"
    )


def shorten(reason: str) -> str:
    """Removes names of Convs from a reason, so that equal reasons are counted together."""
    if "in a residual Add;" in reason:
        return "meets another Conv in a residual Add, which is charged; this one stays dense"
    return reason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    parser.add_argument("--only", default="", help="only networks whose name contains this text")
    arguments = parser.parse_args()
    lines = [
        "| network (MACs of an image) | from | Convs | sites | Convs left out, and why "
        "| outputs with full masks |",
        "|---|---|---|---|---|---|",
    ]
    for name, (origin, make) in networks().items():
        if arguments.only.lower() in name.lower():
            lines.append(row(name, origin, make))
    print("\n".join(lines))
    if arguments.write:
        head, _, rest = DOCUMENT.read_text().partition(BEGIN)
        tail = rest.partition(END)[2]
        DOCUMENT.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}")


if __name__ == "__main__":
    main()
