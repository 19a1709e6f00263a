"""Write the report: reports/report.md, the short table reports/results.md and two figures.

Reads only what earlier stages wrote, for the variants named on the command line in the order of the
way from the baseline to the tiny model; the last one is the one that ships. Honest limits: each
number comes from one training run on one test set, so intervals cover the choice of test inputs,
not of the training seed; time and cost hold for the machine the benchmark ran on.

    python -m stages.report VARIANT... [--bench VARIANT...] [--quantized VARIANT...]
"""

import argparse
from pathlib import Path

from supertiny import plots
from supertiny.io import write_text
from supertiny.metrics import confusion
from supertiny.params.core import task_name
from supertiny.params.report import Report
from supertiny.report import Sources, read_tsv, read_variant, render, results_table
from supertiny.stage import run_stage
from supertiny.task import load_task

OUT = Path("reports")
METRICS = Path("metrics")
COMMANDS = ("dvc repro          # everything, from the base weights to this report", "dvc pull")


def main(params: Report) -> None:
    chosen = _arguments()
    task = load_task(task_name())
    parity = {f"Parity: {v}": METRICS / "quantize" / f"{v}.json" for v in chosen.quantized}
    sources = Sources(
        evaluations=METRICS / "eval" / task.name,
        benchmarks=METRICS / "bench",
        queries=Path("data/queries"),
        origin=Path("models/base/SOURCE.json"),
        loss=METRICS / "train" / "sft_loss.tsv",
        tables={
            "Training metrics": METRICS / "train" / "sft.json",
            "Leakage": METRICS / "prepare.json",
            "Parity: export": METRICS / "export.json",
            **parity,
        },
    )
    variants = [read_variant(sources, name, name in chosen.bench) for name in chosen.variants]
    images = {"loss": "loss.png", "confusion": "confusion.png"}
    page = render(task, variants, sources, COMMANDS, images, params)
    curve = read_tsv(sources.loss)
    plots.loss_curve(
        OUT / images["loss"], [int(p["step"]) for p in curve], [float(p["loss"]) for p in curve]
    )
    plots.confusion_matrix(OUT / images["confusion"], confusion(variants[-1].predictions))
    write_text(OUT / "results.md", results_table(variants) + "\n")
    write_text(OUT / "report.md", page)
    print(f"{OUT}/report.md: {len(variants)} variants")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.report")
    parser.add_argument("variants", nargs="+", help="baseline first, the shipped one last")
    parser.add_argument("--bench", nargs="*", default=[], help="those that were benchmarked")
    parser.add_argument("--quantized", nargs="*", default=[], help="those with a parity file")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main, Report)
