"""Prints what a pyproject.toml needs to be built and to run, one requirement a line, for `pip install -r`."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
print("\n".join(project["build-system"]["requires"] + project["project"]["dependencies"]))
