"""README.md as tests read it."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()
# The user's own files: blocks of code whose first line, a docstring, names one.
FILES = {name: block for block, name in re.findall(r'```python\n("""[^\n]*?(my_\w+\.py)"""\n.*?)```', README, re.S)}


def write_files(folder: Path) -> None:
    for name, block in FILES.items():
        (folder / name).write_text(block)
