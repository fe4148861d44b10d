"""Runs a network segment by segment, with stored activations in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from spatialonnx.errors import ModelError
from spatialonnx.graph.instrument import instrument, plan_feeds
from spatialonnx.graph.ops import CODES, DOMAIN, VERSION, mask_feeds, stored_threshold
from spatialonnx.measure.network import collect_outputs
from spatialonnx.measure.samples import Samples
from spatialonnx.plan.masks import SiteMask, full_mask
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.feeds import feeds_of
from spatialonnx.runtime.progress import Steps
from spatialonnx.runtime.session import Level, Runtime, Session, open_session
from spatialonnx.simulate.activation_store import Array, DeviceMemory, HostMemory, Memory
from spatialonnx.simulate.cut import cut_graph, segment_model

_TOLERANCE = 1e-5
"""Relative tolerance: ONNX Runtime fuses across nodes, and a cut prevents that."""
_CODES_IR = 8
_CODES_OPSET = 17


class Activations:
    """Activations of some samples before one segment; every array has one row per sample.

    Attributes:
        arrays: By tensor name.
    """

    __slots__ = ("arrays", "memory")

    def __init__(self, arrays: Mapping[str, Array], memory: Memory) -> None:
        """Wraps arrays whose first dimension is the sample, and their store."""
        self.arrays = dict(arrays)
        self.memory = memory

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array of a tensor, in host memory."""
        return self.memory.host(self.arrays[name])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def take(self, rows: NDArray[np.int64]) -> Activations:
        """A copy of some samples, which may repeat."""
        take = self.memory.take
        return Activations({n: take(value, rows) for n, value in self.arrays.items()}, self.memory)

    @staticmethod
    def gather(
        parts: Sequence[tuple[NDArray[np.int64], Activations, NDArray[np.int64]]],
    ) -> Activations:
        """Samples of several activations before the same segment.

        Args:
            parts: Rows of the result, with the activations and their rows to copy from; together
                they give every row once.
        """
        first = parts[0][1]
        arrays = {
            name: first.memory.gather([(to, a.arrays[name], rows) for to, a, rows in parts])
            for name in first.arrays
        }
        return Activations(arrays, first.memory)


