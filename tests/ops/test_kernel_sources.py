"""What Triton's interpreter does not show about the kernels' sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import visionattn.ops

KERNELS = sorted(Path(visionattn.ops.__file__).with_name("triton").glob("*.py"))


def moves(statement: ast.AST) -> dict[str, str]:
    """Names that an assignment gives the value of another name."""
    if not isinstance(statement, ast.Assign):
        return {}
    target, value = statement.targets[0], statement.value
    pairs = zip(target.elts, value.elts) if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) else ()
    pairs = [*pairs, (target, value)]
    return {t.id: v.id for t, v in pairs if isinstance(t, ast.Name) and isinstance(v, ast.Name)}


def aliases(source: str) -> list[str]:
    """Variables of loops that get the value of another one, and share its first value."""
    found = []
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        for loop in (node for node in ast.walk(function) if isinstance(node, ast.For)):
            before = {
                name: value
                for node in ast.walk(function)
                if isinstance(node, ast.stmt) and node.lineno < loop.lineno
                for name, value in moves(node).items()
            }
            carried = {name: value for node in ast.walk(loop) for name, value in moves(node).items()}
            found += [
                f"{function.name}: {name} = {value}"
                for name, value in carried.items()
                if name in before and before[name] == before.get(value)
            ]
    return found


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_carried_values_start_apart(path):
    """A compiled loop takes a variable for a constant whose first pass gives it the value it had."""
    assert aliases(path.read_text()) == []


def test_aliases_are_found():
    source = "def f(n):\n  z = g()\n  a, b = z, z\n  for _ in range(n):\n    a, b = b, h(b)\n"
    assert aliases(source) == ["f: a = b"]
    assert aliases(source.replace("a, b = z, z", "a, b = z, g()")) == []
