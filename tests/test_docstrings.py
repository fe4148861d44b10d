"""Docstrings name errors and array shapes. That they exist is ruff's own check."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import spatialonnx
from spatialonnx import errors

ROOT = Path(spatialonnx.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
Definition = ast.FunctionDef | ast.ClassDef
ARRAY = re.compile(r"NDArray(?!\[Any\])|\bTensor\b|\bPixels\b|\bLabels\b|\bIndices\b|\bBytes\b")
SHAPE = re.compile(r"\[[^\]]*\]|\bshape\b|\blength\b|\bone (a|an|per)\b|\bas `|\blikewise\b")


def public(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions, classes and methods, with their dotted names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = f"{inside}{node.name}"
            if not node.name.startswith("_") or node.name == "__init__":
                yield name, node
                if isinstance(node, ast.ClassDef):
                    yield from public(node, f"{name}.")


def is_command(node: ast.FunctionDef) -> bool:
    """Whether the docstring is a command's help."""
    return any(ast.unparse(d).startswith(("command", "app.")) for d in node.decorator_list)


def own_raises(node: ast.FunctionDef) -> set[str]:
    """This package's errors that a function raises itself, without those of inner functions."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        waiting += ast.iter_child_nodes(inner)
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call):
            name = ast.unparse(inner.exc.func).rpartition(".")[2]
            if name in errors.__all__:
                found.add(name)
    return found


def caught(node: ast.FunctionDef) -> str:
    """The exceptions that a function catches itself; they need no entry."""
    kinds = [h.type for h in ast.walk(node) if isinstance(h, ast.ExceptHandler) and h.type]
    return " ".join(ast.unparse(kind) for kind in kinds)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_definitions_say_what_a_caller_must_know(path):
    complaints = []
    for name, node in public(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) or ""
        if len(text) < 10:
            if node.name != "__init__" or own_raises(node):  # type: ignore[arg-type]
                complaints.append(f"{name}: no docstring")
            continue
        if isinstance(node, ast.ClassDef) or is_command(node):
            continue
        for error in sorted(own_raises(node)):
            raises = text.partition("Raises:")[2]
            if error not in raises and error not in caught(node):
                complaints.append(f"{name}: Raises: {error} is missing")
        returns = ast.unparse(node.returns) if node.returns else ""
        if ARRAY.search(returns) and not SHAPE.search(text):
            complaints.append(f"{name} returns {returns}: of which shape?")
    assert complaints == []