class SegmentedNetwork:
    """One session per segment, each with only the weights that it needs."""

    def __init__(
        self,
        proto: ModelProto,
        example: NDArray[np.float32],
        runtime: Runtime,
        *,
        level: Level = "all",
        fixed: bool = False,
        bound: bool | None = None,
    ) -> None:
        """Opens the sessions and compares them with the whole model on one batch.

        Args:
            proto: A model with SpatialPredict nodes.
            example: Images [N, C, H, W] of one full batch; later ones have the same size.
            runtime: Provider and threads.
            level: ORT's graph optimisation.
            fixed: Whether the model takes batches of the example's size only.
            bound: Whether activations stay in the provider's memory; default: unless that is
                the host's.

        Raises:
            ModelError: The graph cannot be cut, or its parts do not compute what the whole does.
        """
        self.cut = cut_graph(proto)
        self.predictors = tuple(s.predictor for s in self.cut.segments if s.predictor is not None)
        self.bytes_per_sample: list[int] = []
        self.checkpoint: Callable[[], None] | None = None
        self._runtime = runtime
        bound = runtime.provider != "cpu" if bound is None else bound
        self.memory: Memory = DeviceMemory(runtime) if bound else HostMemory()
        self._width: int | None = None
        self._full = {p: full_mask(p) for p in (2, 3, 4)}
        self._sessions: list[Session] = []
        self._codes: dict[np.dtype[Any], Session] = {}
        self._level = level
        activations = self.start(example)
        initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        for number in range(len(self.cut.segments)):
            self.bytes_per_sample.append(activations.nbytes // max(len(example), 1))
            model = segment_model(proto, self.cut, number, activations.arrays, initializers)
            self._sessions.append(open_session(model, runtime, level=level, taking_turns=True))
            activations, _ = self.advance(number, activations)
        self._compare(proto, example, activations, level)
        self._settle_width(example, activations, fixed)

    @property
    def sites(self) -> int:
        """Number of sites, L."""
        return len(self.predictors)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return self.cut.live[-1]

    def start(self, images: NDArray[np.float32]) -> Activations:
        """The activations before the first segment: the images, and further inputs."""
        return Activations(feeds_of(self.cut.image, images), self.memory)

    def ofmap(self, number: int, activations: Activations) -> NDArray[np.float32]:
        """Site ``number``'s ofmap, [N, C, H, W], among the activations before it.

        It is in host memory, and the activations' own array where they are kept there as floats.
        """
        predictor = self.predictors[number - 1]
        return predictor.real(activations[predictor.source])

    def zero(self, number: int, activations: Activations, positions: NDArray[np.int64]) -> None:
        """Sets outputs of site ``number`` to zero, by flat positions in its ofmap."""
        predictor = self.predictors[number - 1]
        source = predictor.source
        activations.arrays[source] = self.memory.zero(
            activations.arrays[source], positions, predictor.zero
        )

    def advance(
        self, number: int, activations: Activations, mask: SiteMask | None = None
    ) -> tuple[Activations, NDArray[np.int64] | None]:
        """Runs one segment.

        Args:
            number: The segment.
            activations: The activations before it.
            mask: Of the site it begins with; None = off.

        Returns:
            The activations behind it, and the counts of the site's predicted outputs [N, C] (None
            for segment 0).

        Raises:
            ModelError: ONNX Runtime refuses the activations, or an op fails.
        """
        if self.checkpoint is not None:
            self.checkpoint()
        segment = self.cut.segments[number]
        count = len(activations)
        feeds = {name: self._padded(activations.arrays[name]) for name in segment.inputs}
        # The network's outputs and all counts go to host memory; the rest is for the next segment.
        last = number + 1 == len(self.cut.segments)
        kept, wanted = ([], [*segment.outputs]) if last else ([*segment.outputs], [])
        if segment.predictor is not None:
            used = self._full[2] if mask is None else mask
            feeds.update(mask_feeds(segment.predictor, used))
            wanted.append(segment.predictor.skipped)
        values = self.memory.run(self._sessions[number], feeds, kept, wanted)
        rows = max(count, self._width or 0)
        for name, value in values.items():
            if value.ndim == 0 or len(value) != rows:
                raise ModelError(
                    f"tensor {name!r} has shape {list(value.shape)} for {rows} images: a network "
                    "can be searched only if every activation has one row per image"
                )
        made = {name: self._first(value, count) for name, value in values.items()}
        arrays = {
            name: made[name] if name in made else activations.arrays[name]
            for name in self.cut.live[number + 1]
        }
        skipped = None
        if segment.predictor is not None:
            skipped = self.memory.host(made[segment.predictor.skipped])
        return Activations(arrays, self.memory), skipped

    def finish(
        self, number: int, activations: Activations, masks: Mapping[int, SiteMask] | None = None
    ) -> Activations:
        """Runs a segment and all later ones.

        Args:
            number: The first segment.
            activations: The activations before it.
            masks: By number of the site; sites it does not name are off.

        Returns:
            The network's outputs.
        """
        for j in range(number, len(self._sessions)):
            activations, _ = self.advance(j, activations, (masks or {}).get(j))
        return activations

    def codes(
        self,
        number: int,
        activations: Activations,
        patch_size: int,
        threshold: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint16]:
        """Zero codes of site ``number``'s ofmap, [N, C, nH, nW].

        Args:
            number: The site.
            activations: The activations before it.
            patch_size: Side of a patch.
            threshold: Values up to it count as zero, [1] or [C]; None = only zeros.
        """
        predictor = self.predictors[number - 1]
        values = activations.arrays[predictor.source]
        feeds: dict[str, Array] = {
            "x": values,
            "p": np.asarray(patch_size, np.int64),
            "t": stored_threshold(predictor, threshold),
        }
        if predictor.step is not None:
            feeds["z"] = np.asarray(predictor.zero, values.dtype)
        if values.dtype not in self._codes:
            model = _codes_model(values.dtype)
            self._codes[values.dtype] = open_session(
                model, self._runtime, level=self._level, taking_turns=True
            )
        session = self._codes[values.dtype]
        return self.memory.host(self.memory.run(session, feeds, [], ["codes"])["codes"])

    def _first(self, value: Array, count: int) -> Array:
        """The first rows."""
        if isinstance(value, np.ndarray):
            return value[:count]
        return value if len(value) == count else self.memory.take(value, np.arange(count))

    def _padded(self, array: Array) -> Array:
        """Fills a batch up to the width of every run, with copies of the last row."""
        count, missing = len(array), (self._width or 0) - len(array)
        if missing <= 0:
            return array
        return self.memory.take(array, np.minimum(np.arange(count + missing), count - 1))

    def _compare(
        self, proto: ModelProto, example: NDArray[np.float32], got: Activations, level: Level
    ) -> None:
        """Checks that the segments together compute what the whole model computes."""
        session = open_session(instrument(proto), self._runtime, level=level, taking_turns=True)
        feeds = plan_feeds(Plan(), self.predictors) | feeds_of(self.cut.image, example)
        for name, expected in zip(
            self.output_names, session.run(feeds, self.output_names), strict=True
        ):
            if expected.dtype.kind != "f":
                continue
            finite = np.isfinite(expected)
            largest = float(np.abs(expected[finite]).max(initial=0.0))
            difference = np.abs(expected[finite] - got[name][finite]).max(initial=0.0)
            if difference > _TOLERANCE * largest or not np.array_equal(
                finite, np.isfinite(got[name])
            ):
                raise ModelError(
                    f"output {name!r} of the network cut at its sites differs by "
                    f"{float(difference):.1e} from the whole network's, whose largest is "
                    f"{largest:.1e}: please report this model"
                )

    def _settle_width(self, example: NDArray[np.float32], full: Activations, fixed: bool) -> None:
        """Checks whether the last bits of an image's outputs depend on the batch size.

        A library may choose another algorithm for another batch size. If so, every run is filled
        up to the size of the first.
        """
        count = len(example)
        parts = [slice(0, 1), slice(1, 3), slice(3, None)]
        if not fixed and self._same_bits(example, full, parts):
            return
        self._width = count
        half = (count + 1) // 2
        if not self._same_bits(example, full, [slice(half, None), slice(0, half)]):
            raise ModelError(
                "what the network computes for an image depends on the images beside it: export "
                "it in inference mode"
            )

    def _same_bits(
        self, example: NDArray[np.float32], full: Activations, parts: Sequence[slice]
    ) -> bool:
        for part in parts:
            images = example[part]
            if not len(images):
                continue
            outputs = self.finish(0, self.start(images))
            for name in self.output_names:
                value = outputs[name]
                exact = value.dtype.kind == "f"
                if not np.array_equal(value, full[name][part], equal_nan=exact):
                    return False
        return True


def run_off(
    network: SegmentedNetwork,
    samples: Samples,
    batch: int,
    masks: Mapping[int, SiteMask] | None = None,
    steps: Steps | None = None,
) -> list[NDArray[Any]]:
    """The outputs of all samples with every site off, or under masks.

    Args:
        network: The segments.
        samples: The samples, in their order.
        batch: Samples per run.
        masks: By number of the site; sites it does not name are off.
        steps: Called after every batch with how many samples are done, and how many there are.
    """

    def run(images: NDArray[np.float32]) -> list[NDArray[Any]]:
        after = network.finish(0, network.start(images), masks)
        return [after[name] for name in network.output_names]

    return collect_outputs(samples, batch, run, steps)


def _codes_model(dtype: np.dtype[Any]) -> ModelProto:
    """PatchCodes alone, for maps of a type."""
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    quantized = dtype != np.float32
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node(
                CODES, ["x", "p", "t", *["z"] * quantized], ["codes"], "codes", domain=DOMAIN
            )
        ],
        "codes",
        [
            value("x", kind, [None] * 4),
            value("p", TensorProto.INT64, []),
            value("t", TensorProto.UINT8 if quantized else TensorProto.FLOAT, [None]),
            *([value("z", kind, [])] if quantized else []),
        ],
        [value("codes", TensorProto.UINT16, [None] * 4)],
    )
    opsets = [helper.make_opsetid("", _CODES_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, ir_version=_CODES_IR, opset_imports=opsets)
