"""SnaPEA's Algorithm 1: trials against whole runs, the passes' rules, and continuing a study."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from support.comparing import make_experiment
from support.snapea_nodes import node_cases
from support.snapea_oracle import expect

from spatialonnx.baseline import algorithm
from spatialonnx.baseline.algorithm import LayerOption, next_layer
from spatialonnx.baseline.comparison import Comparer
from spatialonnx.baseline.kernels import Grid, SiteProfile, profile_site
from spatialonnx.baseline.nonnegative import find_candidates
from spatialonnx.baseline.predictive import Under, search_guesses
from spatialonnx.baseline.site_op import SiteInputs, SiteOp
from spatialonnx.baseline.snapea_graph import (
    Guess,
    dense_macs,
    guesses_key,
    run_early,
    snapea_model,
)
from spatialonnx.baseline.suffix_network import SuffixNetwork
from spatialonnx.errors import StudyError, UsageError
from spatialonnx.measure.metrics import TOP1, Metric
from spatialonnx.measure.samples import Samples
from spatialonnx.plan.masks import SiteMask
from spatialonnx.searching.study import Study

GRID = Grid((0.125, 0.25), (0.05, 0.3))


def whole_run(experiment, site, guess, plan=None):
    """The whole network with one site that guesses: right search samples, and its MACs."""
    proto = snapea_model(experiment.model.proto, [site], guesses={site: guess}, plan=plan)
    run = run_early(proto, [site], experiment.search, experiment.runtime, experiment.batch)
    return int(TOP1.right(run.outputs, experiment.search.labels).sum()), run.done[site]


def make_plan(experiment):
    """A plan with other patches and thresholds at every site."""
    sites = Comparer(experiment).sites
    masks = [
        SiteMask(p, np.full((1, 1, 1), pattern, np.uint16), np.full(1, threshold, np.float32))
        for p, pattern, threshold in ((2, 9, 0.1), (3, 84, 0.0), (2, 1, 0.2))
    ]
    return {site.name: mask for site, mask in zip(sites, masks, strict=True)}


@pytest.mark.parametrize("masked", [False, True], ids=["alone", "under a plan"])
def test_every_kernel_alone_gives_what_the_whole_network_gives(tiny, masked):
    experiment = make_experiment(tiny)
    names = find_candidates(experiment).names
    plan = make_plan(experiment) if masked else {}
    dense = Comparer(experiment).certifier.run_dense(experiment.search)
    suffix = SuffixNetwork(experiment, experiment.search, dense.outputs, plan)
    changed = 0
    for name in names:
        op = SiteOp(experiment.model.proto, name, experiment.runtime, plan.get(name))
        inputs = SiteInputs(experiment.model.proto, op.reads, experiment.runtime, plan)
        profile = profile_site(suffix, op, inputs, GRID)
        assert profile.macs.shape == (4, op.kernels)
        assert SiteProfile.from_text(profile.to_text()).guess([0] * op.kernels).threshold.tolist()
        for t in range(4):
            for kernel in range(op.kernels):
                choice = [-1] * op.kernels
                choice[kernel] = t
                right, done = whole_run(experiment, name, profile.guess(choice), plan or None)
                assert right == profile.right[t, kernel]
                changed += right != suffix.scorer.off_right.sum()
                others = profile.exact.sum() - profile.exact[kernel]
                assert done == profile.macs[t, kernel] + others
    assert changed > 5  # the tiny network is sensitive enough for this to mean something


def test_thresholds_lose_the_share_that_was_asked_for(tiny):
    experiment = make_experiment(tiny)
    name = find_candidates(experiment).names[0]
    dense = Comparer(experiment).certifier.run_dense(experiment.search)
    suffix = SuffixNetwork(experiment, experiment.search, dense.outputs)
    op = SiteOp(experiment.model.proto, name, experiment.runtime)
    inputs = SiteInputs(experiment.model.proto, op.reads, experiment.runtime)
    for t, (_, loss) in enumerate(GRID.pairs):
        profile = profile_site(suffix, op, inputs, GRID)
        guess = profile.guess([t] * op.kernels)
        lost = fires = 0
        for block in suffix.blocks_before(name):
            y, _ = op.run(inputs.of(block.images), guess)
            fires += (block.ofmap > 0).sum()
            lost += ((y == 0) & (block.ofmap > 0)).sum()
        assert lost / fires == pytest.approx(loss, abs=0.02)


def make_profile():
    return SiteProfile(
        heads=np.array([[1], [2], [3], [4]]),
        threshold=np.zeros((4, 1), np.float32),
        macs=np.array([[50], [40], [40], [95]]),
        right=np.array([[99], [97], [98], [100]]),
        exact=np.array([90]),
    )


def test_candidates_are_ranked_by_macs_within_the_bound_and_exact_is_last():
    profile = make_profile()
    assert profile.rank(0, 100, Fraction(3, 100), 100) == [2, 1, 0, -1]
    assert profile.rank(0, 100, Fraction(2, 100), 100) == [2, 0, -1]
    assert profile.rank(0, 100, Fraction(0), 100) == [-1]


def test_a_choice_is_what_the_op_takes():
    profile = make_profile()
    assert profile.guess([2]).heads.tolist() == [3]
    assert profile.guess([-1]).heads.tolist() == [0]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"heads": [[1]], "threshold": [[0]], "macs": [1]}']
)
def test_a_damaged_profile_is_a_known_error(text):
    with pytest.raises(StudyError, match="damaged"):
        SiteProfile.from_text(text)


def test_the_step_is_the_most_right_samples_for_the_macs_given_up():
    def layer(*pairs):
        return [LayerOption((), macs, right) for macs, right in pairs]

    layers = [layer((10, 90), (20, 95)), layer((10, 90), (12, 92)), layer((10, 95), (90, 99))]
    assert next_layer(layers, [0, 0, 0]) == 1  # 5/10, 2/2, 4/80
    assert next_layer(layers, [0, 1, 0]) == 0
    assert next_layer(layers, [1, 1, 0]) == 2
    assert next_layer(layers, [1, 1, 1]) is None
    assert next_layer([layer((1, 1), (2, 1)), layer((1, 1), (2, 1))], [0, 0]) == 1


def search(experiment, folder, progress=None, **changes):
    grid = changes.pop("grid", GRID)
    comparer = Comparer(experiment)
    return search_guesses(
        comparer,
        find_candidates(experiment),
        grid,
        folder / "guesses.study.db",
        progress,
        **changes,
    )


@pytest.mark.parametrize("eps", ["0.2", "0.05", "0"])
def test_the_walk_ends_at_the_first_configuration_that_holds(tiny, tmp_path, eps):
    experiment = make_experiment(tiny, eps)
    result = search(experiment, tmp_path)
    eps = experiment.bounds[0].value
    assert result.search.drop <= eps and result.select.drop <= eps
    assert result.row.measured.samples == len(experiment.split.verify)
    assert result.row.bound_met == (result.row.measured.drop <= eps)
    with Study(result.study, readonly=True) as study:
        names = find_candidates(experiment).names
        walk = [record.outcome for record in study.records("global")]
        assert {record.target for record in study.records("local")} <= set(names)
        baseline, _ = study.scale()
    assert result.verify_reads == 1
    if result.looked_at == 1 and result.guessing:
        assert all(baseline - outcome.score > eps for outcome in walk[:-1])
    saved = [outcome.saved for outcome in walk]
    assert saved == sorted(saved, reverse=True)
    assert result.row.measured.saved == sum(site.macs - site.done for site in result.sites)


def test_guesses_under_a_plan_lose_nothing_unseen_and_count_no_mac_twice(tiny):
    """Whole networks against outputs computed one by one."""
    experiment = make_experiment(tiny)
    names = find_candidates(experiment).names
    plan = make_plan(experiment)
    samples = Samples(experiment.dataset, experiment.split.verify[:4])
    rng = np.random.default_rng(0)
    guesses = {}
    for name in names:
        op = SiteOp(experiment.model.proto, name, experiment.runtime)
        heads = rng.integers(0, op.taps // 3, op.kernels)
        guesses[name] = Guess(heads, rng.uniform(-0.1, 0.3, op.kernels).astype(np.float32))
    proto = snapea_model(experiment.model.proto, names, guesses=guesses, plan=plan)
    run = run_early(proto, names, samples, experiment.runtime)
    images = experiment.dataset.images(samples.indices)
    sites = {site.name: site for site in Comparer(experiment).sites}
    left = 0
    for name, case in node_cases(proto, images):
        mask, guess = plan[name], guesses[name]
        case = replace(
            case,
            heads=guess.heads,
            threshold=guess.threshold,
            mask=mask.patterns,
            mask_threshold=mask.threshold,
        )
        _, macs = expect(case)
        assert run.done[name] == macs.sum()
        alone = expect(replace(case, heads=None, threshold=None))[1].sum()
        unmasked = expect(replace(case, mask=None, mask_threshold=None))[1].sum()
        assert macs.sum() < min(alone, unmasked)
        left += dense_macs(sites[name]) * len(samples) - macs.sum()
    for name in set(sites) - set(names):
        left += run.skipped[name] * sites[name].macs_per_output
    assert run.saved(list(sites.values()), len(samples)) == left


def test_one_bound_holds_for_a_plan_and_the_guesses_under_it(tiny, tmp_path):
    experiment = make_experiment(tiny, "0.1")
    plan = make_plan(experiment)
    alone = Comparer(experiment).measure_plan("plan", plan)
    result = search(experiment, tmp_path, under=Under(plan, "plan"))
    assert result.row.method == "plan + SnaPEA predictive"
    eps = experiment.bounds[0].value
    exact = result.guessing == 0
    assert exact or max(result.search.drop, result.select.drop) <= eps
    assert result.row.bound_met == (result.row.measured.drop <= eps)
    assert result.row.measured.saved > alone.measured.saved > 0
    proto = snapea_model(experiment.model.proto, find_candidates(experiment).names, plan=plan)
    stopped = run_early(
        proto, find_candidates(experiment).names, experiment.verify, experiment.runtime
    )
    least = stopped.saved(Comparer(experiment).sites, len(experiment.verify))
    assert result.row.measured.saved >= least if exact else result.row.measured.saved > least
    # The study is that of this plan alone.
    with pytest.raises(StudyError, match="another search"):
        search(experiment, tmp_path)


def test_a_local_trial_gives_what_the_whole_network_gives(tiny, tmp_path):
    experiment = make_experiment(tiny, "0.2")
    result = search(experiment, tmp_path)
    names = find_candidates(experiment).names
    with Study(result.study, readonly=True) as study:
        for name in names:
            profile = SiteProfile.from_text(study.meta()[f"kernels {name}"])
            dense = round(study.scale()[0] * len(experiment.search))
            ranks = [
                profile.rank(k, dense, experiment.bounds[0].value, len(experiment.search))
                for k in range(len(profile.exact))
            ]
            for record in study.records("local"):
                if record.target != name:
                    continue
                t = int(record.option) - 1
                guess = profile.guess([r[min(t, len(r) - 1)] for r in ranks])
                right, done = whole_run(experiment, name, guess)
                assert record.outcome.score == Fraction(right, len(experiment.search))
                site = next(s for s in Comparer(experiment).sites if s.name == name)
                total = int(np.prod(site.shape)) * site.macs_per_output * len(experiment.search)
                assert record.outcome.saved == total - done


def test_a_study_continues_where_it_was_stopped(tiny, tmp_path, monkeypatch):
    experiment = make_experiment(tiny)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    once = search(experiment, tmp_path / "a")
    runs = []
    original = algorithm.profile_site
    monkeypatch.setattr(
        algorithm, "profile_site", lambda *a: runs.append(a[1].site) or original(*a)
    )
    stops = [3, 9, 14]

    def stop(progress):
        stops[0] -= progress.best_saved is not None
        if stops[0] == 0:
            stops.pop(0)
            raise KeyboardInterrupt

    while len(stops) > 1:
        with pytest.raises(KeyboardInterrupt):
            search(experiment, tmp_path / "b", stop)
    again = search(experiment, tmp_path / "b")
    assert replace(again, study=once.study) == once
    assert runs and len(runs) <= 2 + len(set(runs))
    runs.clear()
    told = []
    more = search(experiment, tmp_path / "b", lambda progress: told.append(progress.stage))
    assert not runs
    assert more.verify_reads == 2
    assert any(text.startswith("continuing guesses.study.db") for text in told)


def test_a_study_of_other_candidates_is_refused(tiny, tmp_path):
    experiment = make_experiment(tiny)
    search(experiment, tmp_path)
    with pytest.raises(StudyError, match=r"another search \(other losses"):
        search(experiment, tmp_path, grid=Grid(GRID.heads, (0.5,)))


def test_a_metric_that_does_not_count_is_refused(tiny, tmp_path):
    metric = Metric("own", lambda outputs, labels: 1.0)
    with pytest.raises(UsageError, match="counts right samples"):
        search(make_experiment(tiny, metric=metric), tmp_path)


@pytest.mark.parametrize("shares", [(), (0.0,), (1.0,), (-1.0, 0.5)])
def test_shares_lie_between_0_and_1(shares):
    with pytest.raises(UsageError, match="--losses"):
        Grid(losses=shares)
    with pytest.raises(UsageError, match="--heads"):
        Grid(heads=shares)


def test_guesses_have_one_key_whatever_the_order_and_exact_sites():
    on = Guess(np.array([1, 0]), np.array([0.5, 0], np.float32))
    off = Guess(np.array([0, 0]), np.array([0, 0], np.float32))
    key = guesses_key({"a": on, "b": off})
    assert key == guesses_key({"b": off, "a": on}) == guesses_key({"a": on})
    assert key != guesses_key({"b": on})
