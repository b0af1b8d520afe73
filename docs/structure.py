"""Measure the structure of a Python package, and check which way its imports point.

Only the syntax tree of each file is read, so any checkout can be measured, also one
whose dependencies are not installed.

```console
$ python docs/structure.py keras_micronets          # a table in Markdown
$ python docs/structure.py --json keras_micronets   # the same figures as JSON
$ python docs/structure.py --before docs/structure_before.json keras_micronets
$ python docs/structure.py --check keras_micronets  # imports, names and limits
```
"""

import argparse
import ast
import graphlib
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["LAYERS", "LIMITS", "Module", "check", "measure", "read_package"]

# Folders and modules at the top of the package, highest first. Each imports from the
# lines below it only: names in one line do not import each other.
LAYERS = (
    ("cli",),
    ("quickstart",),
    ("compression",),
    ("ensemble", "joint_training", "prune2edge"),
    ("callbacks", "distillation"),
    ("channels", "learners"),
    ("export",),
    ("layers", "learning_rates", "losses", "selection", "sparsity"),
    ("_backend", "_figures", "_keras_private", "_version", "edge", "schedules"),
    ("_serialization",),
)

# Largest permitted figures. Lower them when the package shrinks.
LIMITS = {
    "files": 228,
    "lines": 41_000,
    "longest import chain": 15,
    "modules in the largest folder": 14,
}

# Figures of earlier versions, by the name that they have now.
_RENAMED = {"median lines a file": "median lines per file"}

# Private modules of Keras, and formats that run code when they are loaded.
FORBIDDEN = ("keras.src", "pickle", "cloudpickle", "dill", "joblib")


@dataclass
class Module:
    """Describe one source file and the modules of its package that it imports.

    Args:
        name: Dotted name; a folder's name stands for its `__init__.py`.
        path: The file.
        lines: Number of lines.
        tree: Syntax tree.
        imports: Modules imported while this one is loaded.
        uses: Modules imported anywhere, also in functions and for type checkers.
        outside: Dotted names imported from other packages, anywhere.
        exports: Names in `__all__`; the public names at module level without one.
    """

    name: str
    path: Path
    lines: int
    tree: ast.Module
    imports: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)
    exports: list[str] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def folder(self) -> str:
        return self.name if self.is_folder else self.name.rpartition(".")[0]


def read_package(folder: str | Path) -> dict[str, Module]:
    """Read all modules of a package.

    An import of a name that an `__init__.py` re-exports counts as an import of the
    module that defines the name.

    Args:
        folder: Folder of the package.

    Returns:
        Modules by dotted name.
    """
    root = Path(folder).resolve()
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        modules[name] = Module(name, path, len(text.splitlines()), ast.parse(text))
    if root.name not in modules:
        raise ValueError(
            "Expected `folder` to be the folder of a package, with an `__init__.py`. "
            f"Received: folder={str(folder)!r}."
        )
    for module in modules.values():
        module.exports = _exports(module.tree)
        for node, at_import in _imports(module.tree.body):
            for target in _targets(node, module, modules):
                if target.split(".")[0] != root.name:
                    module.outside.add(target)
                elif target != module.name:
                    module.uses.add(target)
                    if at_import:
                        module.imports.add(target)
    return modules


def measure(modules: dict[str, Module]) -> dict[str, int]:
    """Return the figures of a package by name."""
    lines = [module.lines for module in modules.values()]
    readers = [module for module in modules.values() if not module.is_folder]
    users = [sum(one.name in other.uses for other in readers) for one in readers]
    public = [
        module
        for module in modules.values()
        if module.name.count(".") <= 1 and "._" not in module.name
    ]
    return {
        "files": len(modules),
        "lines": sum(lines),
        "median lines per file": statistics.median_low(lines),
        "files under 60 lines": sum(count < 60 for count in lines),
        "modules with a single user": sum(count == 1 for count in users),
        "longest import chain": len(_longest_chain(modules)),
        "modules in the largest folder": max(_folder_sizes(modules).values()),
        "public names": sum(len(module.exports) for module in public),
    }


