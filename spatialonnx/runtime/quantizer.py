"""ONNX Runtime's own static quantiser, also for models with the ops of this package.

ONNX Runtime calibrates in its own session, without custom ops. Here the calibrators' sessions have
the op library registered, so the ranges are those of the network with its predictions on, and
``quantize_static`` takes them from its calibration cache.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    calibrate,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from spatialonnx.errors import ModelError, SetupError, SpatialOnnxError, UsageError
from spatialonnx.runtime.ort import ort
from spatialonnx.runtime.session import Runtime, session_options

METHODS = ("minmax", "entropy", "percentile")
_METHODS = {
    "minmax": (calibrate.MinMaxCalibrater, CalibrationMethod.MinMax),
    "entropy": (calibrate.EntropyCalibrater, CalibrationMethod.Entropy),
    "percentile": (calibrate.PercentileCalibrater, CalibrationMethod.Percentile),
}
Feeds = Mapping[str, NDArray[Any]]


class _Batches(calibrate.CalibrationDataReader):  # type: ignore[misc]
    """Hands one batch to a calibrator."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds: Feeds | None = feeds

    def get_next(self) -> Feeds | None:
        """The batch, once."""
        feeds, self._feeds = self._feeds, None
        return feeds


def calibrate_ranges(
    proto: onnx.ModelProto,
    batches: Iterable[Feeds],
    runtime: Runtime,
    method: str = "minmax",
) -> Any:
    """Ranges of all float tensors of a model, as ONNX Runtime's calibrators choose them.

    Args:
        proto: A float model; it may hold ops of this package.
        batches: Inputs, by name.
        runtime: Threads; calibration runs on the CPU.
        method: ``minmax``, ``entropy`` or ``percentile``.

    Returns:
        ``onnxruntime.quantization.calibrate.TensorsData``.

    Raises:
        UsageError: The method is unknown, or there is no batch.
        ModelError: ONNX Runtime cannot run the model.
    """
    if method not in _METHODS:
        raise UsageError(f"--method {method}: use {', '.join(METHODS)}")
    try:
        return _calibrate(proto, batches, runtime, _METHODS[method][0])
    except (SpatialOnnxError, OSError):
        raise
    except Exception as error:  # the calibrator raises errors of every kind
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"ONNX Runtime cannot calibrate the model: {line}") from None


def _calibrate(
    proto: onnx.ModelProto,
    batches: Iterable[Feeds],
    runtime: Runtime,
    kind: Any,
) -> Any:
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(proto, path)
        augmented = Path(folder) / "augmented.onnx"
        calibrator = kind(path, augmented_model_path=str(augmented))
        calibrator.augment_graph()
        options = session_options(Runtime("cpu", runtime.threads))
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        calibrator.infer_session = ort.InferenceSession(
            str(augmented), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        empty = True
        for feeds in batches:
            with contextlib.redirect_stdout(io.StringIO()):  # some calibrators print
                calibrator.collect_data(_Batches(feeds))
            empty = False
        if empty:
            raise UsageError("there are no calibration images: give more with --data")
        with contextlib.redirect_stdout(io.StringIO()):
            return calibrator.compute_data()


def quantize_model(
    proto: onnx.ModelProto,
    ranges: Any,
    method: str,
    rename: Mapping[str, str],
    *,
    reduce_range: bool = False,
) -> onnx.ModelProto:
    """Quantises a float model by ``quantize_static``: QDQ, uint8 activations, int8 weights.

    Weights are quantised per channel. Other choices leave Convs in float on x86-64 or lose more.

    Args:
        proto: The float model, without ops of this package.
        ranges: What ``calibrate_ranges`` returned.
        method: The calibration method that it used.
        rename: Tensors whose range is another tensor's, by name.
        reduce_range: Weights of 7 bits.

    Raises:
        ModelError: ONNX Runtime cannot quantise the model.
        SetupError: This ONNX Runtime has no calibration cache.
    """
    if "calibration_cache_path" not in inspect.signature(quantize_static).parameters:
        raise SetupError(
            "this onnxruntime cannot quantise with given ranges: install onnxruntime 1.31 or newer"
        )
    data = dict(ranges.items())
    data |= {name: data[other] for name, other in rename.items() if other in data}
    ranges = calibrate.TensorsData(_METHODS[method][1], data)
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
        source, result = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        cache = Path(folder) / "ranges.json"
        calibrate.save_tensors_data(ranges, cache)
        onnx.save(proto, source)
        try:
            quant_pre_process(
                str(source), str(source), skip_optimization=True, skip_symbolic_shape=True
            )
            quantize_static(
                str(source),
                str(result),
                None,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=_METHODS[method][1],
                calibration_cache_path=str(cache),
            )
        except Exception as error:  # the quantiser raises errors of every kind
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(f"ONNX Runtime cannot quantise the model: {line}") from None
        return onnx.load(str(result))
