"""Read from the source which module imports which, and find circles."""

import ast
from pathlib import Path


def imports(package_folder: Path) -> dict[str, set[str]]:
    """List what every module below a folder imports, all by dotted names from the outermost package on.

    Imports inside functions and under TYPE_CHECKING count as those at the top do. `from package import name` counts as
    the submodule of that name, or as the package where there is no such submodule: its `__init__` hands the name on.
    Modules of other packages are among what is imported, so that a test can forbid them. A name that `import_module` is
    given counts, too; one that is only known when the code runs is `*`.

    Raises:
        ValueError: a folder without modules.
    """
    root = package_folder = Path(package_folder).resolve()
    while (root / "__init__.py").exists():
        root = root.parent
    root = package_folder.parent if root == package_folder else root
    files = sorted(package_folder.rglob("*.py"))
    if not files:
        raise ValueError(f"there is no module below {package_folder}")
    return {_module(file, root): _imported(file, root) for file in files}


def _module(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(file: Path, root: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = file.parents[node.level - 1].relative_to(root).parts if node.level else ()
            package = ".".join([*above, *filter(None, [node.module])])
            submodules = {f"{package}.{alias.name}" for alias in node.names}
            found |= {name if _exists(name, root) else package for name in submodules}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            (name,) = node.args[:1] or [None]
            found.add(name.value if isinstance(name, ast.Constant) else "*")
    return found


def _exists(module: str, root: Path) -> bool:
    path = root.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return the modules along one circle of imports, its first one again at the end, or None if there is no circle."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str] | None:
        for module in sorted(graph.get(path[-1], ())):
            if module in path:
                return [*path[path.index(module) :], module]
            if module not in done and (circle := follow([*path, module])):
                return circle
        done.add(path[-1])
        return None

    for module in sorted(graph):
        if module not in done and (circle := follow([module])):
            return circle
    return None
