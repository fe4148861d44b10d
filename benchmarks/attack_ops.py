"""Runs drawn nodes of every op: random types, shapes, attributes, masks and threads.

Each case must end with outputs or with an error of ONNX Runtime; a crash ends the process, and the
next one goes on behind it. Under the sanitizers (``.ci/sanitize`` builds them and says how they
are loaded) any access outside of a buffer is a crash too:

    python benchmarks/attack.py --part ops --count 100000 --seed 7
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

TYPES = (np.float32, np.uint8, np.int8, np.uint16, np.int32, np.int64, np.float16, np.float64)
FLOAT, U8, S8, U16, S32, S64 = np.float32, np.uint8, np.int8, np.uint16, np.int32, np.int64
EXTREME = (-1, 0, 1, 2, 3, 4, 7, 64, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1)
ISAS = "", "", "reference"


class Case:
    """One node: what it is and what it is fed."""

    def __init__(self, rng: random.Random) -> None:
        """Draws a case that is right, then spoils some of it."""
        self.rng = rng
        self.array = np.random.default_rng(rng.getrandbits(32))
        self.op = rng.choice(("SpatialPredict", "PatchCodes", "SpatialConv", "SpatialQConv"))
        self.op = rng.choice((self.op, "SnapeaConv", self.op, self.op))
        self.patch_size = rng.choice((2, 3, 4))
        self.inputs: dict[str, Any] = {}
        self.attributes: dict[str, Any] = {}
        self.outputs = 3
        {
            "SpatialPredict": self._predict,
            "PatchCodes": self._codes,
            "SpatialConv": self._conv,
            "SpatialQConv": self._qconv,
            "SnapeaConv": self._snapea,
        }[self.op]()
        self.constant = {name for name in self.present if name not in ("X", "residual")}
        if self.op in ("SpatialPredict", "PatchCodes"):
            self.constant = {name for name in self.constant if rng.random() < 0.5}
        for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2, 4))):
            self._spoil()

    def model(self) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The model of the node, and its feeds."""
        value = helper.make_tensor_value_info
        kinds = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in self.present.items()}
        fed = [name for name in self.present if name not in self.constant]
        names = ["" if array is None else name for name, array in self.inputs.items()]
        while names and not names[-1]:
            names.pop()
        outputs = ["Y", "skipped", "macs"][: self.outputs]
        node = helper.make_node(
            self.op, names, outputs, "n", domain="spatialonnx", **self.attributes
        )
        graph = helper.make_graph(
            [node],
            "case",
            [value(name, kinds[name], [None] * self.present[name].ndim) for name in fed],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(self.present[name], name) for name in self.constant],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("spatialonnx", 2)]
        model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
        return model, {name: self.present[name] for name in fed}

    @property
    def present(self) -> dict[str, Any]:
        """The inputs that are not left out."""
        return {name: array for name, array in self.inputs.items() if array is not None}

    # -- right cases ---------------------------------------------------------------------------

    def _map(self) -> tuple[int, int, int, int]:
        rng = self.rng
        return rng.choice((0, 1, 1, 2)), rng.randrange(1, 9), rng.randrange(12), rng.randrange(12)

    def _draw(self, kind: Any, shape: tuple[int, ...]) -> Any:
        if np.dtype(kind).kind == "f":
            values = self.array.normal(0, 2, shape).astype(kind)
            if values.size and self.rng.random() < 0.1:
                values.flat[self.rng.randrange(values.size)] = self.rng.choice(
                    (np.nan, np.inf, -np.inf, 1e38, -0.0)
                )
            return values
        bounds = np.iinfo(kind)
        low, high = max(bounds.min, -(1 << 31)), min(bounds.max, 1 << 31)
        return self.array.integers(low, high, shape, dtype=np.int64, endpoint=True).astype(kind)

    def _mask(self, channels: int, height: int, width: int) -> Any:
        p = self.patch_size
        rows, columns = max(-(-height // p), 1), max(-(-width // p), 1)
        shapes = (1, 1, 1), (channels, 1, 1), (1, rows, columns), (channels, rows, columns)
        shape = self.rng.choice(shapes)
        return self.array.integers(1, 1 << (p * p), shape, dtype=np.int64).astype(U16)

    def _maybe(self, array: Any) -> Any:
        return array if self.rng.random() < 0.5 else None

    def _predict(self) -> None:
        kind = self.rng.choice((FLOAT, FLOAT, U8, S8))
        shape = self._map()
        own = FLOAT if kind is FLOAT else U8
        self.inputs = {
            "X": self._draw(kind, shape),
            "mask": self._mask(*shape[1:]),
            "patch_size": np.array(self.patch_size, S64),
            "threshold": self._maybe(np.abs(self._draw(own, (self.rng.choice((1, shape[1])),)))),
            "zero_point": None if kind is FLOAT else self._maybe(self._draw(kind, ())),
        }

    def _codes(self) -> None:
        self._predict()
        del self.inputs["mask"]
        self.outputs = 1

    def _shape_of_conv(self) -> tuple[Any, ...]:
        rng = self.rng
        group = rng.choice((1, 1, 1, 2, 3))
        inputs, outputs = rng.randrange(1, 20), group * rng.randrange(1, 20)
        kernel = rng.choice(((1, 1), (3, 3), (3, 3), (2, 5), (7, 1)))
        strides = [rng.choice((1, 1, 2, 3)) for _ in range(2)]
        dilations = [rng.choice((1, 1, 2, 100_000 if k == 3 else 1)) for k in kernel]
        far = max(dilations) > 2
        # Of a kernel of three far taps only the middle one sees the map.
        pads = [d if d > 2 else rng.randrange(3) for d in dilations] * 2
        size = [rng.randrange(k, k + 12) for k in kernel]
        x = rng.choice((0, 1, 1, 2)), inputs * group, *size
        self.attributes = {"group": group, "strides": strides, "dilations": dilations, "pads": pads}
        if rng.random() < 0.3 and not far:
            del self.attributes["pads"]
            self.attributes["auto_pad"] = rng.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
        y = []
        for k, n in enumerate(size):
            reach = (kernel[k] - 1) * dilations[k] + 1
            if self.attributes.get("auto_pad", "VALID") != "VALID":
                y.append(-(-n // strides[k]))
            else:
                both = pads[k] + pads[k + 2] if "pads" in self.attributes else 0
                y.append(max((n + both - reach) // strides[k] + 1, 1))
        return x, (outputs, inputs, *kernel), (x[0], outputs, *y)

    def _conv(self) -> None:
        x, w, y = self._shape_of_conv()
        self.attributes["patch_size"] = self.patch_size
        if self.rng.random() < 0.3:
            self.attributes["clip_max"] = 6.0
        self.inputs = {
            "X": self._draw(FLOAT, x),
            "W": self._draw(FLOAT, w),
            "mask": self._mask(*y[1:]),
            "B": self._maybe(self._draw(FLOAT, w[:1])),
            "residual": self._maybe(self._draw(FLOAT, y)),
            "threshold": self._maybe(np.abs(self._draw(FLOAT, w[:1]))),
        }

    def _qconv(self) -> None:
        x, w, y = self._shape_of_conv()
        self.attributes["patch_size"] = self.patch_size
        one = np.array([0.02], FLOAT)
        residual = self._maybe(self._draw(U8, (y[0], y[2], y[3], y[1])))
        given = residual is not None
        self.inputs = {
            "X": self._draw(U8, (x[0], x[2], x[3], x[1])),
            "x_scale": one,
            "x_zero_point": self._draw(U8, (1,)),
            "W": self._draw(S8, w),
            "w_scale": np.full(self.rng.choice((1, w[0])), 0.01, FLOAT),
            "y_scale": one,
            "y_zero_point": self._draw(U8, (1,)) // 2,
            "mask": self._mask(*y[1:]),
            "B": self._maybe(self._draw(S32, w[:1]) // 1000),
            "residual": residual,
            "residual_scale": one if given else None,
            "residual_zero_point": self._draw(U8, (1,)) if given else None,
            "conv_scale": one if given else None,
            "conv_zero_point": self._draw(U8, (1,)) if given else None,
            "threshold": self._maybe(self._draw(U8, w[:1])),
        }

    def _snapea(self) -> None:
        x, w, y = self._shape_of_conv()
        self.attributes["patch_size"] = self.patch_size
        taps = w[1] * w[2] * w[3]
        heads = self._maybe(self.array.integers(0, taps + 1, w[:1]))
        mask = self._maybe(self._mask(*y[1:]))
        self.outputs = 2
        self.inputs = {
            "X": np.abs(self._draw(FLOAT, x)),
            "W": self._draw(FLOAT, w),
            "B": self._maybe(self._draw(FLOAT, w[:1])),
            "residual": self._maybe(self._draw(FLOAT, y)),
            "heads": heads,
            "threshold": None if heads is None else self._draw(FLOAT, w[:1]),
            "mask": mask,
            "mask_threshold": None if mask is None else self._maybe(np.ones(1, FLOAT)),
        }

    # -- wrong ones ----------------------------------------------------------------------------

    def _spoil(self) -> None:
        rng = self.rng
        name = rng.choice(list(self.inputs))
        array = self.inputs[name]
        kind = rng.choice(("type", "shape", "values", "attribute", "attribute", "drop", "feed"))
        if kind == "attribute" or array is None:
            self._spoil_attribute()
        elif kind == "type":
            self.inputs[name] = self._draw(rng.choice(TYPES), array.shape)
        elif kind == "shape":
            axes = [rng.choice((0, 1, 2, 3, 5)) for _ in range(rng.choice((0, 1, 2, 3, 4, 5)))]
            self.inputs[name] = self._draw(array.dtype, tuple(axes))
        elif kind == "values":
            self.inputs[name] = self._draw(array.dtype, array.shape)
        elif kind == "drop":
            self.inputs[name] = None
        else:
            self.constant ^= {name}
        self.constant &= self.present.keys()

    def _spoil_attribute(self) -> None:
        rng = self.rng
        known = "pads", "strides", "dilations", "group", "patch_size", "kernel_shape", "clip_max"
        name = rng.choice((*known, "y_max", "residual_first", "auto_pad", "other"))
        whole = rng.choice(EXTREME)
        values: list[Any] = [whole, [whole] * rng.randrange(1, 5), [rng.choice(EXTREME)] * 2]
        values += [0.5, float("nan"), [0.5, 1.5], "VALID", ["a", "b"], [whole, 1, 1, whole]]
        values.append(numpy_helper.from_array(np.ones(2, S64), "t"))
        self.attributes[name] = rng.choice(values)


def run_cases(seed: int, first: int, count: int) -> dict[str, int]:
    """Runs cases in this process; says where it is before each, in a file.

    The file has the number of the case and how many before it gave outputs, and an error.

    Returns:
        How many gave outputs, and how many an error.
    """
    import onnxruntime as ort

    from spatialonnx.runtime.library import library_path

    ended = {"outputs": 0, "errors": 0}
    place = os.environ.get("ATTACK_AT", os.devnull)
    with Path(place).open("w", encoding="ascii") as at:
        for number in range(first, first + count):
            at.seek(0)
            at.write(f"{number:12d} {ended['outputs']:12d} {ended['errors']:12d}")
            at.flush()
            rng = random.Random(f"{seed}/{number}")
            case = Case(rng)
            os.environ["SPATIALONNX_ISA"] = rng.choice(ISAS)
            options = ort.SessionOptions()
            options.intra_op_num_threads = rng.choice((1, 1, 2, 3))
            options.log_severity_level = 4
            options.register_custom_ops_library(str(library_path()))
            model, feeds = case.model()
            try:
                session = ort.InferenceSession(
                    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
                for _ in range(rng.choice((1, 1, 2))):
                    session.run(None, feeds)
                ended["outputs"] += 1
            except Exception as error:
                ended["errors"] += 1
                if "std::" in str(error) and "bad_alloc" not in str(error):
                    print(f"case {number}: {error}", file=sys.stderr)
    return ended
