"""The checker of the Berkeley Function Calling Leaderboard itself, out of its wheel, as a program.

    python tests/leaderboard.py WHEEL < ROWS > VERDICTS

Reads a line ``{"tools", "accepted", "called", "call"}`` each, the tools as the leaderboard writes
them, and writes what the checker says of the call: true, false, or why it broke down.
"""

from __future__ import annotations

import json
import sys
import types
from collections import defaultdict

MODULE = "bfcl_eval.constants.model_config"


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    # It imports every vendor's client, for one flag a model: whether dots in names are replaced.
    stub = types.ModuleType(MODULE)
    flags = types.SimpleNamespace(underscore_to_dot=False)
    stub.MODEL_CONFIG_MAPPING = defaultdict(lambda: flags)  # type: ignore[attr-defined]
    sys.modules[MODULE] = stub
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    for line in sys.stdin:
        row = json.loads(line)
        called, category = row["call"], "simple" if len(row["tools"]) == 1 else "multiple"
        try:
            found = ast_checker(
                row["tools"],
                [{called["name"]: called["arguments"]}],
                [{row["called"]: row["accepted"]}],
                Language.PYTHON,
                category,
                "any",
            )
            verdict = found["valid"]
        except Exception as error:
            verdict = repr(error)
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
