"""Our program: where it is, a configuration for it, what it answers."""

import os
import shutil
from pathlib import Path

from .report import ROOT

DM = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "dm"


def config(folder, url, level, more=""):
    """A configuration whose repository is empty."""
    fresh(folder)
    folder.mkdir()
    path = folder / "dm.toml"
    path.write_text(
        f'[engines.main]\nurl = "{url}"\n{more}\n'
        f'[repository]\nurl = "file://{folder}/repository"\nzstd_level = {level}\n',
        encoding="utf-8",
    )
    path.chmod(0o600)
    return path


def backup(path, jobs, *more):
    return [DM, "--config", path, "backup", "run", "--jobs", str(jobs), "--no-verify", "--json", *more]


def find(document, key):
    """The first value of a key, however deep."""
    if isinstance(document, dict):
        if key in document:
            return document[key]
        document = list(document.values())
    if isinstance(document, list):
        for part in document:
            value = find(part, key)
            if value is not None:
                return value
    return None


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
