"""How `make docs` builds this folder into a site that needs no network to be read."""

import sys
from pathlib import Path

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
