"""What lies where, and what must lie nowhere."""

import re

from tests.architecture.project import PACKAGES, ROOT, package_files, project_files

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    ".rayignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "infra",
    "liveedit_core",
    "pipelines",
    "pyproject.toml",
    "ray_cluster.yaml",
    "requirements.lock",
    "tests",
    "workers",
}

# A path or host that only one machine or one network knows, and what a merge left behind. The
# patterns are written so that they do not match themselves.
TRACES = {
    "absolute path of one machine": re.compile(
        r"(?<![\w.~$}/-])/(?:work|root|Users|home/(?!ubuntu\b|ray\b)\w+|opt/(?:pypi|wheels)[\w-]*)/"
    ),
    "package registry host": re.compile(
        r"pypi[.]org/simple|files[.]pythonhosted[.]org|registry[.]npmjs[.]org|"
        r"proxy[.]golang[.]org|--(?:extra-)?index[-]url[ =]"
    ),
    "unresolved merge": re.compile(r"^(?:<{7}|>{7}|[|]{7}) |^={7}$", re.MULTILINE),
}


def test_top_level_is_exactly_the_agreed_one() -> None:
    assert {path.parts[0] for path in project_files()} == TOP_LEVEL


def test_every_package_folder_says_what_it_is_for() -> None:
    folders = {path.parent for path in package_files() if path.name == "__init__.py"}
    assert {str(folder) for folder in folders} >= set(PACKAGES)
    without = sorted(
        str(folder) for folder in folders if not (ROOT / folder / "README.md").exists()
    )
    assert without == []


def test_every_folder_with_python_files_is_a_package() -> None:
    folders = {path.parent for path in package_files()}
    without = sorted(
        str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()
    )
    assert without == []


def test_no_file_names_one_machine_or_registry_or_holds_an_unresolved_merge() -> None:
    found = []
    for path in project_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # images, tensors and tables
        for meaning, pattern in TRACES.items():
            found += [f"{path}: {meaning}: {match.group()}" for match in pattern.finditer(text)]
    assert found == []
