"""Networks whose sites are SnapeaConv nodes, and their runs on samples.

Akhlaghi et al., "SnaPEA: Predictive Early Activation for Reducing Computation in Deep Convolutional
Neural Networks", ISCA 2018.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from spatialonnx.files import sha256_bytes
from spatialonnx.graph.fuse import fuse_sites
from spatialonnx.graph.ops import (
    CONV,
    DOMAIN,
    SNAPEA,
    find_predictors,
    guess_threshold_name,
    heads_name,
    macs_name,
    write_plan,
)
from spatialonnx.graph.sites import Site
from spatialonnx.measure.network import Network, run_samples
from spatialonnx.measure.samples import BATCH, Samples
from spatialonnx.model.copying import add_initializers, copy_without_initializers
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import Steps
from spatialonnx.runtime.session import Runtime


@dataclass(frozen=True, eq=False)
class Guess:
    """How the kernels of one site guess zeros.

    Attributes:
        heads: MACs before the guess, int64 [C]; 0 = the kernel does not guess.
        threshold: The sum up to which the output is guessed to be zero, float32 [C].
    """

    heads: NDArray[np.int64]
    threshold: NDArray[np.float32]


def snapea_model(
    proto: onnx.ModelProto,
    sites: Sequence[str],
    *,
    guesses: Mapping[str, Guess] | None = None,
    plan: PlanLike | None = None,
) -> onnx.ModelProto:
    """A network whose sites stop their sums early; their MACs are further outputs.

    Args:
        proto: A model with SpatialPredict nodes.
        sites: Sites that become a SnapeaConv node each.
        guesses: How sites guess, by name; the others stop exactly.
        plan: Masks by site: predicted outputs are not counted at ``sites``, and only simulated at
            the others. None = nothing is predicted from neighbours.
    """
    predictors = [p.site for p in find_predictors(proto)]
    masked = write_plan(proto, plan or {})
    off = [s for s in predictors if s not in sites and (plan is None or s not in plan)]
    result = fuse_sites(masked, sites, off)
    unused = set()
    for node in result.graph.node:
        if node.domain == DOMAIN and node.op_type == CONV:
            mask = _stop_early(node, (guesses or {}).get(node.name) is not None, plan is not None)
            unused |= {mask} if plan is None else set()
            result.graph.output.append(
                helper.make_tensor_value_info(macs_name(node.name), TensorProto.INT64, [None] * 2)
            )
    fused, result = result, copy_without_initializers(result)
    add_initializers(result, (t for t in fused.graph.initializer if t.name not in unused))
    for site, guess in (guesses or {}).items():
        heads = numpy_helper.from_array(guess.heads, heads_name(site))
        threshold = numpy_helper.from_array(guess.threshold, guess_threshold_name(site))
        add_initializers(result, [heads, threshold])
    return result


def _stop_early(node: NodeProto, guess: bool, masked: bool) -> str:
    """Turns a SpatialConv node into a SnapeaConv node; returns the name of its mask."""
    x, weight, mask, bias, *more = node.input
    residual, mask_threshold = [*more, "", ""][:2]
    inputs = [x, weight, bias, residual]
    inputs += [heads_name(node.name), guess_threshold_name(node.name)] if guess else ["", ""]
    inputs += [mask, mask_threshold] if masked else ["", ""]
    del node.input[:], node.output[1:]
    node.op_type = SNAPEA
    node.input.extend(inputs)
    node.output.append(macs_name(node.name))
    return mask


@dataclass(frozen=True, eq=False)
class EarlyRun:
    """The result of running such a network on samples.

    Attributes:
        outputs: Its outputs, in the order of the samples.
        done: MACs done by site that stops early, over all samples.
        skipped: Predicted outputs of the sites that do not stop early.
    """

    outputs: list[NDArray[Any]]
    done: Mapping[str, int]
    skipped: Mapping[str, int]

    def saved(self, sites: Sequence[Site], samples: int) -> int:
        """MACs of the dense network that were not done."""
        total = 0
        for site in sites:
            if site.name in self.done:
                total += dense_macs(site) * samples - self.done[site.name]
            total += self.skipped.get(site.name, 0) * site.macs_per_output
        return total


def dense_macs(site: Site) -> int:
    """MACs of a site for one image."""
    return int(np.prod([d or 0 for d in site.shape], dtype=np.int64)) * site.macs_per_output


def run_early(
    proto: onnx.ModelProto,
    sites: Sequence[str],
    samples: Samples,
    runtime: Runtime,
    batch: int = BATCH,
    progress: Steps | None = None,
) -> EarlyRun:
    """Runs a network of ``snapea_model`` under the plan that it carries.

    Args:
        proto: The network.
        sites: Its sites that stop early.
        samples: The samples.
        runtime: Provider and threads.
        batch: Samples per run.
        progress: Called with how many samples are done.
    """
    network = Network(proto, runtime)
    run = run_samples(network, samples, network.plan, batch=batch, steps=progress)
    outputs = dict(zip(network.output_names, run.outputs, strict=True))
    done = {site: int(outputs.pop(macs_name(site)).sum()) for site in sites}
    return EarlyRun(list(outputs.values()), done, dict(run.skipped))


def guesses_to_text(guesses: Mapping[str, Guess]) -> str:
    """A configuration as JSON; sites that stop exactly are left out."""
    sites = {
        site: [
            b64encode(guess.heads.astype("<i8").tobytes()).decode(),
            b64encode(guess.threshold.astype("<f4").tobytes()).decode(),
        ]
        for site, guess in sorted(guesses.items())
        if guess.heads.any()
    }
    return json.dumps({"snapea": sites})


def guesses_key(guesses: Mapping[str, Guess]) -> str:
    """Key of a configuration."""
    return sha256_bytes(guesses_to_text(guesses).encode())[:32]
