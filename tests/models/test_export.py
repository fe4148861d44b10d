"""Both exporters against torch in ONNX Runtime, BatchNorm folding, and the command."""

import functools
import json
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from models.checkpoint import Checkpoint, write_checkpoint
from models.export import Exporter, describe, export_onnx, fold_batchnorm, main
from models.networks import NETWORKS, NetworkSpec, build_network
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.runtime.session import Runtime, open_session

EXPORTERS = get_args(Exporter)


def trained(name: str, size: int = 28, channels: int = 1) -> nn.Module:
    """A tiny network whose BatchNorm statistics are not the initial ones."""
    model = build_network(NetworkSpec(name, 5, channels, 2, size))
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(8, channels, size, size) * 3 + 1)
        for parameter in model.parameters():
            parameter += torch.rand_like(parameter) * 0.1
    return model.eval()


@functools.cache
def exported(name: str, exporter: Exporter) -> tuple[nn.Module, onnx.ModelProto]:
    """A tiny network and its export, made once because the dynamo exporter takes seconds."""
    model = trained(name)
    return model, export_onnx(model, (1, 28, 28), {"key": "value"}, exporter=exporter)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_computes_what_torch_does(name: str, exporter: Exporter) -> None:
    model, proto = exported(name, exporter)
    session = open_session(proto, Runtime(threads=1))
    for batch in (1, 2, 5):
        images = torch.randn(batch, 1, 28, 28)
        with torch.no_grad():
            expected = model(images).numpy()
        (got,) = session.run({"images": images.numpy()})
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert {e.key: e.value for e in proto.metadata_props} == {"key": "value"}


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "convs"), [("resnet18", 20), ("vgg16_bn", 13)])
def test_batch_norm_is_folded_into_a_free_batch(name: str, convs: int, exporter: Exporter) -> None:
    _, proto = exported(name, exporter)
    ops = [node.op_type for node in proto.graph.node]
    assert ops.count("Conv") == convs
    assert "BatchNormalization" not in ops
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert proto.ir_version <= 10
    assert {o.domain: o.version for o in proto.opset_import}[""] == 18


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_no_path_of_this_machine_is_written(exporter: Exporter) -> None:
    assert b".py" not in exported("resnet18", exporter)[1].SerializeToString()


def test_imagenets_stem() -> None:
    model = trained("resnet18", size=96, channels=3)
    proto = export_onnx(model, (3, 96, 96), {}, exporter="torchscript")
    assert "MaxPool" in [node.op_type for node in proto.graph.node]


def test_the_network_stays_as_it_was() -> None:
    model = trained("resnet18").train()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    export_onnx(model, (1, 28, 28), {}, exporter="torchscript")
    assert model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_fold_refuses_a_norm_without_a_convolution() -> None:
    with pytest.raises(ValueError, match="no convolution before the BatchNorm 1"):
        fold_batchnorm(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


def test_a_wrong_fold_is_noticed() -> None:
    class Twisted(nn.Module):
        """Registers its norms in another order than that of the calls."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn2 = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
            self.conv2, self.bn1 = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.bn2(self.conv2(self.bn1(self.conv1(x))))
            return x.mean((2, 3))

    model = Twisted()
    model.bn1.running_mean = torch.tensor([5.0, -2.0])
    with pytest.raises(AssertionError, match="off by"):
        export_onnx(model, (1, 4, 4), {}, exporter="torchscript")


def test_facts() -> None:
    preprocessing = Preprocessing(size=(28, 28), channels=1, mean=(0.5,), std=(0.25,))
    facts = describe("mnist", preprocessing, 1, 3, "the command")
    assert facts["spatialonnx.data"] == "mnist"
    assert facts["spatialonnx.command"] == "the command"
    baseline = {"top1": 0.333333, "split": "test", "correct": 1, "samples": 3}
    assert json.loads(facts["spatialonnx.baseline"]) == baseline
    assert Preprocessing.from_json(facts["spatialonnx.input"]) == preprocessing


def test_facts_of_a_users_own_data_name_no_set() -> None:
    assert set(describe(None, None, 1, 3, "c")) == {"spatialonnx.baseline", "spatialonnx.command"}


def test_command_exports_a_checkpoint_of_training(tmp_path: Path) -> None:
    spec = NetworkSpec("resnet18", 5, 1, 2, 28)
    state = trained("resnet18").state_dict()
    note = {"network": spec.to_json(), "facts": {"spatialonnx.data": "mnist"}}
    write_checkpoint(tmp_path / "a.safetensors", Checkpoint(state, note))
    line = ["--weights", str(tmp_path / "a.safetensors"), "-o", str(tmp_path / "a.onnx")]
    line += ["--exporter", "torchscript"]
    assert main(["resnet18", *line]) == 0
    proto = onnx.load(tmp_path / "a.onnx")
    assert [(e.key, e.value) for e in proto.metadata_props] == [("spatialonnx.data", "mnist")]
    assert main(["resnet18", *line]) == 2  # the file is there now
    assert main(["resnet18", *line, "--force"]) == 0
    assert main(["vgg16", *line, "--force"]) == 2  # the checkpoint is of another network


def test_command_exports_a_bare_state_dict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(trained("alexnet", size=32, channels=3).state_dict(), tmp_path / "a.pth")
    line = ["alexnet", "--weights", str(tmp_path / "a.pth"), "-o", str(tmp_path / "a.onnx")]
    shape = ["--width", "2", "--classes", "5", "--size", "32"]
    assert main([*line, *shape, "--exporter", "torchscript"]) == 0
    dims = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims][1:] == [3, 32, 32]
    capsys.readouterr()
    assert main([*line, "--force"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the checkpoint's features.0.weight is [2, 3, 3, 3]")
    assert error.count("\n") == 1
