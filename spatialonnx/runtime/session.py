"""ONNX Runtime sessions, with the op library registered."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.errors import (
    MORE_MEMORY,
    LibraryError,
    ModelError,
    NotEnoughMemoryError,
    ProviderError,
    SpatialOnnxError,
)
from spatialonnx.model.interface import TensorInfo
from spatialonnx.model.model_file import PROTOBUF_LIMIT, save_model, self_contained
from spatialonnx.model.shared_weights import release_weights, share_weights, shared_folder
from spatialonnx.runtime.library import library_path
from spatialonnx.runtime.messages import explain
from spatialonnx.runtime.ort import ort
from spatialonnx.runtime.resources import available_threads, trim_memory
from spatialonnx.runtime.run_limit import limited

Level = Literal["extended", "all"]
_LEVELS = {
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
"""float32 without TF32, and a deterministic algorithm, no autotuning."""
_WEIGHTS = "session.model_external_initializers_file_folder_path"
FATAL = 4
"""ORT's log level for fatal errors only: errors are raised, not logged."""


@dataclass(frozen=True)
class Runtime:
    """How sessions run: provider and threads.

    Attributes:
        provider: ``cpu`` or ``cuda``.
        threads: Threads within an op.
    """

    provider: Literal["cpu", "cuda"] = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        """Fills in the number of threads: the processors this process may use."""
        if self.threads <= 0:
            object.__setattr__(self, "threads", available_threads())


_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory")


def _known(error: Exception, what: str) -> SpatialOnnxError:
    """This package's error for one of ORT's."""
    if isinstance(error, SpatialOnnxError):
        return error
    if isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
        return NotEnoughMemoryError(f"{what}: there is not enough memory; {MORE_MEMORY}")
    return ModelError(f"{what}: {explain(error)}")


class DeviceTensor:
    """A tensor in the memory of a provider, passed from one session to another."""

    __slots__ = ("dtype", "shape", "value")

    def __init__(self, value: Any) -> None:
        """Wraps an ``onnxruntime.OrtValue``."""
        self.value = value
        self.shape: tuple[int, ...] = tuple(value.shape())
        self.dtype: np.dtype[Any] = np.dtype(
            onnx.helper.tensor_dtype_to_np_dtype(value.element_type())
        )

    def __len__(self) -> int:
        """The first dimension."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """A copy in host memory."""
        return np.asarray(self.value.numpy())


class Session:
    """One ONNX Runtime session; a thin typed wrapper that raises this package's errors."""

    def __init__(self, inner: Any, device: Literal["cpu", "cuda"] = "cpu") -> None:
        """Wraps an ``onnxruntime.InferenceSession`` whose provider's memory is ``device``'s."""
        self._inner = inner
        self._device = device
        self.inputs = tuple(_tensor_info(value) for value in inner.get_inputs())
        self.outputs = tuple(_tensor_info(value) for value in inner.get_outputs())

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[NDArray[Any]]:
        """Runs the model.

        Args:
            feeds: Arrays by input name.
            outputs: Names of the outputs wanted; None = all of the model's.

        Returns:
            The outputs in that order, of the shapes that the model gives them.

        Raises:
            ModelError: ONNX Runtime refuses the inputs or an op fails.
        """
        names = list(outputs) if outputs is not None else None
        try:
            with limited() as options:
                result = self._inner.run(names, dict(feeds), options)
        except Exception as error:
            raise _known(error, "ONNX Runtime") from None
        return [_as_array(value) for value in result]

    def run_bound(
        self,
        feeds: Mapping[str, NDArray[Any] | DeviceTensor],
        kept: Sequence[str],
        wanted: Sequence[str],
    ) -> tuple[list[DeviceTensor], list[NDArray[Any]]]:
        """Runs the model and keeps some outputs in the provider's memory.

        Args:
            feeds: Arrays or tensors in the provider's memory, by input name.
            kept: Names of the outputs that stay in the provider's memory.
            wanted: Names of the outputs that are copied to the host.

        Returns:
            The outputs that stay, and those that were copied.

        Raises:
            ModelError: ONNX Runtime refuses the inputs or an op fails.
        """
        try:
            binding = self._inner.io_binding()
            for name, value in feeds.items():
                if isinstance(value, DeviceTensor):
                    binding.bind_ortvalue_input(name, value.value)
                else:
                    binding.bind_cpu_input(name, np.asarray(value, order="C"))
            for name in kept:
                binding.bind_output(name, self._device)
            for name in wanted:
                binding.bind_output(name, "cpu")
            binding.synchronize_inputs()
            with limited() as options:
                self._inner.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            outputs = binding.get_outputs()
        except Exception as error:
            raise _known(error, "ONNX Runtime") from None
        stay, back = outputs[: len(kept)], outputs[len(kept) :]
        return [DeviceTensor(value) for value in stay], [np.asarray(v.numpy()) for v in back]

    def end_profiling(self) -> Path:
        """Stops ORT's profiler; returns the file it wrote."""
        return Path(self._inner.end_profiling())


