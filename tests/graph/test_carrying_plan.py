"""A plan taken over by a network that was exported again."""

import onnx
import pytest
from support.models import depthwise, plain, residual

from spatialonnx.errors import PlanError
from spatialonnx.graph.carrying_plan import carry_plan
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.plan import Plan


def spatial(proto: onnx.ModelProto) -> onnx.ModelProto:
    return insert(proto, threads=1).model


def rename(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with other names of tensors, as another exporter writes it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    new = {n: f"other_{n}" for node in proto.graph.node for n in node.output}
    for node in copy.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
    for value in copy.graph.output:
        value.name = new[value.name]
    return copy


def with_plan(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    sites = [p.site for p in find_predictors(proto)]
    return write_plan(proto, {sites[0]: uniform_mask(2, 9), sites[2]: uniform_mask(3, 16)}), sites


def test_sites_of_the_same_name_correspond() -> None:
    source, sites = with_plan(spatial(residual()))
    plan = carry_plan(source, spatial(residual(seed=5)))
    assert plan.predicting == Plan({sites[0]: uniform_mask(2, 9), sites[2]: uniform_mask(3, 16)})


def test_sites_of_other_names_correspond_by_order() -> None:
    source, sites = with_plan(spatial(residual()))
    target = spatial(rename(residual()))
    plan = carry_plan(source, target)
    assert list(plan.predicting) == [f"other_{sites[0]}", f"other_{sites[2]}"]
    assert list(plan.predicting.values()) == [uniform_mask(2, 9), uniform_mask(3, 16)]


def test_another_network_is_refused() -> None:
    source, _ = with_plan(spatial(residual()))
    for other, message in (
        (plain(), "has 3 sites, this model 2"),
        (depthwise(), "these are different networks"),
    ):
        with pytest.raises(PlanError, match=message):
            carry_plan(source, spatial(rename(other)))


def test_a_model_without_a_plan_is_refused() -> None:
    proto = spatial(plain())
    with pytest.raises(PlanError, match="carries no plan"):
        carry_plan(proto, proto)
