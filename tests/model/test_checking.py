"""Checks of models that were made."""

import onnx
import pytest
from support.models import plain

from spatialonnx.errors import ModelError
from spatialonnx.model import checking as module
from spatialonnx.model.checking import check_interface, check_model
from spatialonnx.model.metadata import set_metadata


def test_a_valid_model_is_accepted_in_memory_and_as_a_file(monkeypatch):
    check_model(plain(), "it")
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 0)
    check_model(plain(), "it")


def test_what_the_checker_says_is_one_line():
    proto = plain()
    proto.graph.node[0].op_type = "Konv"
    with pytest.raises(ModelError, match=r"the deployed model is not valid ONNX: .*Konv"):
        check_model(proto, "the deployed model")


def change_input(proto):
    proto.graph.input[0].name = "other"


def change_output(proto):
    proto.graph.output[0].doc_string = "changed"


def lose_metadata(proto):
    del proto.metadata_props[:]


def test_a_stage_may_be_rewritten():
    before, after = plain(), plain()
    set_metadata(before, stage="masked", source_sha256="a", data="mnist")
    set_metadata(after, stage="deploy", source_sha256="b", data="mnist", search={})
    check_interface(before, after)


@pytest.mark.parametrize("change", [change_input, change_output, lose_metadata])
def test_a_changed_interface_is_a_bug(change):
    before, after = plain(), onnx.ModelProto()
    set_metadata(before, data="mnist")
    after.CopyFrom(before)
    change(after)
    with pytest.raises(ModelError, match="were not kept: report this"):
        check_interface(before, after)
