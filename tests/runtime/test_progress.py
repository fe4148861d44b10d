"""Progress: a stage calls the callback that it is given."""

from spatialonnx.runtime.progress import Progress, report_stage


def test_a_stage_is_announced():
    heard = []
    report_stage(heard.append, "verify", warning=True)
    assert heard == [Progress("verify", warning=True)]
    report_stage(None, "verify")
