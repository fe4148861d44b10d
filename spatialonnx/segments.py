"""Cutting a network at its sites, so that a part of it can be run from stored activations.

The sites are numbered 1 to L in graph order. A node belongs to segment j where j is the last site
among the nodes it depends on (0: none). Segment j >= 1 begins with site j's prediction. The
activations *in front of* segment j are all tensors made before it and read in it or behind it:
site j's ofmap, and whatever else is carried past the site, as a residual connection. Running the
segments one after another is running the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from spatialonnx.errors import ModelError
from spatialonnx.graphindex import GraphIndex, is_op
from spatialonnx.macs import macs_per_output
from spatialonnx.masks import SiteMask, full_mask
from spatialonnx.ops import (
    CODES,
    DOMAIN,
    VERSION,
    Predictor,
    find_predictors,
    instrument,
    plan_feeds,
)
from spatialonnx.session import Level, Runtime, Session, open_session
from spatialonnx.shapes import Shapes

_TOLERANCE = 1e-5
"""Of the largest output: ONNX Runtime fuses across nodes, and a cut is a barrier to that."""
_CODES_IR = 8
_CODES_OPSET = 17


@dataclass(frozen=True)
class Segment:
    """One part of a graph.

    Attributes:
        predictor: The prediction that it begins with; None for the first part.
        nodes: Positions of its nodes in the graph. Nodes that compute constants or shapes may
            belong to several segments.
        inputs: Activations that it reads.
        outputs: Activations that it makes and that a later segment, or the user, reads.
    """

    predictor: Predictor | None
    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """A graph cut at its sites.

    Attributes:
        image: Name of the image input.
        segments: L + 1 of them.
        live: Names of the activations in front of every segment; one more entry, the graph's
            outputs, behind the last.
    """

    image: str
    segments: tuple[Segment, ...]
    live: tuple[tuple[str, ...], ...]


class Activations:
    """Activations of some samples in front of one segment; every array has a row a sample.

    Attributes:
        arrays: By tensor name.
    """

    __slots__ = ("arrays",)

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Wraps arrays whose first dimension is the sample."""
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array of a tensor."""
        return self.arrays[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def take(self, rows: NDArray[np.int64]) -> Activations:
        """A copy of some samples, which may repeat."""
        return Activations({name: array[rows] for name, array in self.arrays.items()})


class SegmentedNetwork:
    """One session a segment, each with the weights that it needs and no others."""

    def __init__(
        self,
        proto: ModelProto,
        example: NDArray[np.float32],
        runtime: Runtime,
        *,
        level: Level = "all",
        false_zeros: bool = False,
        fixed: bool = False,
    ) -> None:
        """Opens the sessions and compares them with the whole model on one batch.

        Args:
            proto: A model with SpatialPredict nodes.
            example: Images [N, C, H, W] of one full batch; later ones have the same size.
            runtime: Provider and threads.
            level: ORT's graph optimisation.
            false_zeros: Whether false zeros are counted too.
            fixed: Whether the model takes batches of the example's size only.

        Raises:
            ModelError: The graph cannot be cut, or its parts do not compute what the whole does.
        """
        self.cut = cut_graph(proto)
        self.predictors = tuple(s.predictor for s in self.cut.segments if s.predictor is not None)
        self.bytes_per_sample: list[int] = []
        self._runtime = runtime
        self._false_zeros = false_zeros
        self._width: int | None = None
        self._full = {p: full_mask(p) for p in (2, 3, 4)}
        self._sessions: list[Session] = []
        self._codes = open_session(_codes_model(), runtime, level=level, taking_turns=True)
        activations = Activations({self.cut.image: example})
        initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        for number in range(len(self.cut.segments)):
            self.bytes_per_sample.append(activations.nbytes // max(len(example), 1))
            model = _segment_model(
                proto, self.cut, number, activations, initializers, false_zeros=false_zeros
            )
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
        """The activations in front of the first segment: the images."""
        return Activations({self.cut.image: images})

    def ofmap(self, number: int, activations: Activations) -> NDArray[np.float32]:
        """Site ``number``'s ofmap, [N, C, H, W], among the activations in front of it."""
        return activations[self.predictors[number - 1].source]

    def advance(
        self, number: int, activations: Activations, mask: SiteMask | None = None
    ) -> tuple[Activations, NDArray[np.int64] | None]:
        """Runs one segment.

        Args:
            number: Which.
            activations: What is in front of it.
            mask: Of the site it begins with; None = off.

        Returns:
            The activations behind it, and the site's predicted outputs [N, C] (None for
            segment 0).
        """
        after, counts = self._run(number, activations, mask)
        return after, counts.get("skipped")

    def advance_counting(
        self, number: int, activations: Activations, mask: SiteMask | None = None
    ) -> tuple[Activations, dict[str, NDArray[np.int64]]]:
        """As ``advance``, with all counts: ``skipped`` and, where asked for, ``false_zero``."""
        return self._run(number, activations, mask)

    def finish(
        self, number: int, activations: Activations, masks: Mapping[int, SiteMask] | None = None
    ) -> Activations:
        """Runs a segment and all behind it.

        Args:
            number: The first.
            activations: What is in front of it.
            masks: By number of the site; sites it does not name are off.

        Returns:
            The network's outputs.
        """
        for j in range(number, len(self._sessions)):
            activations, _ = self._run(j, activations, (masks or {}).get(j))
        return activations

    def codes(self, number: int, activations: Activations, patch_size: int) -> NDArray[np.uint16]:
        """Which values of every patch of site ``number``'s ofmap are zero, [N, C, nH, nW]."""
        feeds: dict[str, NDArray[Any]] = {
            "x": self.ofmap(number, activations),
            "p": np.asarray(patch_size, np.int64),
        }
        codes: NDArray[np.uint16] = self._codes.run(feeds, ["codes"])[0]
        return codes

    def _run(
        self, number: int, activations: Activations, mask: SiteMask | None
    ) -> tuple[Activations, dict[str, NDArray[np.int64]]]:
        segment = self.cut.segments[number]
        count = len(activations)
        feeds = {name: self._padded(activations[name]) for name in segment.inputs}
        wanted = list(segment.outputs)
        if segment.predictor is not None:
            used = self._full[2] if mask is None else mask
            feeds[segment.predictor.mask] = used.mask
            feeds[segment.predictor.patch_size] = np.asarray(used.patch_size, np.int64)
            wanted.append(segment.predictor.skipped)
            if self._false_zeros:
                wanted.append(segment.predictor.false_zero)
        values = self._sessions[number].run(feeds, wanted)
        rows = max(count, self._width or 0)
        for name, value in zip(wanted, values, strict=True):
            if value.ndim == 0 or len(value) != rows:
                raise ModelError(
                    f"tensor {name!r} has shape {list(value.shape)} for {rows} images: a network "
                    "can be searched only if every activation has one row an image"
                )
        made = {n: v[:count] for n, v in zip(wanted, values, strict=True)}
        arrays = {
            name: made[name] if name in made else activations[name]
            for name in self.cut.live[number + 1]
        }
        counts = {}
        if segment.predictor is not None:
            counts["skipped"] = made[segment.predictor.skipped]
            if self._false_zeros:
                counts["false_zero"] = made[segment.predictor.false_zero]
        return Activations(arrays), counts

    def _padded(self, array: NDArray[Any]) -> NDArray[Any]:
        missing = (self._width or 0) - len(array)
        if missing <= 0:
            return array
        return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])

    def _compare(
        self, proto: ModelProto, example: NDArray[np.float32], got: Activations, level: Level
    ) -> None:
        """Makes sure that the segments together compute what the whole model does."""
        session = open_session(instrument(proto), self._runtime, level=level, taking_turns=True)
        feeds = plan_feeds({p.site: self._full[2] for p in self.predictors}, self.predictors)
        feeds[self.cut.image] = example
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
        """Finds out whether an image's outputs depend, in their last bit, on the batch size.

        A library may choose another algorithm for another batch size. Then every run is filled
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


def cut_graph(proto: ModelProto) -> Cut:
    """Cuts a model with SpatialPredict nodes at its sites.

    Raises:
        ModelError: It has no site, takes more than one input, or reads a site's ofmap in front
            of the prediction.
    """
    index = GraphIndex(proto)
    predictors = find_predictors(proto)
    if not predictors:
        raise ModelError("the model holds no predictions: run spatialonnx insert first")
    numbers = {p.output: k for k, p in enumerate(predictors, start=1)}
    promoted = {name for p in predictors for name in (p.mask, p.patch_size)}
    weights = {t.name for t in proto.graph.initializer}
    weights |= {t.values.name for t in proto.graph.sparse_initializer}
    inputs = [v.name for v in proto.graph.input if v.name not in weights | promoted]
    if len(inputs) != 1:
        raise ModelError(f"the model must take one image batch, not {', '.join(inputs) or 'none'}")
    for predictor in predictors:
        if len(index.uses[predictor.source]) > 1 or predictor.source in index.outputs:
            raise ModelError(
                f"site {predictor.site}: something reads its ofmap before it is predicted: insert "
                "into the original model again"
            )
    reads = _reads(index, set(index.producer) | {inputs[0]})
    level = {inputs[0]: 0}
    repeatable: set[int] = set()
    members: list[list[int]] = [[] for _ in range(len(predictors) + 1)]
    for position, node in enumerate(index.nodes):
        depth = max((level[name] for name in reads[position]), default=0)
        if node.output[0] in numbers:
            depth = numbers[node.output[0]]
        if is_op(node, "Shape", "Size") or all(
            index.producer.get(name) in repeatable for name in reads[position]
        ):
            repeatable.add(position)
        else:
            members[depth].append(position)
        level.update((name, depth) for name in node.output if name)
    outputs = [value.name for value in proto.graph.output]
    closed = [_close(index, reads, repeatable, nodes) for nodes in members]
    last = [index.producer[n] for n in outputs if index.producer.get(n) in repeatable]
    closed[-1] = _close(index, reads, repeatable, [*closed[-1], *last])
    needs = [_needs(index, reads, nodes) for nodes in closed]
    return _cut(index, inputs[0], outputs, predictors, closed, needs, repeatable)


def _cut(
    index: GraphIndex,
    image: str,
    outputs: Sequence[str],
    predictors: Sequence[Predictor],
    closed: Sequence[Sequence[int]],
    needs: Sequence[set[str]],
    repeatable: set[int],
) -> Cut:
    born = {image: -1}
    for number, nodes in enumerate(closed):
        for position in nodes:
            if position not in repeatable or number == len(closed) - 1:
                born.update(
                    (name, number)
                    for name in index.nodes[position].output
                    if name and name not in born
                )
    dies = {name: j for j, names in enumerate(needs) for name in names}  # the last one stays
    dies |= {name: len(closed) for name in outputs}
    live = [
        tuple(name for name, j in born.items() if j < k and dies.get(name, -1) >= k)
        for k in range(len(closed))
    ]
    segments = tuple(
        Segment(
            predictor=predictors[j - 1] if j else None,
            nodes=tuple(nodes),
            inputs=tuple(name for name in live[j] if name in needs[j]),
            outputs=tuple(n for n, made in born.items() if made == j and dies.get(n, -1) > j),
        )
        for j, nodes in enumerate(closed)
    )
    return Cut(image, segments, (*live, tuple(outputs)))


def _reads(index: GraphIndex, known: set[str]) -> list[set[str]]:
    """The computed tensors that every node reads, in its subgraphs too."""
    reads: list[set[str]] = [set() for _ in index.nodes]
    for name, uses in index.uses.items():
        if name in known:
            for use in uses:
                reads[use.node].add(name)
    return reads


def _close(
    index: GraphIndex, reads: list[set[str]], repeatable: set[int], nodes: Sequence[int]
) -> list[int]:
    """Nodes, and the repeatable ones that they need, in graph order."""
    found = set(nodes)
    pending = list(nodes)
    while pending:
        for name in reads[pending.pop()]:
            maker = index.producer.get(name)
            if maker in repeatable and maker not in found:
                assert maker is not None
                found.add(maker)
                pending.append(maker)
    return sorted(found)


def _needs(index: GraphIndex, reads: list[set[str]], nodes: Sequence[int]) -> set[str]:
    made = {name for position in nodes for name in index.nodes[position].output}
    return {name for position in nodes for name in reads[position]} - made


def segment_macs(proto: ModelProto, cut: Cut, shapes: Shapes) -> tuple[int, ...]:
    """MACs of the Conv nodes of every segment, for one image.

    Args:
        proto: The model.
        cut: How it is cut.
        shapes: Its tensors' shapes, for the size of the images that are run.
    """
    index = GraphIndex(proto)
    totals = []
    for segment in cut.segments:
        total = 0
        for position in segment.nodes:
            node = index.nodes[position]
            if is_op(node, "Conv"):
                weight = index.constant_shape(node.input[1]) or ()
                total += macs_per_output(weight) * (shapes.outputs_per_image(node.output[0]) or 0)
        totals.append(total)
    return tuple(totals)


def _segment_model(
    proto: ModelProto,
    cut: Cut,
    number: int,
    activations: Activations,
    initializers: Mapping[str, TensorProto],
    *,
    false_zeros: bool,
) -> ModelProto:
    """A model of one segment; its site's mask and patch size are inputs."""
    segment = cut.segments[number]
    graph = GraphProto(name=f"segment {number}")
    for position in segment.nodes:
        graph.node.add().CopyFrom(proto.graph.node[position])
    used = set(GraphIndex(ModelProto(graph=graph)).uses)
    promoted: set[str] = set()
    for name in segment.inputs:
        graph.input.append(_value_info(name, activations[name]))
    graph.output.extend(ValueInfoProto(name=name) for name in segment.outputs)
    if segment.predictor is not None:
        predictor = segment.predictor
        promoted = {predictor.mask, predictor.patch_size}
        kind = TensorProto.UINT16, TensorProto.INT64
        graph.input.append(helper.make_tensor_value_info(predictor.mask, kind[0], [None] * 3))
        graph.input.append(helper.make_tensor_value_info(predictor.patch_size, kind[1], []))
        # What ORT's shape inference cannot know of a custom op, but its fusions want to.
        graph.value_info.append(_value_info(predictor.output, activations[predictor.source]))
        counts = [predictor.skipped, predictor.false_zero][: 1 + false_zeros]
        for node in graph.node:
            if node.domain == DOMAIN and node.name == predictor.site:
                del node.output[1:]
                node.output.extend(counts)
        for name in counts:
            graph.output.append(helper.make_tensor_value_info(name, kind[1], [None] * 2))
    graph.initializer.extend(initializers[n] for n in used - promoted if n in initializers)
    graph.sparse_initializer.extend(
        t for t in proto.graph.sparse_initializer if t.values.name in used
    )
    return ModelProto(
        ir_version=proto.ir_version,
        opset_import=proto.opset_import,
        functions=proto.functions,
        graph=graph,
    )


def _value_info(name: str, array: NDArray[Any]) -> ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None, *array.shape[1:]])


def _codes_model() -> ModelProto:
    """PatchCodes alone."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(CODES, ["x", "p"], ["codes"], "codes", domain=DOMAIN)],
        "codes",
        [value("x", TensorProto.FLOAT, [None] * 4), value("p", TensorProto.INT64, [])],
        [value("codes", TensorProto.UINT16, [None] * 4)],
    )
    opsets = [helper.make_opsetid("", _CODES_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, ir_version=_CODES_IR, opset_imports=opsets)


def mask_numbers(predictors: Iterable[Predictor], plan: Mapping[str, SiteMask]) -> dict[int, Any]:
    """A plan's masks by number of the site; full ones are left out."""
    return {
        k: plan[p.site]
        for k, p in enumerate(predictors, start=1)
        if p.site in plan and not plan[p.site].is_full
    }
