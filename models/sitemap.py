"""Matches the ReLUs of a torch network with the sites of its ONNX file, by comparing outputs."""

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from models.prediction import PredictZeros
from spatialonnx.errors import DataError
from spatialonnx.graph.instrument import instrument, plan_feeds
from spatialonnx.graph.ops import find_predictors
from spatialonnx.plan.masks import SiteMask
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.session import Runtime, open_session

__all__ = ["attach_rule", "match_sites", "plan_of_modules"]

TOLERANCE = 1e-3
"""Largest relative difference of two equal ofmaps: folding of BatchNorm and other kernels change
the last digits, and each layer adds to it."""


def match_sites(
    model: nn.Module, proto: onnx.ModelProto, images: NDArray[np.float32]
) -> dict[str, str]:
    """Finds the ReLU module that computes each site's ofmap.

    Names cannot be used, because exporters and simplifiers choose their own. Both networks run on
    the same images without prediction; a site is the first ReLU in call order, not already matched
    with another site, that gives the same ofmap.

    Args:
        model: The network; each of its ReLU calls is a module of its own.
        proto: A model with SpatialPredict nodes.
        images: A few images, [N, C, H, W].

    Returns:
        Site name to module path.

    Raises:
        DataError: If no ReLU gives a site's ofmap: the two are different networks.
    """
    sites = _site_ofmaps(proto, images)
    relus = _relu_ofmaps(model, images)
    matched: dict[str, str] = {}
    for site, wanted in sites.items():
        free = (path for path in relus if path not in matched.values())
        path = next((path for path in free if _same(relus[path], wanted)), None)
        if path is None:
            raise DataError(
                f"site {site} is not a ReLU of the checkpoint's network: give the checkpoint that "
                "the model was exported from"
            )
        matched[site] = path
    return matched


def attach_rule(model: nn.Module, masks: Mapping[str, SiteMask]) -> None:
    """Puts the prediction rule behind ReLU modules, in place; state-dict names do not change.

    Args:
        model: The network.
        masks: Module path to mask; masks that are full are left out.
    """
    for path, mask in masks.items():
        if not mask.is_full:
            rule = PredictZeros(mask)
            model.set_submodule(path, nn.Sequential(model.get_submodule(path), rule))


def plan_of_modules(masks: Mapping[str, SiteMask], sites: Mapping[str, str]) -> Plan:
    """Turns masks by module path into a plan.

    Args:
        masks: Module path to mask.
        sites: Site name to module path; sites whose module has no mask stay off.
    """
    return Plan((site, masks[path]) for site, path in sites.items() if path in masks)


def _site_ofmaps(
    proto: onnx.ModelProto, images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Runs a model with prediction off; returns the ofmap of each site, in graph order."""
    predictors = find_predictors(proto)
    opened = instrument(proto)
    fed = {name for p in predictors for name in p.promoted}
    # The ReLU's own output: at the default level ORT may fuse a ReLU that only the op reads, and
    # making it a graph output prevents this.
    for predictor in predictors:
        opened.graph.output.append(
            helper.make_tensor_value_info(predictor.source, TensorProto.FLOAT, [None] * 4)
        )
    session = open_session(opened, Runtime())
    feeds = plan_feeds(Plan(), predictors)
    feeds |= {i.name: images for i in session.inputs if i.name not in fed}
    ofmaps = session.run(feeds, [p.source for p in predictors])
    return {p.site: ofmap for p, ofmap in zip(predictors, ofmaps, strict=True)}


def _relu_ofmaps(model: nn.Module, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Runs a network in eval mode; returns each ReLU module's output, in the order of calls."""
    ofmaps: dict[str, NDArray[np.float32]] = {}
    hooks = []
    for path, module in model.named_modules():
        if isinstance(module, nn.ReLU):

            def keep(_module: nn.Module, _inputs: object, output: Tensor, path: str = path) -> None:
                ofmaps[path] = output.numpy().copy()  # a later ReLU may change it in place

            hooks.append(module.register_forward_hook(keep))
    was_training = model.training
    with torch.no_grad():
        model.eval()(torch.from_numpy(images))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return ofmaps


def _same(left: NDArray[np.float32], right: NDArray[np.float32]) -> bool:
    if left.shape != right.shape:
        return False
    scale = max(float(np.abs(right).max()), 1e-6)
    return float(np.abs(left - right).max()) <= TOLERANCE * scale
