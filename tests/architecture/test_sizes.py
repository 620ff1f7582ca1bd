"""Files and functions stay short enough to read in one sitting; the repository stays small."""

import ast
from collections import Counter

from tests.architecture.project import ROOT, entry_scripts, parse, project_files, python_files

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_FOLDER_MODULES = 20
MAX_TRACKED_BYTES = 40 * 1024 * 1024


def test_python_files_are_short() -> None:
    lines = {
        str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines())
        for path in python_files()
    }
    too_long = {path: count for path, count in lines.items() if count > MAX_FILE_LINES}
    assert too_long == {}


def test_functions_are_short() -> None:
    too_long = {}
    for path in python_files():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    too_long[f"{path}:{node.lineno} {node.name}"] = lines
    assert too_long == {}


def test_folders_are_narrow() -> None:
    """Entry scripts are counted by the user who starts them, not here."""
    scripts = set(entry_scripts())
    counts = Counter(
        str(path.parent)
        for path in python_files()
        if path.name != "__init__.py" and path not in scripts
    )
    assert {folder: n for folder, n in counts.items() if n > MAX_FOLDER_MODULES} == {}


def test_no_tracked_file_is_large() -> None:
    sizes = {str(path): (ROOT / path).stat().st_size for path in project_files()}
    assert {path: size for path, size in sizes.items() if size > MAX_TRACKED_BYTES} == {}
