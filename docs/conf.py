"""How `make docs` builds this folder into a site that needs no network to be read."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from preprocess.index import VERSION

project, author, copyright = "v4d", "the v4d authors", "the v4d authors, Apache-2.0"
release = VERSION
extensions = ["myst_parser"]
# As they are linked where the files are read one by one.
myst_heading_anchors = 3
# Most code blocks are commands or figures, and say so if they are Python.
highlight_language = "text"
html_theme = "furo"
html_title = f"v4d {release}"
html_copy_source = False
html_show_sphinx = False

# Pages that have their place in the index before they are written.
_ANNOUNCED = {"api", "evaluate", "export", "plan", "predict", "report", "reproduce", "untrimmed"}


def _leave_out_what_is_to_come(app: Any, page: str, source: list[str]) -> None:
    to_come = {name for name in _ANNOUNCED if not (Path(app.srcdir) / f"{name}.md").exists()}
    if page == "index":
        source[0] = "".join(line for line in source[0].splitlines(True) if line.strip() not in to_come)


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _leave_out_what_is_to_come)
