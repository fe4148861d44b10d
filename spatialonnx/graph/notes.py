"""What a user wrote beside nodes, values and weights: doc_string and metadata_props.

ONNX Runtime's optimiser and graphsurgeon drop both, so they are put back by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

Noted = NodeProto | ValueInfoProto | TensorProto


def restore_notes(source: GraphProto, target: GraphProto) -> None:
    """Gives nodes, values and weights of a graph the notes of those of the same name, in place.

    Args:
        source: The graph that the other was made from.
        target: The other; notes of its own stay.
    """
    _restore(source.node, target.node)
    _restore(source.value_info, target.value_info)
    _restore(source.initializer, target.initializer)


def copy_notes(source: Noted, target: Noted) -> None:
    """Gives something the notes of what it stands for, in place, where it has none."""
    if source.doc_string and not target.doc_string:
        target.doc_string = source.doc_string
    if source.metadata_props and not target.metadata_props:
        target.metadata_props.extend(source.metadata_props)


def _restore(source: Iterable[Noted], target: Iterable[Noted]) -> None:
    noted = {one.name: one for one in source if one.doc_string or one.metadata_props}
    if not noted:
        return
    for one in target:
        if one.name in noted:
            copy_notes(noted[one.name], one)
