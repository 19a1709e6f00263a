"""Where the rows of this task come from: the seeds beside this file, and what a teacher made of them.

Change it when the seeds outgrow a file. All the graph asks for is `load(params)` with a method
`stream(split)` that yields rows; each has query, call, source, template, names and slices, and may
have more keys for the task's own metrics. A template or a name in two splits is refused.
"""

from pathlib import Path

from supertiny import seeds
from supertiny.params.prepare import Prepare


def load(params: Prepare) -> seeds.Rows:
    """The task's source of rows; called by the stage `prepare`."""
    here = Path(__file__).parent
    return seeds.load(here / "seeds.jsonl", params, expanded=here / "expanded.jsonl")
