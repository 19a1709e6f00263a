"""The page that `dvc plots` fills in, with the drawing scripts inside it: it needs no network.

DVC's own page loads Vega from a content network, and is blank without one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from supertiny.errors import UserError
from supertiny.io import write_text

DVC_FOLDER = Path(".dvc")
PAGE = "plots.html"  # in the folder above, ignored by git; DVC looks for templates there
VEGA_LITE = "5.21"  # the last of the major version that DVC's plot templates are written in

# DVC replaces `{plot_divs}` and `{refresh_tag}`; `{scripts}` would bring the network back in.
# The scripts stand in a block, or their constants would clash with the `var spec` of each plot.
_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC plots</title>
<link rel="icon" href="data:,">
<style>
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem; color: #222; background: #fff; }
table { border-spacing: 15px; }
img { max-width: 100%; }
</style>
<script>{
SCRIPTS
}</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


# What the bundle does with what it holds; DVC's scripts look for these three names.
_SNIPPET = "window.vegaEmbed = vegaEmbed; window.vegaLite = vegaLite; window.vega = vega;"


def write_page(folder: Path = DVC_FOLDER) -> Path:
    """Write the page and let this clone's `dvc plots` use it; returns where it is.

    Raises:
        UserError: the folder is not that of a DVC repository.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: not found; run from the root of the repository")
    from vl_convert import javascript_bundle

    page = folder / PAGE
    write_text(page, _TEMPLATE.replace("SCRIPTS", javascript_bundle(_SNIPPET, VEGA_LITE)))
    # In the config of this clone: DVC fails on a template that is named and not there.
    setting = ["config", "--local", "plots.html_template", PAGE]
    subprocess.run([sys.executable, "-m", "dvc", *setting], cwd=folder.parent, check=True)
    return page
