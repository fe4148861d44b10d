"""Checkpoints: what is written comes back, foreign ones load, and nothing is executed."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.checkpoint import (
    Checkpoint,
    load_weights,
    read_checkpoint,
    read_exported,
    write_checkpoint,
)
from models.export import export_onnx
from models.networks import NetworkSpec, build_network
from spatialonnx.errors import DataError, OutputError
from spatialonnx.model.model_file import save_model


def network(classes: int = 3, width: int = 2) -> nn.Module:
    return build_network(NetworkSpec("resnet18", classes, 1, width, 28))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = network().state_dict()
    write_checkpoint(path, Checkpoint(state, {"epoch": 3}))
    back = read_checkpoint(path)
    assert back.note == {"epoch": 3}
    assert set(back.tensors) == set(state)
    assert all(torch.equal(back.tensors[n], v) for n, v in state.items())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 1}])
def test_torch_state_dict(tmp_path: Path, wrap: object) -> None:
    state = network().state_dict()
    torch.save(wrap(state), tmp_path / "a.pth")  # type: ignore[operator]
    back = read_checkpoint(tmp_path / "a.pth")
    assert not back.note
    assert all(torch.equal(back.tensors[n], v) for n, v in state.items())


def test_data_parallel_prefix_is_dropped(tmp_path: Path) -> None:
    torch.save({f"module.{n}": v for n, v in network().state_dict().items()}, tmp_path / "a.pth")
    assert (
        load_weights(network(), read_checkpoint(tmp_path / "a.pth").tensors, new_head=False) == []
    )


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_code_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    torch.save({"weight": Attack(mark)}, tmp_path / "a.pth")
    with (tmp_path / "b.pth").open("wb") as file:
        pickle.dump(Attack(mark), file)
    for name in ("a.pth", "b.pth"):
        with pytest.raises(DataError, match="not a state dict of plain tensors"):
            read_checkpoint(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 64, b"PK\x03\x04broken"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_checkpoint(path)


def test_truncated_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, Checkpoint(network().state_dict()))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged safetensors"):
        read_checkpoint(path)


def test_a_deeply_nested_note_is_refused(tmp_path: Path) -> None:
    """The JSON reader ends in a RecursionError, which no caller expects."""
    path = tmp_path / "a.safetensors"
    metadata = {"spatialonnx": "[" * 100_000 + "]" * 100_000}
    save_file({"weight": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(DataError, match="damaged safetensors"):
        read_checkpoint(path)


def test_missing_file_and_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(OutputError):
        write_checkpoint(tmp_path / "none" / "a.safetensors", Checkpoint({}))


def test_every_tensor_arrives() -> None:
    torch.manual_seed(5)
    source = network()
    target = network()
    assert load_weights(target, source.state_dict(), new_head=False) == []
    ours, theirs = target.state_dict(), source.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_old_checkpoints_lack_batch_counts() -> None:
    state = {n: v for n, v in network().state_dict().items() if "num_batches" not in n}
    assert load_weights(network(), state, new_head=False) == []


def test_another_number_of_classes_keeps_the_new_head() -> None:
    source, target = network(classes=5), network(classes=3)
    before = target.state_dict()["fc.weight"].clone()
    assert load_weights(target, source.state_dict(), new_head=True) == ["fc.weight", "fc.bias"]
    assert torch.equal(target.state_dict()["fc.weight"], before)
    assert torch.equal(target.state_dict()["conv1.weight"], source.state_dict()["conv1.weight"])
    with pytest.raises(DataError, match=r"fc.weight is \[5, 16\], the network's is \[3, 16\]"):
        load_weights(target, source.state_dict(), new_head=False)


def test_another_network_is_refused() -> None:
    state = network().state_dict()
    with pytest.raises(DataError, match=r"lacks conv1\.weight"):
        load_weights(
            network(), {n: v for n, v in state.items() if n != "conv1.weight"}, new_head=True
        )
    with pytest.raises(DataError, match="has the unknown extra"):
        load_weights(network(), {**state, "extra": torch.zeros(1)}, new_head=True)
    with pytest.raises(DataError, match="check the width"):
        load_weights(network(width=4), state, new_head=True)


def test_a_network_without_batch_norm_starts_from_an_export(tmp_path: Path) -> None:
    shape = (3, 1, 4, 28)  # classes, channels, width, size
    trained = build_network(NetworkSpec("vgg6_bn", *shape)).eval()
    with torch.no_grad():
        for norm in (m for m in trained.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    path = tmp_path / "bn.onnx"
    save_model(export_onnx(trained, (1, 28, 28), {}, exporter="torchscript"), path)
    plain = build_network(NetworkSpec("vgg6", *shape)).eval()
    assert load_weights(plain, read_exported(path, plain), new_head=False) == []
    images = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(plain(images), trained(images), atol=1e-4)
    other = build_network(NetworkSpec("vgg6_bn", *shape))
    with pytest.raises(DataError, match=r"14 weights and biases, .* without BatchNorm"):
        read_exported(path, other)