def check(
    modules: dict[str, Module],
    *,
    layers: tuple[tuple[str, ...], ...] = LAYERS,
    limits: dict[str, int] = LIMITS,
) -> list[str]:
    """Return a sentence for each broken rule of the package's structure.

    Args:
        modules: Modules by dotted name, from `read_package`.
        layers: Names at the top of the package, highest first.
        limits: Largest permitted value of figures of `measure`.
    """
    problems = _import_cycles(modules)
    if not problems:  # the longest chain is defined without cycles only
        figures = measure(modules)
        problems += [
            f"{name}: expected at most {limit:,}, found {figures[name]:,}."
            for name, limit in limits.items()
            if figures[name] > limit
        ]
    problems += _folder_cycles(modules)
    problems += _upward_imports(modules, layers)
    for module in modules.values():
        if "__all__" not in _assigned(module.tree):
            problems.append(f"{module.name} has no `__all__`.")
        problems += _missing_annotations(module)
        problems += [
            f"{module.name} imports {name}, which is not permitted."
            for name in sorted(module.outside)
            if any(f"{name}.".startswith(f"{one}.") for one in FORBIDDEN)
        ]
    return problems


def _missing_annotations(module):
    """Find public functions and methods with arguments or results without a type."""
    problems = []
    for name, node in _public_functions(module):
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += filter(None, [arguments.vararg, arguments.kwarg])
        missing = [
            argument.arg
            for i, argument in enumerate(named)
            if not (argument.annotation or (i == 0 and argument.arg in ("self", "cls")))
        ]
        if not node.returns and node.name != "__init__":
            missing.append("return")
        if missing:
            problems.append(f"{name} has no annotation of {', '.join(missing)}.")
    return problems


def _public_functions(module):
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    for node in module.tree.body:
        if getattr(node, "name", None) not in module.exports:
            continue
        if isinstance(node, functions):
            yield f"{module.name}.{node.name}", node
        for child in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(child, functions) and _is_public(child.name):
                yield f"{module.name}.{node.name}.{child.name}", child


def _is_public(name):
    return not name.startswith("_") or name in ("__init__", "__call__")


def _import_cycles(modules):
    return _cycle({module.name: module.imports for module in modules.values()})


def _folder_cycles(modules):
    """Find folders that import each other, and files beside them that do.

    A folder without folders in it counts as one unit; in any other, each file does.
    Re-exports of `__init__.py` do not count.
    """
    parents = {x.folder.rpartition(".")[0] for x in modules.values() if x.is_folder}
    place = {
        module.name: module.name if module.folder in parents else module.folder
        for module in modules.values()
    }
    graph = {folder: set() for folder in place.values()}
    for module in modules.values():
        if not module.is_folder:
            folder = place[module.name]
            graph[folder] |= {place[name] for name in module.imports} - {folder}
    return _cycle(graph)


def _cycle(graph):
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [f"Imports form a cycle: {' <- '.join(error.args[1])}."]
    return []


def _upward_imports(modules, layers):
    level = {name: i for i, names in enumerate(layers) for name in names}
    problems = []
    for module in modules.values():
        _, _, below = module.name.partition(".")
        top = below.split(".")[0]
        if not top:
            continue
        if top not in level:
            problems.append(f"{module.name} is in none of the layers of `LAYERS`.")
            continue
        for name in sorted(module.imports | module.uses):
            other = name.split(".")[1] if "." in name else ""
            if other != top and level.get(other, -1) <= level[top]:
                problems.append(f"{module.name} imports {name}, which is not below it.")
    return problems


def _longest_chain(modules):
    """Return modules each of which imports the next; re-exports are no module."""
    graph = {module.name: module.imports for module in modules.values()}
    chains: dict[str, list[str]] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        below = max((chains[other] for other in graph[name]), key=len, default=[])
        chains[name] = below if _only_reexports(modules[name]) else [name, *below]
    return max(chains.values(), key=len)


