"""Examines the environment: what spatialonnx needs, and whether it works."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from spatialonnx import __version__
from spatialonnx.data.builtin import BUILT_IN, find_set
from spatialonnx.errors import SpatialOnnxError
from spatialonnx.graph.ops import CODES, DOMAIN, VERSION
from spatialonnx.runtime.library import build_info, library_path
from spatialonnx.runtime.providers import cuda_unavailable
from spatialonnx.runtime.resources import available_threads
from spatialonnx.runtime.session import Runtime, open_session, runtime_version

_PACKAGES = (
    "numpy",
    "scipy",
    "onnx",
    "onnx-graphsurgeon",
    "filelock",
    "psutil",
    "typer",
    "rich",
    "pillow",
)


@dataclass(frozen=True)
class Finding:
    """One item that was checked.

    Attributes:
        what: The item.
        found: What was found.
        good: Whether it works.
        optional: Whether spatialonnx works without it.
    """

    what: str
    found: str
    good: bool = True
    optional: bool = False

    @property
    def state(self) -> str:
        """Its state in words: ok, - (missing, not needed) or BROKEN."""
        return "ok" if self.good else "-" if self.optional else "BROKEN"


def examine() -> list[Finding]:
    """Checks versions, providers, the op library and the data sets."""
    system = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    findings = [
        Finding("spatialonnx", __version__),
        Finding("python", f"{system}, {available_threads()} threads"),
    ]
    runtimes = _runtimes()
    for name in (*_PACKAGES, *runtimes):
        version = _version(name)
        findings.append(Finding(name, version or "not installed", good=bool(version)))
    findings.append(_one_runtime(runtimes))
    findings.append(_library())
    findings.append(_op("ops in ONNX Runtime", Runtime()))
    reason = cuda_unavailable()
    findings.append(Finding("provider CPU", "loads"))
    findings.append(Finding("provider CUDA", reason or "loads", not reason, optional=True))
    findings.append(_cuda_ops(loads=not reason))
    findings += [_data_set(name) for name in BUILT_IN]
    return findings


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _runtimes() -> list[str]:
    """The installed packages that ONNX Runtime is imported from; none for a build of one's own."""
    return sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", ())))


def _one_runtime(packages: list[str]) -> Finding:
    what = "one ONNX Runtime"
    if len(packages) > 1:
        found = (
            f"{' and '.join(packages)} are installed and overwrite each other: run pip uninstall "
            f"{' '.join(packages)}, then install one of them"
        )
        return Finding(what, found, good=False)
    return Finding(what, f"yes, version {runtime_version()}")


def _library() -> Finding:
    try:
        info = build_info()
        text = ", ".join(f"{key} {_short(value)}" for key, value in info.items())
        return Finding("op library", f"{library_path()} ({text})")
    except SpatialOnnxError as error:
        return Finding("op library", str(error), good=False)


def _cuda_ops(*, loads: bool) -> Finding:
    """Whether the op library has CUDA kernels, and whether they run where the provider loads."""
    what = "ops on CUDA"
    try:
        compiled = bool(build_info()["cuda"])
    except SpatialOnnxError as error:
        return Finding(what, str(error), good=False, optional=True)
    if not compiled:
        found = "not compiled in: nvcc did not work when the op library was built"
        return Finding(what, found, good=False, optional=True)
    if not loads:
        return Finding(what, "compiled in, nothing to run them on", good=False, optional=True)
    return _op(what, Runtime("cuda"))


def _op(what: str, runtime: Runtime) -> Finding:
    """Runs PatchCodes once, through ONNX Runtime."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(CODES, ["x", "p"], ["y"], "probe", domain=DOMAIN)],
        "doctor",
        [value("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [value("y", TensorProto.UINT16, [1, 1, 1, 1])],
        [helper.make_tensor("p", TensorProto.INT64, [], [2])],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, VERSION)]
    try:
        session = open_session(
            helper.make_model(graph, ir_version=8, opset_imports=opsets), runtime
        )
        (codes,) = session.run({"x": np.array([[[[0, 1], [2, 0]]]], np.float32)})
    except SpatialOnnxError as error:
        return Finding(what, str(error), good=False)
    good = int(codes.reshape(())) == 0b1001
    return Finding(what, "run" if good else "run wrongly: rebuild", good=good)


def _data_set(name: str) -> Finding:
    what = f"data set {name}"
    try:
        return Finding(what, str(find_set(BUILT_IN[name], "")))
    except SpatialOnnxError as error:
        return Finding(what, str(error), good=False, optional=True)


def _short(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
