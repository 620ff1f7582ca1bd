"""The default MLflow database of a run root that was moved or copied elsewhere.

MLflow stores artifact locations as absolute URIs, and has no call to change them.
"""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def follow_folder(database: Path, artifacts: Path) -> str:
    """Let a database name the artifacts beside it; the URI of the folder that it named before, or
    "" if nothing changes."""
    if not database.is_file():
        return ""
    here = artifacts.as_uri()
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database)) as link:
        found = link.execute("SELECT artifact_location FROM experiments").fetchall()
        before = next(
            (text for (text,) in found if text and text.endswith(f"/{artifacts.name}")), here
        )
        is_elsewhere = Path(unquote(urlsplit(before).path)).is_dir() and not artifacts.is_dir()
        if before == here or is_elsewhere:
            return ""
        with link:
            for table, column in _COLUMNS:
                link.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(before) + 1, before, len(before) + 1, f"{before}/"),
                )
        return str(before)
    return ""
