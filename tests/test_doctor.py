"""Doctor: what it finds, and what it reports as broken."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from spatialonnx import doctor
from spatialonnx.doctor import Finding, examine
from spatialonnx.errors import LibraryError
from spatialonnx.runtime.session import Runtime, open_session


def found(findings, what):
    (finding,) = [f for f in findings if f.what == what]
    return finding


@pytest.fixture
def runtimes(monkeypatch):
    """Lets a test choose which packages of ONNX Runtime are installed."""
    real = doctor._version

    def install(*names):
        monkeypatch.setattr(
            doctor.importlib.metadata,
            "packages_distributions",
            lambda: {"numpy": ["numpy"], **({"onnxruntime": list(names)} if names else {})},
        )
        monkeypatch.setattr(
            doctor, "_version", lambda name: "1.31.0" if name in names else real(name)
        )

    return install


def test_this_machine_is_in_order():
    findings = examine()
    assert all(f.good for f in findings if not f.optional)
    assert found(findings, "ops in ONNX Runtime").found == "run"
    assert "libspatialonnx_ops" in found(findings, "op library").found
    assert found(findings, "provider CPU").found == "loads"
    assert any(f.what.startswith("data set fashion-mnist") and f.good for f in findings)


def test_two_runtimes_side_by_side_are_broken(runtimes):
    runtimes("onnxruntime-gpu", "onnxruntime")
    finding = found(examine(), "one ONNX Runtime")
    assert not finding.good and finding.state == "BROKEN"
    assert "pip uninstall onnxruntime onnxruntime-gpu" in finding.found


@pytest.mark.parametrize(
    "packages",
    [("onnxruntime",), ("onnxruntime-gpu",), ("onnxruntime-openvino", "onnxruntime-openvino"), ()],
)
def test_any_one_runtime_is_in_order(runtimes, packages):
    """Also another vendor's build, and one that no package holds."""
    runtimes(*packages)
    findings = examine()
    assert found(findings, "one ONNX Runtime").good
    named = [f for f in findings if f.what.startswith("onnxruntime")]
    assert [f.what for f in named] == sorted(set(packages))
    assert all(f.good for f in named)


def test_a_missing_library_is_broken(monkeypatch):
    def missing(*args, **options):
        raise LibraryError("the op library is not built: run pip install .")

    monkeypatch.setattr(doctor, "build_info", missing)
    monkeypatch.setattr(doctor, "open_session", missing)
    findings = examine()
    for what in ("op library", "ops in ONNX Runtime"):
        assert found(findings, what).state == "BROKEN"
        assert "pip install" in found(findings, what).found


def test_states_of_findings():
    assert Finding("a", "b").state == "ok"
    assert Finding("a", "b", good=False, optional=True).state == "-"
    assert Finding("a", "b", good=False).state == "BROKEN"


def test_a_missing_data_set_is_optional(monkeypatch, tmp_path):
    monkeypatch.setenv("SPATIALONNX_DATA", str(tmp_path))
    finding = found(examine(), "data set imagenet")
    assert finding.state == "-"
    assert "imagenet" in finding.found.lower()


def test_ops_on_cuda(monkeypatch):
    """CUDA kernels: compiled in or not, and used only where the provider loads."""
    monkeypatch.setattr(doctor, "build_info", lambda: {"cuda": False})
    assert "not compiled in" in found(examine(), "ops on CUDA").found
    monkeypatch.setattr(doctor, "build_info", lambda: {"cuda": True})
    monkeypatch.setattr(doctor, "cuda_unavailable", lambda: "no driver")
    finding = found(examine(), "ops on CUDA")
    assert finding.state == "-" and "nothing to run them on" in finding.found
    monkeypatch.setattr(doctor, "cuda_unavailable", lambda: "")
    asked = []

    def on_cuda(proto, runtime):
        asked.append(runtime.provider)
        return open_session(proto, Runtime("cpu", 1))

    monkeypatch.setattr(doctor, "open_session", on_cuda)
    assert found(examine(), "ops on CUDA").found == "run"
    assert asked == ["cpu", "cuda"]


def test_half_a_cuda_is_one_line(tmp_path):
    """A driver without a device: ONNX Runtime's own messages about it are hidden."""
    compiler = shutil.which("cc")
    assert compiler is not None
    (tmp_path / "driver.c").write_text("int spatialonnx_driver;\n")
    driver = tmp_path / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-o", str(driver), str(tmp_path / "driver.c")]
    subprocess.run(command, check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    code = (
        "import logging\n"
        "from spatialonnx.cli.options import CommonOptions\n"
        "logging.basicConfig(format='%(message)s')\n"
        "print(CommonOptions().runtime().provider)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "cpu\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("running on the CPU: its libraries (CUDA, cuDNN) or the device")
    doctor = [sys.executable, "-m", "spatialonnx", "doctor", "--json"]
    done = subprocess.run(doctor, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    findings = {f["what"]: f for f in json.loads(done.stdout)["findings"]}
    assert not findings["provider CUDA"]["good"]
