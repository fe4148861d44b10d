"""Carrying a plan over to a network that was exported again."""

from __future__ import annotations

import onnx

from spatialonnx.errors import PlanError
from spatialonnx.graph.ops import read_plan
from spatialonnx.graph.sites import Site, find_sites
from spatialonnx.plan.masks import check_mask_shape
from spatialonnx.plan.plan import Plan


def carry_plan(source: onnx.ModelProto, target: onnx.ModelProto) -> Plan:
    """The plan of one model for the sites of another one of the same architecture.

    Sites of the same name correspond. An exporter that chose other names leaves their order, so
    where names differ, sites correspond by order, if there are as many and their ofmaps agree.

    Args:
        source: A model with a plan.
        target: A model with SpatialPredict nodes.

    Returns:
        The plan by the target's names.

    Raises:
        PlanError: The source has no plan, or the sites do not correspond.
    """
    plan = Plan(read_plan(source))
    if not plan.predicting:
        raise PlanError("the model named by --plan carries no plan: name one that predicts")
    theirs, ours = find_sites(source).sites, find_sites(target).sites
    names = {site.name: site for site in ours}
    if plan.predicting.keys() <= names.keys():
        pairs = [(site, names[site.name]) for site in theirs if site.name in plan.predicting]
    elif len(theirs) == len(ours):
        pairs = list(zip(theirs, ours, strict=True))
    else:
        raise PlanError(
            f"the plan has {len(theirs)} sites, this model {len(ours)}, and their names differ: "
            "export the same network, or leave out sites with --include and --exclude"
        )
    for theirs_site, ours_site in pairs:
        _check_same(theirs_site, ours_site)
    carried = Plan({our.name: plan[their.name] for their, our in pairs if their.name in plan})
    for _, site in pairs:
        if site.name in carried:
            check_mask_shape(carried[site.name], site.shape, site.name)
    return carried


def _check_same(theirs: Site, ours: Site) -> None:
    if theirs.shape != ours.shape:
        raise PlanError(
            f"site {theirs.name} of the plan is {_text(theirs)}, site {ours.name} of this model "
            f"{_text(ours)}: these are different networks"
        )


def _text(site: Site) -> str:
    return " x ".join("?" if d is None else str(d) for d in site.shape)
