"""Where the rows of this task come from: the seeds beside this file.

Change it when the seeds outgrow a file. All the graph asks for is `load(params)` with a method
`stream(split)` that yields rows; each has query, call, source, template, names and slices, and may
have more keys for the task's own metrics. A template or a name in two splits is refused.
"""

from pathlib import Path

from supertiny import seeds
from supertiny.params.prepare import Prepare


def load(params: Prepare) -> seeds.Rows:
    """The task's source of rows; called by the stage `prepare`."""
    return seeds.load(Path(__file__).parent / "seeds.jsonl", params)
