"""Searches on Ray: three nodes in processes of their own, one that dies, a driver that dies."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.few_channels import few_channels
from support.searching import make_job, read_journal
from support.trained import TinyFiles

from spatialonnx.graph.insert import insert
from spatialonnx.measure.experiment import open_data
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import Settings
from spatialonnx.simulate.ray_connection import ClusterPlace

pytest.importorskip("ray", reason="needs Ray: pip install 'spatialonnx[ray]'")
# Ray's own code, not this package's.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SHIPPED = Path(__file__).parents[2] / "models/pretrained/resnet18-w16-fashion-mnist.onnx"
SETTINGS = Settings(mode="uniform-patch", strategy="greedy", patterns={2: (1, 6, 9, 14)})


@pytest.fixture(scope="module")
def nodes():
    """A head and two more nodes, with one processor each, as Ray's own tests start them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A job on the shipped network: one channel in 16, few samples."""
    folder = tmp_path_factory.mktemp("shipped")
    spatial = folder / "model.spatial.onnx"
    save_model(insert(load_model(SHIPPED), threads=1).model, spatial)
    dataset = open_data(load_model(spatial), "fashion-mnist-sample")
    files = TinyFiles(spatial, spatial, spatial)
    job = make_job(files, folder, settings=SETTINGS, dataset=dataset)
    few = replace(job.experiment.split, search=job.experiment.split.search[:40])
    return replace(job, experiment=replace(job.experiment, split=few))


def search(job, folder, place=None, progress=None):
    folder.mkdir()
    files = replace(job.files, study=folder / "study.db", output=None)
    with few_channels(16):
        report = search_masks(replace(job, files=files, cluster=place), progress)
    return read_journal(folder / "study.db"), [result.plan for result in report.results]


def test_three_nodes_give_the_records_and_masks_of_a_local_run_though_one_dies(
    nodes, shipped, tmp_path
):
    expected = search(shipped, tmp_path / "local")
    address = ClusterPlace(address=nodes.address)
    assert search(shipped, tmp_path / "three", address) == expected

    told = []

    def kill_one(progress):
        told.append(progress)
        if progress.stage == "first pass" and progress.done > progress.total // 4:
            for node in nodes.worker_nodes.copy():
                if len(nodes.worker_nodes) == 2:
                    nodes.remove_node(node, allow_graceful=False)

    assert search(shipped, tmp_path / "one dies", address, kill_one) == expected
    assert any(progress.warning and "died" in progress.stage for progress in told)
    assert any(progress.note.startswith("3 workers") for progress in told)
    assert told[-1].note == "" or told[-1].note.startswith("2 workers")


# A shell that starts the tests in the background has Ctrl-C ignored.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from spatialonnx.cli import main; main()"
)


def command(files, folder, *options):
    return [
        sys.executable, "-P", "-c", MAIN, "search", files.spatial.name, "--data", files.spec,
        "--mode", "uniform-patch", "--strategy", "greedy", "--eps", "0.05", "--threads", "1",
        "--patch-size", "3", "--ones-range", "1:3",
        "--study", str(folder / "study.db"), "-o", str(folder / "out.masked.onnx"), *options,
    ]  # fmt: skip


def start_and_wait(files, folder, trials):
    """Starts a search on two workers and waits until it has journalled some trials."""
    process = subprocess.Popen(
        command(files, folder, "--cluster", "local:2"), stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        if (folder / "study.db").exists() and count(folder / "study.db") >= trials:
            break
        time.sleep(0.02)
    # Ray's agents look for the others only from time to time.
    return process, [(p, p.name()) for p in psutil.Process(process.pid).children(recursive=True)]


def count(path):
    try:
        return len(read_journal(path))
    except Exception:  # it is just being created
        return 0


def wait_until_gone(processes):
    gone, alive = psutil.wait_procs([p for p, name in processes if "Agent" not in name], timeout=60)
    assert not alive and gone


def test_a_driver_that_is_killed_goes_on_here_and_its_workers_end(tiny, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    process, workers = start_and_wait(tiny, cut, 20)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    wait_until_gone(workers)
    begun = read_journal(cut / "study.db")
    # A search that was begun on workers goes on in one process.
    for folder in (cut, whole):
        done = subprocess.run(command(tiny, folder, "--quiet"), capture_output=True)
        assert done.returncode in (0, 3)  # 3: the bound is missed on verify, which is a result
    assert read_journal(cut / "study.db") == read_journal(whole / "study.db")
    assert len(begun) < len(read_journal(cut / "study.db"))


def test_ctrl_c_keeps_the_best_plan_and_ends_the_workers(tiny, tmp_path):
    process, workers = start_and_wait(tiny, tmp_path, 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "stopped: " in err and "Traceback" not in err
    wait_until_gone(workers)
