"""``spatialonnx doctor``: what is installed, and whether it works."""

from __future__ import annotations

from spatialonnx.cli.options import CommonOptions, command


@command
def doctor(common: CommonOptions) -> None:
    """Check versions, providers that really load, the op library and the data sets found.

    Exit code 4: something that spatialonnx needs is missing or broken.
    """
    from spatialonnx.cli.console import show, table
    from spatialonnx.doctor import examine
    from spatialonnx.errors import SetupError

    findings = examine()
    rows = [[finding.what, finding.found, finding.state] for finding in findings]
    value = {"findings": [vars(f) for f in findings]}
    show(common, value, [table("Environment", ["what", "found", "state"], rows)])
    broken = [finding for finding in findings if not finding.good and not finding.optional]
    if broken:
        raise SetupError(f"{broken[0].what}: {broken[0].found}")
