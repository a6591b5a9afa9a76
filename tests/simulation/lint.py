"""Finds in source text what makes a run depend on anything but its seed: clocks, chance, and the order of sets."""

from __future__ import annotations

import ast
from collections.abc import Iterator

MODULES = frozenset({"time", "uuid", "secrets"})
"""Not imported at all."""

CALLS = frozenset(
    {"os.urandom", "os.getrandom", "random.SystemRandom", "datetime.now", "datetime.utcnow", "datetime.today"}
    | {f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")}
    | {"date.today", "id", "hash"}
)

SET_CALLS = frozenset({"set", "frozenset"})
SET_METHODS = frozenset({"union", "difference", "intersection", "symmetric_difference"})
ORDERED = frozenset({"list", "tuple", "iter", "next", "enumerate", "zip", "map", "filter", "min", "max", "reversed"})
"""Calls whose outcome depends on the order of what they are given."""
ORDERED_METHODS = frozenset({"join", "sample", "choice", "choices", "shuffle", "fromkeys", "extend", "appendleft"})
UNORDERED = frozenset({"sorted", "set", "frozenset", "any", "all", "sum", "len"})
"""A generator over a set is harmless directly inside these."""


def clocks_and_chance(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of every clock and source of chance that is not a parameter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in MODULES or alias.name == "twisted.internet.reactor":
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            yield from _imported(node)
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in CALLS or (name.startswith("random.") and name != "random.Random"):
                yield node.lineno, f"{name}()"
            elif name == "random.Random" and not node.args:
                yield node.lineno, "random.Random() without a seed"
        elif isinstance(node, ast.Attribute) and dotted(node) in {"os.urandom", "os.getrandom"}:
            yield node.lineno, dotted(node)


def _imported(node: ast.ImportFrom) -> Iterator[tuple[int, str]]:
    for alias in node.names:
        name = f"{node.module}.{alias.name}"
        if (
            node.module in MODULES
            or name in CALLS
            or name == "twisted.internet.reactor"
            or (node.module == "random" and alias.name != "Random")
        ):
            yield node.lineno, f"from {node.module} import {alias.name}"


def dotted(node: ast.expr) -> str:
    """`a.b.c` as written, empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _is_set_annotation(annotation: ast.expr | None) -> bool:
    if annotation is None:
        return False
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):
        return _is_set_annotation(annotation.left) or _is_set_annotation(annotation.right)
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    return dotted(annotation).rsplit(".", 1)[-1] in {"set", "frozenset", "Set", "FrozenSet", "AbstractSet"}


SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


class _Known:
    """Names that stand for sets in one module: attributes, functions, and variables by function."""

    def __init__(self, tree: ast.Module, attributes: frozenset[str]) -> None:
        self.attributes = set(attributes)
        self.functions: set[str] = set()
        self.variables: set[tuple[ast.AST | None, str]] = set()
        self.others: set[tuple[ast.AST | None, str]] = set()
        """Parameters that are no sets, whatever has their name outside."""
        self.scope: dict[ast.AST, ast.AST | None] = {}
        self._place(tree, None)
        # Twice: a name may be made of one that is found later.
        for _ in range(2):
            for node in ast.walk(tree):
                self._learn(node)

    def _place(self, node: ast.AST, scope: ast.AST | None) -> None:
        for child in ast.iter_child_nodes(node):
            self.scope[child] = scope
            inner = child if isinstance(child, SCOPES) else scope
            self._place(child, inner)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if _is_set_annotation(node.returns):
                self.functions.add(node.name)
            for argument in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
                self.variables.discard((node, argument.arg))
                if _is_set_annotation(argument.annotation):
                    self.variables.add((node, argument.arg))
                else:
                    self.others.add((node, argument.arg))
        elif isinstance(node, ast.AnnAssign):
            if _is_set_annotation(node.annotation):
                self._name(node, node.target)
        elif isinstance(node, ast.Assign) and self.is_set(node.value):
            for target in node.targets:
                self._name(node, target)

    def _name(self, node: ast.AST, target: ast.expr) -> None:
        if isinstance(target, ast.Attribute):
            self.attributes.add(target.attr)
        elif isinstance(target, ast.Name):
            scope = self.scope.get(node)
            self.variables.add((scope, target.id))
            if isinstance(scope, ast.ClassDef):
                self.attributes.add(target.id)

    def is_set(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Set | ast.SetComp):
            return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
            return any(self.is_set(side) or _is_keys(side) for side in (node.left, node.right))
        if isinstance(node, ast.IfExp):
            return self.is_set(node.body) or self.is_set(node.orelse)
        if isinstance(node, ast.Call):
            return self._call_is_set(node)
        if isinstance(node, ast.Attribute):
            return node.attr in self.attributes
        if isinstance(node, ast.Name):
            scope = self.scope.get(node)
            while scope is not None:
                if (scope, node.id) in self.others:
                    return False
                if (scope, node.id) in self.variables and not isinstance(scope, ast.ClassDef):
                    return True
                scope = self.scope.get(scope)
            return (None, node.id) in self.variables
        return False

    def _call_is_set(self, node: ast.Call) -> bool:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else dotted(node.func)
        if name in SET_CALLS and isinstance(node.func, ast.Name):
            return True
        if name in self.functions:
            return True
        if isinstance(node.func, ast.Attribute) and name in SET_METHODS | {"copy"}:
            return self.is_set(node.func.value) or _is_keys(node.func.value)
        return False


def _is_keys(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"


def set_attributes(trees: list[ast.Module]) -> frozenset[str]:
    """Attributes that are annotated as sets wherever they are annotated, over several modules."""
    sets: set[str] = set()
    others: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                        (sets if _is_set_annotation(each.annotation) else others).add(each.target.id)
                    elif isinstance(each, ast.FunctionDef):
                        (sets if _is_set_annotation(each.returns) else others).add(each.name)
    return frozenset(sets - others)


def set_order(tree: ast.Module, attributes: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """(line, what) of everything whose outcome may depend on the order of a set."""
    known = _Known(tree, attributes)
    harmless: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in UNORDERED:
            harmless.update(node.args)
        elif isinstance(node, ast.SetComp):
            harmless.add(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.AsyncFor) and known.is_set(node.iter):
            yield node.lineno, f"for … in {ast.unparse(node.iter)}"
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp) and node not in harmless:
            for part in node.generators:
                if known.is_set(part.iter):
                    yield node.lineno, f"a comprehension over {ast.unparse(part.iter)}"
        elif isinstance(node, ast.Starred) and known.is_set(node.value):
            yield node.lineno, f"*{ast.unparse(node.value)}"
        elif isinstance(node, ast.Call):
            yield from _ordered_call(known, node)


def _ordered_call(known: _Known, node: ast.Call) -> Iterator[tuple[int, str]]:
    if isinstance(node.func, ast.Attribute):
        if node.func.attr == "pop" and not node.args and known.is_set(node.func.value):
            yield node.lineno, f"{ast.unparse(node)}"
        ordered = node.func.attr in ORDERED_METHODS
    else:
        ordered = dotted(node.func) in ORDERED
    if ordered:
        for argument in node.args:
            if known.is_set(argument):
                yield node.lineno, f"{ast.unparse(node.func)}({ast.unparse(argument)})"
