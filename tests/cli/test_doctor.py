"""``doctor`` as a command."""

import json

from support.commands import invoke, succeed, succeed_json

from spatialonnx import doctor
from spatialonnx.doctor import Finding


def test_a_sound_environment():
    text = succeed("doctor").stdout
    for word in ("onnx", "op library", "provider CPU", "data set fashion-mnist"):
        assert word in text
    findings = succeed_json("doctor")["findings"]
    assert {"what", "found", "good", "optional"} <= findings[0].keys()


def test_a_broken_environment_is_exit_code_4(monkeypatch):
    findings = [Finding("a", "fine"), Finding("b", "gone: install it", good=False)]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    result = invoke("doctor", "--json")
    assert result.exit_code == 4
    assert len(json.loads(result.stdout)["findings"]) == 2
    assert result.stderr == "error: b: gone: install it\n"
