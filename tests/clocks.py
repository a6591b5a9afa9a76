"""Finds in the text of a test what makes it depend on the speed of the machine: assertions on elapsed time, sleeps in
place of a condition, and limits so short that a loaded machine exceeds them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

CLOCKS = frozenset(
    f"time.{name}{suffix}"
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time")
    for suffix in ("", "_ns")
) | {"reactor.seconds"}
SLEEPS = frozenset({"sleep", "pause", "deferLater"})
"""By their last name: of `time`, `asyncio`, and of the test cases."""

LONG_ENOUGH_S = 30.0
"""For whatever a real process or socket is waited for."""

LIMITED = frozenset(
    {"run", "check_output", "communicate", "wait", "join", "HTTPConnection", "create_connection", "until", "urlopen"}
)
"""Calls whose `timeout`, or only number, is such a limit. `self.wait` turns a fake clock in several test cases."""

NAMES = frozenset({"timeout", "seconds", "limit"})
WAITING = LIMITED | {"status_when", "together", "ends", "ended", "stop"}
"""Helpers of the tests whose own limit is one of `NAMES`."""


def dotted(node: ast.expr) -> str:
    """`a.b.c` as written; what is called on a call or an item has its last names alone."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    return ""


def last(node: ast.expr) -> str:
    return dotted(node).rpartition(".")[2]


def elapsed(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of each assertion on a time that a clock gave."""
    if not any(
        dotted(node) in CLOCKS or _is_of_a_result(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    ):
        return
    tainted: set[str] = set()
    for _ in range(2):  # one may be made of another that is found later
        for node in ast.walk(tree):
            tainted.update(_taken(node, tainted))
    for node in ast.walk(tree):
        judged: list[ast.expr] = []
        if isinstance(node, ast.Assert):
            judged = [node.test]
        elif isinstance(node, ast.Call) and last(node.func).startswith("assert"):
            judged = [*node.args, *(keyword.value for keyword in node.keywords)]
        if any(_of_a_clock(each, tainted) or _of_a_result(each) for each in judged):
            yield node.lineno, "asserts an elapsed time"


def _of_a_clock(node: ast.AST, tainted: set[str]) -> bool:
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and dotted(each.func) in CLOCKS:
            return True
        if isinstance(each, ast.Name | ast.Attribute) and last(each) in tainted:
            return True
    return False


def _is_of_a_result(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in {"ended_at", "started_at", "updated_at", "created_at"}


def _of_a_result(node: ast.AST) -> bool:
    """`ended_at - started_at`: the same by another clock."""
    return any(
        isinstance(each, ast.BinOp)
        and isinstance(each.op, ast.Sub)
        and _is_of_a_result(each.left)
        and _is_of_a_result(each.right)
        for each in ast.walk(node)
    )


def _taken(node: ast.AST, tainted: set[str]) -> Iterator[str]:
    """Names that the statement gives a difference of times, or that collect them."""
    if isinstance(node, ast.Assign) and _difference(node.value, tainted):
        yield from (last(target) for target in node.targets)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        kept = [given for given in node.args if _difference(given, tainted) or _reads(given)]
        if kept and node.func.attr in {"append", "extend"}:
            yield last(node.func.value)


def _reads(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) in CLOCKS


def _difference(node: ast.expr, tainted: set[str]) -> bool:
    return any(
        isinstance(each, ast.BinOp)
        and isinstance(each.op, ast.Sub)
        and (_of_a_clock(each.left, tainted) or _of_a_clock(each.right, tainted))
        for each in ast.walk(node)
    )


def sleeps(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of each sleep that is no turn of a loop which waits for a condition."""
    polling = {id(each) for loop in ast.walk(tree) if isinstance(loop, ast.While) for each in ast.walk(loop)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last(node.func) in SLEEPS and id(node) not in polling:
            seconds = node.args[-1] if node.args else None
            if isinstance(seconds, ast.Constant) and isinstance(seconds.value, int | float) and seconds.value > 0:
                yield node.lineno, f"{last(node.func)} in place of a condition"


def limits(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of each time limit on something real that is shorter than `LONG_ENOUGH_S`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last(node.func) in LIMITED:
            given = [keyword.value for keyword in node.keywords if keyword.arg in NAMES]
            if last(node.func) in {"wait", "join"} and not dotted(node.func).startswith("self.wait"):
                given += node.args[-1:]
            if last(node.func) == "until":
                given += node.args[1:3]
            if any(_is_short(each) for each in given):
                yield node.lineno, f"{last(node.func)} has a short limit"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in WAITING:
            if any(_is_short(default) for name, default in _defaults(node.args) if name in NAMES):
                yield node.lineno, f"{node.name} has a short limit"
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.Assign) and last(each.targets[0]) == "timeout" and _is_short(each.value):
                    yield each.lineno, "a test case has a short limit"


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    given = positional[len(positional) - len(arguments.defaults) :]
    yield from ((each.arg, default) for each, default in zip(given, arguments.defaults, strict=True))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            yield each.arg, default


def _is_short(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and 0 < node.value < LONG_ENOUGH_S