def _only_reexports(module):
    kinds = ast.Import | ast.ImportFrom | ast.Assign | ast.Expr
    return module.is_folder and all(isinstance(x, kinds) for x in module.tree.body)


def _folder_sizes(modules):
    sizes = {module.name: 0 for module in modules.values() if module.is_folder}
    for module in modules.values():
        if not module.is_folder:
            sizes[module.folder] += 1
    return sizes


def _imports(body, at_import=True) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield import statements, and whether they run when the module is loaded."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_import
            continue
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.If):
            later = ast.unparse(node.test).endswith("TYPE_CHECKING")
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, [])
            inner = inner if isinstance(inner, list) else []
            yield from _imports(inner, at_import and not (later and name == "body"))


def _targets(node, module, modules) -> Iterator[str]:
    """Yield the modules that an import statement reads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parts = module.folder.split(".")
        parts = parts[: len(parts) - node.level + 1]
        base = ".".join([*parts, *filter(None, [node.module])])
    for alias in node.names:
        yield _definer(base, alias.name, modules)


def _definer(base, name, modules):
    """Follow re-exports of a name to the module that defines it."""
    if base not in modules:
        return f"{base}.{name}"
    if f"{base}.{name}" in modules:
        return f"{base}.{name}"
    if modules[base].is_folder:
        for node, _ in _imports(modules[base].tree.body):
            for alias in node.names:
                if (alias.asname or alias.name) != name:
                    continue
                for target in _targets(_only(node, alias), modules[base], modules):
                    return target
    return base


def _only(node, alias):
    if isinstance(node, ast.Import):
        return ast.Import([alias])
    return ast.ImportFrom(node.module, [alias], node.level)


def _assigned(tree) -> dict[str, ast.expr]:
    """Return the values that are assigned to names at module level."""
    values = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and node.value:
            values[ast.unparse(node.target)] = node.value
        elif isinstance(node, ast.Assign):
            values |= {ast.unparse(target): node.value for target in node.targets}
        elif isinstance(node, ast.AugAssign):
            name = ast.unparse(node.target)
            values[name] = ast.BinOp(values.get(name), node.op, node.value)
    return values


def _exports(tree) -> list[str]:
    values = _assigned(tree)
    if "__all__" in values:
        return _strings(values["__all__"], values)
    names = [*values]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom) and _is_reexport(node):
            names += [alias.asname or alias.name for alias in node.names]
    return [name for name in names if not name.startswith("_")]


def _is_reexport(node):
    return node.level or not node.module or "." in node.module


def _strings(value, values) -> list[str]:
    """Return the strings of a list, of sums of lists, and of lists in it by name."""
    if isinstance(value, ast.Constant):
        return [value.value]
    if isinstance(value, ast.Starred):
        return _strings(value.value, values)
    if isinstance(value, ast.Name):
        return _strings(values[value.id], values)
    if isinstance(value, ast.BinOp):
        return [*_strings(value.left, values), *_strings(value.right, values)]
    parts = value.keys if isinstance(value, ast.Dict) else getattr(value, "elts", [])
    return [name for part in parts for name in _strings(part, values)]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 if `--check` finds a problem."""
    parser = argparse.ArgumentParser(description="Measure the structure of a package.")
    parser.add_argument("folder", help="the folder of the package")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--before", metavar="FILE", help="JSON of an earlier checkout")
    parser.add_argument("--check", action="store_true", help="print broken rules")
    arguments = parser.parse_args(argv)
    modules = read_package(arguments.folder)
    if arguments.check:
        problems = check(modules)
        print(*problems, sep="\n")
        return int(bool(problems))
    figures = measure(modules)
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return 0
    columns = {"now": figures}
    if arguments.before:
        before = json.loads(Path(arguments.before).read_text(encoding="utf-8"))
        before = {_RENAMED.get(key, key): value for key, value in before.items()}
        columns = {"before": before, **columns}
    print(f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}", sep="\n")
    for name in figures:
        print(f"| {name} | {' | '.join(f'{x[name]:,}' for x in columns.values())} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
