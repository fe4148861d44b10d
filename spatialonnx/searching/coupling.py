"""Coupled sites: groups of sites that are optimised jointly (report, section 5.2.3.4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx

from spatialonnx.errors import UsageError
from spatialonnx.files import read_regular
from spatialonnx.graph.ops import find_predictors
from spatialonnx.graph.sites import Site
from spatialonnx.searching.modes import Groups

_LARGEST = 64 << 20
"""Bytes of a file of groups."""


def find_groups(couple: str, proto: onnx.ModelProto, sites: tuple[Site, ...]) -> Groups:
    """The groups of ``--couple``.

    Args:
        couple: ``none``, ``block`` (Convs between two residual Adds), ``stage`` (blocks whose
            maps have the same size) or a JSON file: a list of lists of site names.
        proto: The model.
        sites: Its sites, in graph order.

    Raises:
        UsageError: The file is missing, is not such a list, or names an unknown site.
    """
    names = [site.name for site in sites]
    if couple == "none":
        return tuple((name,) for name in names)
    if couple == "block":
        return _in_order(names, _blocks(proto, names))
    if couple == "stage":
        return _in_order(names, _stages(proto, sites))
    return _read_groups(Path(couple), names)


def _blocks(proto: onnx.ModelProto, names: list[str]) -> Mapping[str, object]:
    """A site's block: how many residual Adds lie behind the input of its ReLU's Conv chain.

    Sites at the same depth of residual Adds belong to one block: the site that ends a block has
    its Add before its own ReLU, so that Add is not counted for it.
    """
    depth: dict[str, int] = {}
    ends: dict[str, int] = {}
    producers = {output: node for node in proto.graph.node for output in node.output}
    predictors = {p.source: p.site for p in find_predictors(proto)}
    constants = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        inputs = [name for name in node.input if name and name not in constants]
        level = max((depth.get(name, 0) for name in inputs), default=0)
        joins = (
            node.op_type in ("Add", "Sum")
            and len(inputs) == 2
            and all(name in producers for name in inputs)
        )
        for output in node.output:
            depth[output] = level + (1 if joins else 0)
            if output in predictors:
                ends[predictors[output]] = depth[output] - _own_add(node, producers, constants)
    return {name: ends.get(name, -1) for name in names}


def _own_add(
    relu: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], constants: set[str]
) -> int:
    before = producers.get(relu.input[0]) if relu.input else None
    if before is None or before.op_type not in ("Add", "Sum"):
        return 0
    return int(sum(name in producers and name not in constants for name in before.input) == 2)


def _stages(proto: onnx.ModelProto, sites: tuple[Site, ...]) -> Mapping[str, object]:
    """A site's stage: the size of its block's last map, so a block stays whole."""
    blocks = _blocks(proto, [site.name for site in sites])
    last = {blocks[site.name]: site.shape[1:] for site in sites}
    return {site.name: last[blocks[site.name]] for site in sites}


def _in_order(names: list[str], home: Mapping[str, object]) -> Groups:
    groups: dict[object, list[str]] = {}
    for name in names:
        groups.setdefault(home[name], []).append(name)
    return tuple(tuple(group) for group in groups.values())


def _read_groups(path: Path, names: list[str]) -> Groups:
    try:
        value = json.loads(read_regular(path, _LARGEST))
    except OSError as error:
        raise UsageError(
            f"--couple {path}: {error.strerror}; use none, block, stage or a JSON file"
        ) from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(
        isinstance(group, list) and all(isinstance(name, str) for name in group) for group in value
    ):
        raise UsageError(f"--couple {path}: the file must hold a JSON list of lists of site names")
    listed = [name for group in value for name in group]
    if unknown := sorted(set(listed) - set(names)):
        raise UsageError(f"--couple {path}: {unknown[0]} is not a site of this model")
    if len(set(listed)) != len(listed):
        raise UsageError(f"--couple {path}: a site is in two groups")
    home: dict[str, object] = {name: name for name in names}
    for index, group in enumerate(value):
        home.update(dict.fromkeys(group, index))
    return _in_order(names, home)
