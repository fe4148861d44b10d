"""``report`` as a function."""

import numpy as np
import pytest

from spatialonnx.reporting.run import report


def test_it_is_the_command_without_printing(searched, tmp_path, capfd):
    stages = []
    result = report(
        searched.models["uniform-patch"],
        searched.data,
        samples=7,
        progress=lambda progress: stages.append(progress.stage),
    )
    (run,) = result.runs
    assert run.counted == 7 and run.trials is not None
    assert stages[0] == "reading" and "A: counting on verify" in stages
    assert result.to_json()["runs"][0]["counted_samples"] == 7
    page, text = result.save(tmp_path / "r.html")
    assert "MACs saved" in page.read_text() and text == tmp_path / "r.md"
    assert capfd.readouterr() == ("", "")


def test_data_may_be_arrays(searched):
    arrays = np.load(searched.data.removeprefix("npz:"))
    data = (arrays["x"], arrays["y"])
    (run,) = report([searched.models["uniform-layer"]], data, samples=5, threads=1).runs
    assert run.counted == 5
    assert not any("not those of the search" in note for note in run.notes)


def test_an_unknown_option_is_refused(searched):
    with pytest.raises(TypeError, match="unexpected keyword argument 'bach'"):
        report(searched.models["uniform-layer"], searched.data, bach=1)
