"""Write the report: reports/report.html and report.md, the short table reports/results.md, figures,
and metrics/summary.json, the few numbers that a change is judged by.

Reads only what earlier stages wrote, for the variants named on the command line in the order of the
way from the baseline to the tiny model; the last one is the one that ships. Honest limits: each
number comes from one training run on one test set, so intervals cover the choice of test inputs,
not of the training seed; time and cost hold for the machine the benchmark ran on.

    python -m stages.report VARIANT... [--bench VARIANT...] [--quantized VARIANT...]
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from supertiny import plots, report_html
from supertiny.io import read_tsv, write_json, write_text
from supertiny.metrics import confusion
from supertiny.params.core import load_all
from supertiny.params.report import Report
from supertiny.report import (
    SPLITS,
    Sources,
    Variant,
    read_variant,
    render,
    results_table,
    summary,
)
from supertiny.stage import run_stage
from supertiny.task import load_task

OUT = Path("reports")
METRICS = Path("metrics")
CONSTRAINTS = Path("constraints.txt")
# Those of the graph's stages: a param shown must be a param of this stage in dvc.yaml.
SECTIONS = (
    "fetch", "prepare", "teacher", "curate", "sft", "rl", "logits", "prune", "distill", "export",
    "quantize", "evaluate", "benchmark", "divergence", "confidence", "gate", "bundle", "report",
)  # fmt: skip
_STUDENT, _PRUNED = METRICS / "train" / "gold.json", METRICS / "prune.json"
PARAMETERS = {
    **dict.fromkeys(("base", "gold", "sft", "rl"), _STUDENT),
    **dict.fromkeys(("pruned", "tiny", "fp32", "int8", "int4"), _PRUNED),
}
COMMANDS = ("dvc repro          # everything, from the base weights to this report", "dvc pull")


def main(params: Report) -> None:
    chosen = _arguments()
    every = load_all()
    task = load_task(every["task"])
    parity = {f"Parity: {v}": METRICS / "quantize" / f"{v}.json" for v in chosen.quantized}
    sources = Sources(
        evaluations=METRICS / "eval" / task.name,
        benchmarks=METRICS / "bench",
        queries=Path("data/queries"),
        prepare=METRICS / "prepare.json",
        origin=Path("models/base/SOURCE.json"),
        loss=METRICS / "train" / "gold_loss.tsv",
        tables={
            "Training on commands: gold": _STUDENT,
            "Rewrites: curate": METRICS / "curate.json",
            "Training on commands and rewrites: sft": METRICS / "train" / "sft.json",
            "Training: rl": METRICS / "train" / "rl.json",
            "The teacher's captured log-probabilities": METRICS / "train" / "logits.json",
            "Pruning": _PRUNED,
            "Training: distill": METRICS / "train" / "distill.json",
            "Leakage": METRICS / "prepare.json",
            "Parity: export": METRICS / "export.json",
            **parity,
            "Gate": METRICS / "gate.json",
        },
        parameters=PARAMETERS,
        curated=(Path("data/curated"), METRICS),
    )
    read = [read_variant(sources, name, name in chosen.bench) for name in chosen.variants]
    variants = [variant for variant in read if variant.metrics["n"]]  # not every task has a teacher
    images = {"loss": "loss.png", "confusion": "confusion.png"}
    page = render(task, variants, sources, COMMANDS, images, params)
    lineage = report_html.Lineage(
        commands=COMMANDS,
        params={name: asdict(every[name]) for name in SECTIONS},
        constraints=CONSTRAINTS,
        files=_files(sources, variants),
        bundle=Path("models/bundle"),
    )
    html = report_html.render(task, variants, sources, lineage, params)
    curve = read_tsv(sources.loss)
    plots.loss_curve(
        OUT / images["loss"],
        [int(point["step"]) for point in curve],
        [float(point["unseen_loss"]) for point in curve],
    )
    plots.confusion_matrix(OUT / images["confusion"], confusion(variants[-1].predictions))
    write_json(METRICS / "summary.json", summary(variants))
    write_text(OUT / "results.md", results_table(variants) + "\n")
    write_text(OUT / "report.md", page)
    write_text(OUT / "report.html", html)
    print(f"{OUT}/report.html, {OUT}/report.md: {len(variants)} variants")


def _files(sources: Sources, variants: Sequence[Variant]) -> list[Path]:
    """Every file that the report's numbers come from, sorted."""
    files = {sources.origin, sources.prepare, sources.loss, *sources.tables.values()}
    files |= {sources.queries / f"{split}.jsonl" for split in SPLITS}
    files |= {path for paths in sources.rows().values() for path in paths}
    for variant in variants:
        ends = ("json", "predictions.jsonl", "tools.tsv")
        files |= {sources.evaluations / f"{variant.name}.{end}" for end in ends}
        if variant.bench:
            files.add(sources.benchmarks / f"{variant.name}.json")
    return sorted(files)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.report")
    parser.add_argument("variants", nargs="+", help="baseline first, the shipped one last")
    parser.add_argument("--bench", nargs="*", default=[], help="those that were benchmarked")
    parser.add_argument("--quantized", nargs="*", default=[], help="those with a parity file")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main, Report)