def open_session(
    model: onnx.ModelProto | Path,
    runtime: Runtime | None = None,
    *,
    level: Level = "all",
    profile: Path | None = None,
    taking_turns: bool = False,
    timed: bool = False,
) -> Session:
    """Opens a session with the op library registered.

    Args:
        model: A model without external data, or a file that ORT reads itself.
        runtime: Provider and threads; default: CPU, all processors.
        level: Graph optimisation: ``all`` is ORT's default.
        profile: Prefix of the profile file, where one is wanted.
        taking_turns: Whether it is one of many sessions that run one after another. Its threads
            do not spin after a run, which would slow down the next session.
        timed: Whether it is timed in alternation with others: its threads spin during a run, ORT's
            default, but not after it, and its memory is its own. All other sessions share theirs.

    Raises:
        ModelError: ORT cannot load the model.
        ProviderError: The provider does not load.
    """
    runtime = runtime or Runtime()
    options = session_options(runtime, level=level)
    if taking_turns:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not timed and _share_memory():
        options.add_session_config_entry("session.use_env_allocators", "1")
        # ORT would hold a block as large as a run's working memory beside that of the first run.
        options.enable_mem_pattern = False
    if timed:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if isinstance(model, Path):
        with self_contained(model) as file:
            return _open(str(file), options, runtime)
    own = share_weights(model)
    if own.ByteSize() < PROTOBUF_LIMIT:
        if (shared := shared_folder(own)) is not None:
            options.add_session_config_entry(_WEIGHTS, str(shared))
        try:
            return _open(own.SerializeToString(), options, runtime)
        finally:
            if own is not model:
                release_weights(own)
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        return _open(str(path), options, runtime)


def open_file(path: Path, runtime: Runtime) -> Session:
    """Opens a file that is ``self_contained``; it is not looked at before ORT reads it.

    Raises:
        ModelError: ORT cannot load the model.
        ProviderError: The provider does not load.
    """
    return _open(str(path), session_options(runtime), runtime)


@functools.cache
def _share_memory() -> bool:
    """Sets up one memory arena for all sessions that are not timed, once; whether that worked."""
    try:
        info = ort.OrtMemoryInfo(
            "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
        )
        exactly_what_is_asked_for = ort.OrtArenaCfg({"arena_extend_strategy": 1})
        ort.create_and_register_allocator(info, exactly_what_is_asked_for)
    except Exception:  # an onnxruntime without it, or another one was set up already
        return False
    return True


def optimize_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Applies ORT's basic optimisations, which are independent of the hardware, to a model.

    Raises:
        ModelError: ORT cannot load the model.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = FATAL
    with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        _open(model.SerializeToString(), options, Runtime())
        return onnx.load(str(path))


def session_options(runtime: Runtime, *, level: Level = "all") -> Any:
    """ORT's defaults except for threads, level and logging, with the op library registered."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.graph_optimization_level = _LEVELS[level]
    options.log_severity_level = FATAL
    register(options)
    return options


def register(options: Any) -> None:
    """Registers the op library with an ``onnxruntime.SessionOptions``.

    Raises:
        LibraryError: The library is missing or ORT cannot load it.
    """
    try:
        options.register_custom_ops_library(str(library_path()))
    except LibraryError:
        raise
    except Exception as error:
        raise LibraryError(f"ONNX Runtime cannot load the op library: {error}") from None


def _open(model: str | bytes, options: Any, runtime: Runtime) -> Session:
    providers = [(CUDA, _CUDA_OPTIONS), _CPU] if runtime.provider == "cuda" else [_CPU]
    try:
        # Where a provider fails, its fallback prints a banner on standard output.
        inner = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:
        raise _known(error, "ONNX Runtime cannot load the model") from None
    if runtime.provider == "cuda" and CUDA not in inner.get_providers():
        raise ProviderError("the CUDA provider does not load: run spatialonnx doctor")
    trim_memory()
    return Session(inner, runtime.provider)


def runtime_version() -> str:
    """The version of onnxruntime in use."""
    return str(ort.__version__)


def _as_array(value: Any) -> NDArray[Any]:
    """A tensor, or the maps or tensors of a sequence as an array of objects."""
    if isinstance(value, (list, tuple)):
        array = np.empty(len(value), object)
        for k, item in enumerate(value):
            array[k] = item
        return array
    return np.asarray(value)


def _tensor_info(value: Any) -> TensorInfo:
    shape = tuple(d if isinstance(d, int) else None for d in value.shape)
    return TensorInfo(value.name, value.type, shape)
