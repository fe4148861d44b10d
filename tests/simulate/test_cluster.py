"""The driver of a cluster: same records in any order, nothing lost, and who is refused.

Here workers are objects in this process. Tests with Ray itself are in tests/searching.
"""

from dataclasses import replace

import numpy as np
import pytest
from support.fakeray import FakeRay
from support.searching import change_job, make_job, read_journal

from spatialonnx.errors import ClusterError, DataError, UsageError
from spatialonnx.searching.run import make_simulator, make_task
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.study import Study
from spatialonnx.searching.trials import BudgetSpent
from spatialonnx.simulate import cluster, ray_connection, worker
from spatialonnx.simulate.cluster import ClusterExecutor
from spatialonnx.simulate.ray_connection import ClusterPlace, parse_cluster
from spatialonnx.simulate.segmented import KnownOutputs
from spatialonnx.simulate.worker import Versions, Worker, pack_workload

SETTINGS = Settings(mode="uniform-patch", strategy="greedy", patterns={2: (1, 6, 9)})


@pytest.fixture(scope="module")
def job(tiny_files, tmp_path_factory):
    return make_job(tiny_files, tmp_path_factory.mktemp("job"), settings=SETTINGS)


@pytest.fixture(scope="module")
def simulator(job):
    return make_simulator(job)


@pytest.fixture(scope="module")
def workload(job, simulator):
    return pack_workload(job.experiment, simulator.known, threads=1, initial={}, memory=None)


@pytest.fixture(scope="module")
def expected(job, simulator, tmp_path_factory):
    return search(job, simulator, None, tmp_path_factory.mktemp("local"))


def search(job, simulator, executor, folder):
    """The journal of all passes, without certification."""
    path = folder / "study.db"
    with Study(path) as study:
        task = make_task(job, simulator, study, None, executor)
        job.strategy.run(task)
    return read_journal(path)


