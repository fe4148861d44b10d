"""A network opened for measuring, and the one loop over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spatialonnx.errors import ModelError
from spatialonnx.graph.equivalence import inner_batches
from spatialonnx.graph.instrument import instrument, plan_feeds
from spatialonnx.graph.ops import (
    CODES,
    CODES_PATCH_SIZE,
    DOMAIN,
    QCONV,
    codes_name,
    find_fused,
    find_predictors,
    read_plan,
)
from spatialonnx.graph.sites import SiteReport, find_sites
from spatialonnx.measure.samples import BATCH, Samples, check_images
from spatialonnx.model.interface import FIRST_IR_WITH_FREE_WEIGHTS, find_image_input
from spatialonnx.model.metadata import fixed_batch
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.feeds import feeds_of, fill_up
from spatialonnx.runtime.progress import Steps
from spatialonnx.runtime.session import Runtime, open_session

Outputs = dict[str, NDArray[Any]]
"""Outputs of one batch by name, batch first."""


class Network:
    """A model opened for measuring, masks being inputs: any plan runs in the same session."""

    def __init__(
        self, proto: onnx.ModelProto, runtime: Runtime, *, codes: int | None = None
    ) -> None:
        """Opens the session.

        Args:
            proto: A model of any stage.
            runtime: Provider and threads.
            codes: Also give the zero codes of every ofmap, for patches of this size.
        """
        self.output_names = tuple(value.name for value in proto.graph.output)
        self.predictors = find_predictors(proto)
        self.fused = find_fused(proto)
        sites = [p.site for p in self.predictors] + [f.site for f in self.fused]
        self.site_names = tuple(sites)
        self.plan = read_plan(proto)
        self.proto = proto
        instrumented = instrument(proto)
        if codes is not None:
            sources = {p.site: (p.source, p.zero_point) for p in self.predictors}
            zeros = {node.name: node.input[6] for node in proto.graph.node if node.op_type == QCONV}
            sources |= {f.site: (f.output, zeros.get(f.site, "")) for f in self.fused}
            _add_codes(instrumented, sources, codes)
        self.session = open_session(instrumented, runtime)
        self._image = find_image_input(
            self.session.inputs, {name for p in self.predictors for name in p.promoted}
        )
        self._reports: dict[tuple[int, ...], SiteReport] = {}

    @property
    def image_input(self) -> str:
        """Name of the image input."""
        return self._image.name

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Channels, height and width that the model takes; None where dynamic."""
        return self._image.shape[1:]

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the model is fixed to, or None."""
        return fixed_batch(self.proto)

    def sites(self, image_shape: tuple[int, ...]) -> SiteReport:
        """The sites with the shapes that images of [C, H, W] give them; found once."""
        if image_shape not in self._reports:
            shapes = {self.image_input: (self.fixed_batch or 1, *image_shape)}
            self._reports[image_shape] = find_sites(self.proto, shapes)
        return self._reports[image_shape]

    def run(self, images: NDArray[np.float32], plan: PlanLike) -> Outputs:
        """Runs one batch under a plan; returns every output by name.

        A batch smaller than the size the model is fixed to is filled up, and the filling is cut
        off again.

        Args:
            images: As a data set gives them, with the rows of further inputs.
            plan: Masks by site; sites that it does not name are off.

        Returns:
            The model's outputs, batch first, and counts int64 [N, C] of every site.

        Raises:
            ModelError: ONNX Runtime refuses the images, or an op fails.
        """
        count = len(images)
        images = fill_up(images, self.fixed_batch or 0)
        feeds = plan_feeds(plan, self.predictors) | feeds_of(self.image_input, images)
        names = [value.name for value in self.session.outputs]
        try:
            values = self.session.run(feeds, names)
        except ModelError:
            if self.fixed_batch is None:
                self._explain(images, plan)
            raise
        return {
            name: value[:count] if value.ndim and len(value) == len(images) else value
            for name, value in zip(names, values, strict=True)
        }

    def _explain(self, images: NDArray[np.float32], plan: PlanLike) -> None:
        """Says so where the model runs on another number of images."""
        for count in (*inner_batches(self.proto), 1):
            batch = fill_up(images, count)[:count]
            feeds = plan_feeds(plan, self.predictors) | feeds_of(self.image_input, batch)
            try:
                self.session.run(feeds)
            except ModelError:
                continue
            raise ModelError(
                f"the model takes {count} image{'s' if count > 1 else ''} at a time, although its "
                f"input leaves their number open: give --model-batch {count}"
            )


@dataclass(frozen=True, eq=False)
class SampleRun:
    """The results of a network on samples.

    Attributes:
        outputs: The model's outputs, batch first.
        skipped: Predicted outputs by site, over all samples.
        sites: The sites, with the shapes that the images give them.
        samples: Number of samples.
    """

    outputs: list[NDArray[Any]] = field(repr=False)
    skipped: Mapping[str, int]
    sites: SiteReport
    samples: int

    @property
    def saved(self) -> int:
        """MACs of predicted outputs."""
        return sum(
            self.skipped.get(site.name, 0) * site.macs_per_output for site in self.sites.sites
        )

    @property
    def conv_total(self) -> int:
        """MACs of all Conv nodes; 0 where shapes depend on the data."""
        return (self.sites.conv_macs or 0) * self.samples


def run_samples(
    network: Network,
    samples: Samples,
    plan: PlanLike,
    *,
    batch: int = BATCH,
    each: Callable[[Outputs], None] | None = None,
    steps: Steps | None = None,
) -> SampleRun:
    """Runs samples through a network, batch by batch.

    Args:
        network: The network.
        samples: The samples, in their order.
        plan: Masks by site; sites that it does not name are off.
        batch: Samples per run, unless the model is fixed to another number.
        each: Called with every batch's outputs, for further counts.
        steps: Called after every batch with how many samples are done, and how many there are.

    Raises:
        DataError: There are no images, or they do not fit the model.
        ModelError: ONNX Runtime refuses them, or an op fails.
    """
    check_images(samples, network.image_shape)
    skipped = dict.fromkeys(network.site_names, 0)
    shape: tuple[int, ...] = ()

    def run(images: NDArray[np.float32]) -> list[NDArray[Any]]:
        nonlocal shape
        shape = images.shape[1:]
        outputs = network.run(images, plan)
        for site in skipped:
            skipped[site] += int(outputs[f"{site}/skipped"].sum())
        if each is not None:
            each(outputs)
        return [outputs[name] for name in network.output_names]

    joined = collect_outputs(samples, network.fixed_batch or batch, run, steps)
    return SampleRun(joined, skipped, network.sites(shape), len(samples))


def collect_outputs(
    samples: Samples,
    batch: int,
    run: Callable[[NDArray[np.float32]], Sequence[NDArray[Any]]],
    steps: Steps | None = None,
) -> list[NDArray[Any]]:
    """The loop over samples: runs every batch and joins what it gave.

    Args:
        samples: The samples, in their order.
        batch: Samples per run; the last run may have fewer.
        run: Gives the outputs of one batch of images, batch first.
        steps: Called after every batch with how many samples are done, and how many there are.

    Returns:
        The outputs of all samples, batch first.

    Raises:
        ModelError: What batches give cannot be joined.
    """
    parts = []
    done = 0
    for images in samples.batches(batch):
        parts.append(run(images))
        done += len(images)
        if steps is not None:
            steps(done, len(samples))
    try:
        return [np.concatenate([np.atleast_1d(v) for v in p]) for p in zip(*parts, strict=True)]
    except ValueError:
        raise ModelError(
            "an output of the model has no row per image, so what batches give cannot be joined: "
            "name the output that is scored with --score-output, or leave the other one out"
        ) from None


def keep_output(proto: onnx.ModelProto, position: int) -> onnx.ModelProto:
    """Returns a copy of a model with one of its outputs.

    Args:
        proto: The model.
        position: Number of the output.

    Raises:
        ModelError: It has fewer.
    """
    count = len(proto.graph.output)
    if position >= count:
        raise ModelError(
            f"output {position + 1} is scored, and a model has only {count}: give the original of "
            "this network with --baseline"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    output = copy.graph.output[position]
    del copy.graph.output[:]
    copy.graph.output.append(output)
    return copy


def _add_codes(
    proto: onnx.ModelProto, sources: Mapping[str, tuple[str, str]], patch_size: int
) -> None:
    """Adds a PatchCodes node in front of every site; its bits are the ofmap's zeros.

    Args:
        proto: The model, changed in place.
        sources: The ofmap of each site, and its zero point where it is 8 bit.
        patch_size: Of the codes.
    """
    size = CODES_PATCH_SIZE
    proto.ir_version = max(proto.ir_version, FIRST_IR_WITH_FREE_WEIGHTS)
    proto.graph.initializer.append(helper.make_tensor(size, TensorProto.INT64, [], [patch_size]))
    for site, (source, zero_point) in sources.items():
        name = codes_name(site)
        inputs = [source, size, *(["", zero_point] if zero_point else [])]
        proto.graph.node.append(helper.make_node(CODES, inputs, [name], name, domain=DOMAIN))
        proto.graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.UINT16, [None] * 4)
        )
