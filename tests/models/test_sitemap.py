"""Sites are recognised by what they compute, not by their names."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from models.export import Exporter, export_onnx
from models.networks import NetworkSpec, build_network
from models.prediction import PredictZeros
from models.sitemap import attach_rule, match_sites, plan_of_modules
from spatialonnx.errors import DataError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.plan.masks import full_mask, uniform_mask
from spatialonnx.runtime.session import Runtime, open_session

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
RESNET18_RELUS = ["relu", *(f"{block}.relu{half}" for block in BLOCKS for half in (1, 2))]
IMAGES = np.random.default_rng(0).normal(size=(3, 1, 28, 28)).astype(np.float32)


def network(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = build_network(NetworkSpec(name, 5, 1, 2, 28)).train()
    with torch.no_grad():
        model(torch.randn(8, 1, 28, 28))
    return model.eval()


def spatial(model: nn.Module, folder: Path, exporter: Exporter = "torchscript") -> onnx.ModelProto:
    path = folder / "model.onnx"
    save_model(export_onnx(model, (1, 28, 28), {}, exporter=exporter), path)
    return insert(load_model(path)).model


def shuffled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same sites under arbitrary names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for i, node in enumerate(n for n in copy.graph.node if n.op_type == "SpatialPredict"):
        node.name = f"site{(i * 7) % 17}"
    return copy


@pytest.mark.parametrize("exporter", get_args(Exporter))
def test_resnet_sites_in_graph_order(tmp_path: Path, exporter: Exporter) -> None:
    model = network("resnet18")
    proto = shuffled(spatial(model, tmp_path, exporter))
    sites = match_sites(model, proto, IMAGES)
    assert list(sites) == [p.site for p in find_predictors(proto)]
    assert list(sites.values()) == RESNET18_RELUS


@pytest.mark.parametrize("exporter", get_args(Exporter))
@pytest.mark.parametrize("name", ["alexnet", "vgg16", "vgg16_bn"])
def test_relus_behind_fully_connected_layers_are_no_sites(
    name: str, exporter: Exporter, tmp_path: Path
) -> None:
    model = network(name)
    sites = match_sites(model, spatial(model, tmp_path, exporter), IMAGES)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(sites) == len(convs)
    assert all(path.startswith("features") for path in sites.values())


def test_a_plan_in_the_file_does_not_disturb(tmp_path: Path) -> None:
    model = network("resnet18")
    proto = spatial(model, tmp_path)
    masked = write_plan(proto, {p.site: uniform_mask(2, 1) for p in find_predictors(proto)})
    assert match_sites(model, masked, IMAGES) == match_sites(model, proto, IMAGES)


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    proto = spatial(network("resnet18"), tmp_path)
    with pytest.raises(DataError, match="give the checkpoint that the model was exported from"):
        match_sites(network("resnet18", seed=1), proto, IMAGES)


def test_torch_with_the_rule_computes_what_the_masked_model_does(tmp_path: Path) -> None:
    model = network("resnet18")
    proto = spatial(model, tmp_path)
    sites = match_sites(model, proto, IMAGES)
    patterns = {"relu": 1, "layer1.0.relu2": 9, "layer3.1.relu1": 2, "layer4.1.relu2": 4}
    masks = {path: uniform_mask(2, pattern) for path, pattern in patterns.items()}
    masked = write_plan(proto, plan_of_modules(masks, sites))
    dense = model(torch.from_numpy(IMAGES)).detach().numpy()
    attach_rule(model, masks)
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    (got,) = open_session(masked, Runtime(threads=1)).run({"images": IMAGES})
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    assert np.abs(dense - expected).max() > 1e-2 * np.abs(expected).max()


def test_the_rule_leaves_names_and_full_masks_alone() -> None:
    model = network("resnet18")
    names = list(model.state_dict())
    attach_rule(model, {"relu": uniform_mask(2, 9), "layer1.0.relu1": full_mask(2)})
    assert list(model.state_dict()) == names
    assert sum(isinstance(m, PredictZeros) for m in model.modules()) == 1


def test_sites_without_a_mask_are_off() -> None:
    plan = plan_of_modules({"relu": uniform_mask(2, 9)}, {"a": "relu", "b": "layer1.0.relu1"})
    assert plan == {"a": uniform_mask(2, 9)}