def executor_of(ray, workload, simulator, **options):
    names = [site.name for site in simulator.sites]
    return ClusterExecutor(ray, workload, names, initial={}, **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_records_are_those_of_a_local_run(
    job, simulator, workload, expected, tmp_path, workers, seed
):
    ray = FakeRay({"a": workers // 2, "b": workers - workers // 2}, seed)
    executor = executor_of(ray, workload, simulator)
    assert search(job, simulator, executor, tmp_path) == expected
    assert len(ray.started) == workers
    executor.close()
    assert ray.killed == workers


@pytest.mark.parametrize("deaths", [{1}, {3, 4}, {2, 6, 10}])
def test_what_a_dead_worker_had_is_run_again(
    job, simulator, workload, expected, tmp_path, deaths, monkeypatch
):
    monkeypatch.setattr(cluster, "_NEW_NODES", 0.0)
    told = []
    ray = FakeRay({"a": 1, "b": 2}, 1, frozenset(deaths))
    executor = executor_of(ray, workload, simulator, progress=told.append)
    assert search(job, simulator, executor, tmp_path) == expected
    assert sum("died" in progress.stage for progress in told) == len(deaths)
    assert len(ray.started) == 3 + len(deaths)


def test_a_trial_that_ends_every_worker_is_given_up(job, simulator, workload, tmp_path):
    ray = FakeRay({"a": 1}, deaths=frozenset(range(1000)))
    with pytest.raises(ClusterError, match="3 workers died with the same trials"):
        search(job, simulator, executor_of(ray, workload, simulator), tmp_path)


def test_a_node_that_joins_gets_workers(job, simulator, workload, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_NEW_NODES", 0.0)
    ray = FakeRay({"a": 1})
    executor = executor_of(ray, workload, simulator)
    ray.nodes_now["b"] = 2
    assert search(job, simulator, executor, tmp_path) == expected
    assert sorted(ray.started) == ["a", "b", "b"]


def test_no_more_workers_than_wanted(workload, simulator):
    ray = FakeRay({"a": 8})
    executor = executor_of(ray, workload, simulator, workers=3)
    assert list(executor.run([], None, lambda _: True)) == []
    assert len(ray.started) == 3


def test_without_room_it_is_said_in_one_line(workload, simulator, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", -1.0)
    executor = executor_of(FakeRay({"a": 0}), workload, simulator)
    with pytest.raises(ClusterError, match="no node of the cluster has room"):
        list(executor.run([{}], None, lambda _: True))


def test_workers_that_do_not_start_are_mentioned(workload, simulator, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", -1.0)
    told = []
    executor = executor_of(FakeRay({"a": 1}), workload, simulator, progress=told.append)
    list(executor.run([{}], None, lambda _: True))
    assert any("no worker has started yet" in progress.stage for progress in told)


def test_a_worker_with_other_versions_is_left_out(workload, simulator, monkeypatch):
    told = []
    executor = executor_of(FakeRay({"a": 2}), workload, simulator, progress=told.append)
    monkeypatch.setattr(Worker, "versions", lambda self: Versions(onnxruntime="0.1"))
    with pytest.raises(ClusterError, match=r"no worker can be used: .* it has onnxruntime 0.1"):
        list(executor.run([{}], None, lambda _: True))
    assert [progress.warning for progress in told] == [True]


def test_a_worker_that_rounds_differently_is_left_out(workload):
    one = Worker()
    assert one.open(workload, workload.digest(), 1) == ""
    nudged = [np.nextafter(array, np.inf) for array in workload.known.off]
    other = replace(workload, known=KnownOutputs(nudged, workload.known.dense, 1.0))
    assert "rounds differently" in one.open(other, other.digest(), 1)


def test_other_bytes_than_were_sent_are_noticed(workload):
    assert "other bytes" in Worker().open(workload, "0" * 64, 1)


def test_the_digest_covers_model_images_and_labels(workload):
    changed = [
        replace(workload, model=workload.model[1:]),
        replace(workload, images=workload.images + 1),
        replace(workload, labels=workload.labels[::-1]),
        replace(workload, initial="other"),
    ]
    digests = {w.digest() for w in (workload, *changed)}
    assert len(digests) == 5


def test_an_error_of_a_worker_is_the_search_s(workload, simulator, monkeypatch):
    def fails(self, plans, reject_above):
        raise DataError("broken")

    monkeypatch.setattr(Worker, "run", fails)
    executor = executor_of(FakeRay({"a": 1}), workload, simulator)
    with pytest.raises(DataError, match="broken"):
        list(executor.run([{}], None, lambda _: True))


def test_budgets_count_the_trials_that_were_started(job, simulator, workload, tmp_path):
    limited = change_job(job, trials=7)
    with Study(tmp_path / "study.db") as study:
        executor = executor_of(FakeRay({"a": 3}), workload, simulator)
        with pytest.raises(BudgetSpent):
            limited.strategy.run(make_task(limited, simulator, study, None, executor))
        assert study.count() == 7


def test_status_names_workers_and_trials(workload, simulator):
    executor = executor_of(FakeRay({"a": 1}), workload, simulator)
    assert executor.status == "0 workers, 0 trials in flight"
    list(executor.run([{}], None, lambda _: True))
    assert executor.status == "1 worker, 0 trials in flight"


def test_a_metric_that_is_code_is_not_sent(job, simulator):
    metric = replace(job.experiment.metric, name="python:own:metric", function=lambda *_: 1.0)
    own = replace(job.experiment, metric=metric)
    with pytest.raises(ClusterError, match="never code"):
        pack_workload(own, simulator.known, threads=1, initial={}, memory=None)


def test_memory_is_shared_by_the_workers_of_a_node(workload, monkeypatch):
    given = []
    monkeypatch.setattr(worker, "SegmentSimulator", lambda *_, **options: given.append(options))
    worker.open_workload(replace(workload, memory=9_000), 3)
    assert given[0]["memory"] == 3_000


def test_the_places_of_workers():
    assert parse_cluster("auto") == ClusterPlace()
    assert parse_cluster("local:3", threads=2) == ClusterPlace(workers=3, threads=2)
    assert parse_cluster("10.0.0.1:6379") == ClusterPlace("10.0.0.1:6379")
    for wrong in ("local:", "local:0", "local:-1", "local:x", "", "somewhere"):
        with pytest.raises(UsageError, match="--cluster"):
            parse_cluster(wrong)


def test_without_ray_one_line_says_how_to_install_it(job, monkeypatch, tmp_path):
    monkeypatch.setattr(ray_connection, "find_spec", lambda name: None)
    from spatialonnx.searching.run import search_masks

    with pytest.raises(ClusterError, match=r"pip install 'spatialonnx\[ray\]'"):
        search_masks(replace(job, cluster=ClusterPlace(workers=1)))
