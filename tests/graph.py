"""What dvc.yaml says, and what the stages' code says it should say."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PROJECT = ("supertiny", "stages", "tasks")


def imported_names(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, in functions too: modules, and what may be one."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@cache
def direct_imports(path: Path) -> frozenset[Path]:
    """Project files that a file imports anywhere, in functions too."""
    names = imported_names(path)
    return frozenset(
        file for name in names if name.split(".")[0] in PROJECT for file in _files_of(name)
    )


def _files_of(module: str) -> list[Path]:
    """The file of a module and of the packages around it; nothing for a mere attribute."""
    parts = module.split(".")
    around = [Path(*parts[:n]) / "__init__.py" for n in range(1, len(parts) + 1)]
    return [file for file in [Path(*parts).with_suffix(".py"), *around] if file.is_file()]


def imported_files(script: Path) -> set[Path]:
    """The script and all project files it imports, directly or through others."""
    found: set[Path] = set()
    queue = [script]
    while queue:
        file = queue.pop()
        if file not in found:
            found.add(file)
            queue += direct_imports(file)
    return found
