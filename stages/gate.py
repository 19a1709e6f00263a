"""Check the bounds of section `gate`; a broken one stops the graph here, before anything ships.

Limits: the bounds see what was measured on one test set and one training run.

    dvc repro gate        (or: python -m stages.gate VARIANT...)
"""

import sys
from pathlib import Path

from supertiny.errors import UserError
from supertiny.gate import flat, measure, table
from supertiny.io import write_json
from supertiny.params.core import task_name
from supertiny.params.gate import Gate
from supertiny.stage import run_stage

METRICS = Path("metrics")


def main(params: Gate) -> None:
    """Write metrics/gate.json; exit with the table of the checks when a bound is broken."""
    checks = measure(METRICS, task_name(), "fp32", sys.argv[1:], params)
    write_json(METRICS / "gate.json", flat(checks))
    print(table(checks))
    if params.enforce and not all(check.holds for check in checks):
        raise UserError("a bound of params.yaml, section gate, is broken; see the table above")


if __name__ == "__main__":
    run_stage(main, Gate)
