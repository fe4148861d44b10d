"""Groups of coupled sites, from the graph or from a file."""

import json

import pytest
from support.models import Net

from spatialonnx.errors import UsageError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.sites import find_sites
from spatialonnx.searching.coupling import find_groups


@pytest.fixture(scope="module")
def network():
    """A ResNet of three blocks in two stages: stem, 2 x identity shortcut, 1 x projection."""
    net = Net(("n", 3, 8, 8))
    x = net.relu(net.conv("x", 4))
    for _ in range(2):
        inner = net.relu(net.conv(x, 4))
        x = net.relu(net.node("Add", net.conv(inner, 4), x))
    inner = net.relu(net.conv(x, 6, strides=[2, 2]))
    short = net.conv(x, 6, kernel=1, strides=[2, 2])
    x = net.relu(net.node("Add", net.conv(inner, 6), short))
    proto = net.model(net.head(x))
    spatial = insert(proto, threads=1).model
    return spatial, find_sites(spatial, {"x": (1, 3, 8, 8)}).sites


def positions(network, couple):
    proto, sites = network
    names = [site.name for site in sites]
    groups = find_groups(couple, proto, sites)
    assert sorted(name for group in groups for name in group) == sorted(names)
    return [[names.index(name) for name in group] for group in groups]


def test_uncoupled_sites_are_alone(network):
    assert positions(network, "none") == [[i] for i in range(7)]


def test_blocks_end_at_their_residual_add(network):
    # The stem's site belongs to no block: it stands before the first one.
    found = positions(network, "block")
    assert [1, 2] in found or [0, 1, 2] in found
    assert [3, 4] in found
    assert [5, 6] in found


def test_stages_are_blocks_with_maps_of_one_size(network):
    found = positions(network, "stage")
    assert found[-1] == [5, 6]
    assert sorted(i for group in found[:-1] for i in group) == [0, 1, 2, 3, 4]
    assert [1, 2, 3, 4] in found or [0, 1, 2, 3, 4] in found


def test_groups_of_a_file(network, tmp_path):
    proto, sites = network
    names = [site.name for site in sites]
    path = tmp_path / "groups.json"
    path.write_text(json.dumps([[names[4], names[0]], [names[2]]]))
    groups = find_groups(str(path), proto, sites)
    assert [[names.index(n) for n in group] for group in groups] == [
        [0, 4],
        [1],
        [2],
        [3],
        [5],
        [6],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "JSON list of lists"),
        ("{}", "JSON list of lists"),
        ("[1]", "JSON list of lists"),
        ("[[1]]", "JSON list of lists"),
        ("[" * 100_000, "JSON list of lists"),
        ('[["nowhere"]]', "nowhere is not a site"),
        ('[["SITE"], ["SITE"]]', "in two groups"),
        ('[["SITE", "SITE"]]', "in two groups"),
    ],
)
def test_files_that_are_refused(network, tmp_path, content, message):
    proto, sites = network
    path = tmp_path / "groups.json"
    if content is not None:
        path.write_text(content.replace("SITE", sites[0].name))
    with pytest.raises(UsageError, match=message):
        find_groups(str(path), proto, sites)
