"""The command `supertiny`: predict with an exported model, export it, show and check params and tasks,
begin a task, plan a run, compare two commits, check and share with the remote, record a teacher,
plot offline.

Exit codes: 0 done; 1 at least one query got no legal call, or one object of the remote is missing
or corrupted; 2 a mistake in the command or a file;
3 a recording that was stopped by a limit or by errors and can be gone on with; 4 the one query got a
call that is too uncertain, ask the teacher; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from tqdm import tqdm

from supertiny.errors import CallError, UserError
from supertiny.io import read_json, write_json
from supertiny.params import core
from supertiny.task import load_task

if TYPE_CHECKING:
    from supertiny.confidence import Prediction
    from supertiny.conversation import Said
    from supertiny.runtime import OnnxStudent

DEFAULT_MODEL = Path("models/bundle")
ASK_TEACHER = 4  # exit code
MADE = ("call", "error", "confidence", "ask_teacher")  # keys that a line of output gets
CHUNK = 1024  # rows answered together: enough that batches of one length are full


def main(argv: list[str] | None = None) -> None:
    """Run one command line and exit with its code."""
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="supertiny", description="Tiny tool-calling models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict",
        help="turn a query, or a file of them, into tool calls",
        description='One query prints {"arguments":...,"name":...}; from a folder with a calibration '
        'also "confidence" and "ask_teacher", and exits with 4 where that is true. With --input, each '
        'line {"query": ...} is written with its other keys and "call", "confidence", "ask_teacher", '
        'or "error" where there is no call; such keys of the input are replaced.',
    )
    predict.add_argument("query", nargs="?", help="what was said, such as 'dim the lights to 30'")
    predict.add_argument(
        "--input", metavar="JSONL", help="file of queries or messages, - for standard input"
    )
    predict.add_argument("--output", metavar="JSONL", help="where calls go, - (default) for stdout")
    predict.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="default: %(default)s")
    predict.add_argument("--task", help="the task that the model must be for")
    predict.add_argument(
        "--tools",
        metavar="JSON",
        help="file with a list of tools (name, description, parameters), for a model whose task has "
        'none of its own; a line of --input may bring others as "tools"',
    )
    predict.add_argument("--threads", type=_positive, help="CPU threads; default: two")
    predict.add_argument("--batch-size", type=_positive, default=32, help="default: %(default)s")
    predict.add_argument(
        "--max-new-tokens",
        type=_positive,
        default=64,
        help="longest answer; one that does not end by then is none (default: %(default)s)",
    )
    predict.add_argument(
        "--stream", action="store_true", help="first print the answer's text as it is decoded"
    )
    predict.set_defaults(run=_predict, fail=predict.error)
    params = commands.add_parser("params", help="every parameter: value, allowed values, meaning")
    params.set_defaults(run=_params)
    check = commands.add_parser(
        "check",
        help="check params.yaml and the task, run nothing",
        description="Also clears a lock file of DVC that a kill -9 of `dvc` has torn, and names a "
        "dvc.lock that is cut short.",
    )
    check.set_defaults(run=_check)
    new_task = commands.add_parser(
        "new-task",
        help="write the folder and the profile of a task of your own, with an example to rewrite",
    )
    new_task.add_argument("name", help="such as support_tickets")
    new_task.set_defaults(run=_new_task)
    check_task = commands.add_parser(
        "check-task",
        help="everything that is wrong with a task's folder, and what the graph would do with it",
        description="Exit code 2 if there is a problem; notes are none. Runs and asks nothing.",
    )
    check_task.add_argument("name", nargs="?", help="default: the task of params.yaml")
    check_task.set_defaults(run=_check_task)
    new_graph = commands.add_parser(
        "new-graph",
        help="a graph of its own for another task: graphs/NAME, with the params of profile NAME",
    )
    new_graph.add_argument("name", help="such as feedback")
    new_graph.set_defaults(run=_new_graph)
    profile = commands.add_parser(
        "profile",
        help="replace values of params.yaml by those of conf/profile/NAME.yaml",
        description="`git checkout params.yaml` undoes it.",
    )
    profile.add_argument("name", help="such as smoke")
    profile.set_defaults(run=_profile)
    record = commands.add_parser(
        "record",
        help="ask the teacher LLM what is not recorded yet, then write the recording",
        description="Asks through the params of section teacher. Stopped by a limit, an error or "
        "Ctrl-C it keeps what it has; run it again to go on. A server's key is read from "
        "SUPERTINY_TEACHER_KEY.",
    )
    record.add_argument("--backend", choices=("openai", "local"), required=True)
    record.add_argument(
        "--time",
        type=int,
        default=0,
        metavar="N",
        help="then ask N blind calls of dev one at a time, for the latency in card.json",
    )
    record.set_defaults(run=_record)
    plan = commands.add_parser(
        "plan",
        help="what `dvc repro` would run, why, for how long, and what there is to pull",
        description="Runs, pulls and changes nothing.",
    )
    shape = plan.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="for other programs")
    shape.add_argument(
        "--to-pull", action="store_true", help="only the stages to `dvc pull` before `dvc repro`"
    )
    shape.add_argument(
        "--teacher",
        action="store_true",
        help="only what `supertiny record` would ask the teacher LLM: questions, tokens, money",
    )
    plan.set_defaults(run=_plan)
    export = commands.add_parser(
        "export",
        help="copy the model that ships to a folder of its own, checked, with its lineage",
    )
    export.add_argument("folder", type=Path, help="a new folder")
    export.set_defaults(run=_export)
    compare = commands.add_parser(
        "compare",
        help="two commits' answers to the same test rows: difference, interval, won, lost",
        description="Reads the predictions that each commit's dvc.lock names from the DVC cache, "
        "and pulls them where they are not there.",
    )
    compare.add_argument("first", metavar="REV1", help="a git revision, experiment, or workspace")
    compare.add_argument("second", metavar="REV2", help="likewise")
    compare.add_argument("--variant", help="default: the one that REV2 ships")
    compare.add_argument("--limit", type=_positive, default=20, help="inputs shown of each kind")
    compare.add_argument("--json", action="store_true", help="for other programs")
    compare.set_defaults(run=_compare)
    page = commands.add_parser(
        "plots-page", help="let `dvc plots` draw without a network; part of `make setup`"
    )
    page.set_defaults(run=_plots_page)
    verify = commands.add_parser(
        "verify",
        help="which objects of the remote are missing or corrupted, and how to mend them",
        description="Looks at what dvc.lock of the working tree names. An object that the DVC cache "
        "has too is compared by size, any other is read.",
    )
    verify.add_argument("--remote", metavar="NAME", help="default: the default remote")
    verify.add_argument("--read-all", action="store_true", help="read every object, trust no size")
    verify.add_argument(
        "--delete-corrupted",
        action="store_true",
        help="delete them from the remote, so that `dvc push` sends them again",
    )
    verify.set_defaults(run=_verify)
    share = commands.add_parser(
        "share",
        help="send the results of all params tried here to the remote, committed or not",
        description="A colleague who sets the same params restores them with "
        "`dvc repro --pull --allow-missing`.",
    )
    share.add_argument("--remote", metavar="NAME", help="default: the default remote")
    share.set_defaults(run=_share)
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1")
    return int(text)


def _params(_: argparse.Namespace) -> int:
    for name, section in core.load_all().items():
        if name == "task":
            print(f"task: {section}\n    a folder under tasks/")
            continue
        print(f"\n{name}: {type(section).__doc__}")
        for key, allowed, doc in core.describe(type(section)):
            print(f"  {key}: {getattr(section, key)!r}\n    {doc} ({allowed})")
    return 0


def _check(_: argparse.Namespace) -> int:
    from supertiny.recover import check_lock_file, drop_torn_lock

    if drop_torn_lock():
        print(".dvc/tmp/rwlock: torn by a killed `dvc`, removed; nothing else is lost")
    check_lock_file()
    task = load_task(core.task_name())
    print(f"params.yaml is valid; task {task.name} has {len(task.tools)} tools")
    return 0


def _new_task(arguments: argparse.Namespace) -> int:
    from supertiny.newtask import new_task

    for path in new_task(arguments.name):
        print(path)
    print(f"next: rewrite them, then `supertiny check-task {arguments.name}`", file=sys.stderr)
    return 0


def _new_graph(arguments: argparse.Namespace) -> int:
    from supertiny.newgraph import new_graph

    folder = new_graph(arguments.name)
    print(folder)
    print(f"next: `cd {folder}`, `supertiny plan`, `dvc repro`", file=sys.stderr)
    return 0


def _check_task(arguments: argparse.Namespace) -> int:
    from supertiny.checktask import check_task, render

    params = core.load_all()
    name = arguments.name or params["task"]
    found = check_task(name, params["prepare"], params["teacher"])
    print(render(name, found))
    if found.problems:
        return 2
    if name == params["task"]:
        print("next: `supertiny plan`, then `dvc repro`")
    else:
        print(f"params.yaml is for task {params['task']}: `supertiny profile {name}` sets this one")
    return 0


def _profile(arguments: argparse.Namespace) -> int:
    from supertiny.profile import apply_profile

    for key, old, new in apply_profile(arguments.name):
        print(f"{key}: {old!r} -> {new!r}")
    return 0


def _record(arguments: argparse.Namespace) -> int:
    from supertiny.params.teacher import Teacher
    from supertiny.teacher.asking import Stopped
    from supertiny.teacher.run import CARD, inputs, record

    task = load_task(core.task_name())
    params = replace(core.load(Teacher), backend=arguments.backend)
    queries, recording, live = inputs(task)
    try:
        card = record(task, params, queries, recording, live, arguments.time)
    except Stopped as stopped:
        print(f"record {stopped}", file=sys.stderr)
        return stopped.code
    write_json(recording.with_name(CARD), card)
    print(f"{recording}: {card['answers']} answers, {card['failures']} questions without one")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.teacher:
        return _plan_teacher()
    from supertiny import plan  # here and below, so that the other commands start at once

    # Beside what DVC reads, which takes as long: whether it is wanted is known only then.
    with ProcessPoolExecutor(1) as beside:
        text = not (arguments.json or arguments.to_pull)
        questions = beside.submit(_teacher_estimate, brief=True) if text else None
        steps = plan.make_plan()
    if arguments.to_pull:
        for stage in plan.to_pull(steps):
            print(stage)
    elif arguments.json:
        print(_dump(plan.to_json(steps)))
    else:
        print(plan.render(steps))
        if questions and any(
            step.stage == "teacher" and step.action in ("run", "follow") for step in steps
        ):
            print(questions.result())
    return 0


def _plan_teacher() -> int:
    print(_teacher_estimate(brief=False))
    return 0


def _teacher_estimate(brief: bool) -> str:
    from supertiny.params.teacher import Teacher
    from supertiny.teacher import estimate
    from supertiny.teacher.run import inputs

    task, params = load_task(core.task_name()), core.load(Teacher)
    if params.backend in ("none", "made_up"):
        return f"Teacher: no LLM is asked (teacher.backend: {params.backend})."
    try:
        found = estimate.estimate(task, params, *inputs(task, checked=False))
    except UserError as error:
        if not brief:
            raise
        return f"Teacher: what is not recorded yet cannot be told: {error}"
    return estimate.summary(found, params) if brief else estimate.render(found, params)


def _compare(arguments: argparse.Namespace) -> int:
    from supertiny import compare

    names = (arguments.first, arguments.second)
    variant = arguments.variant or compare.shipped_variant(Path(), arguments.second)
    first, second = (compare.read_predictions(Path(), name, variant) for name in names)
    result = compare.compare_rows(first, second)
    if arguments.json:
        print(_dump(compare.to_json(result)))
    else:
        print(compare.render(result, names, variant, arguments.limit))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from supertiny.bundle import hand_over

    hand_over(Path("models/bundle"), arguments.folder)
    print(f"{arguments.folder}: see README.md there", file=sys.stderr)
    return 0


def _plots_page(_: argparse.Namespace) -> int:
    from supertiny.plotspage import write_page

    print(f"{write_page()}: the page that `dvc plots` fills in, with all its scripts")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from supertiny import remote

    with remote.open_stores(name=arguments.remote) as stores:
        findings = remote.check(stores, arguments.read_all)
        print(remote.render(stores, findings))
        if not findings.problems:
            return 0
        in_the_way = remote.in_the_way(stores, findings.problems)
        if in_the_way and not arguments.delete_corrupted:
            print(remote.REMEDY)
            return 1
        for oid in in_the_way:
            print(f"deleted {remote.delete(stores, oid)}")
        print(remote.SEND)
    return 1


def _share(arguments: argparse.Namespace) -> int:
    from supertiny import remote

    with remote.open_stores(name=arguments.remote) as stores:
        results, objects = remote.share(stores, arguments.remote)
        print(
            f"Remote {stores.label} holds {results} results of stages; {objects} objects were new."
        )
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    if (arguments.query is None) == (arguments.input is None):
        arguments.fail("give either a query or --input")
    if arguments.output is not None and arguments.input is None:
        arguments.fail("--output needs --input")
    if arguments.stream and arguments.query is None:
        arguments.fail("--stream needs a query")
    brought = {"tools": read_json(arguments.tools)} if arguments.tools else {}
    if arguments.query is not None:
        asked: Said = {"query": arguments.query, **brought} if brought else arguments.query
        return _predict_one(_load(arguments), asked, arguments)
    with _reader(arguments.input) as lines, _writer(arguments.output or "-") as out:
        return _predict_file(_load(arguments), lines, out, arguments, brought)


def _load(arguments: argparse.Namespace) -> OnnxStudent:
    from supertiny.runtime import OnnxStudent

    student = OnnxStudent(arguments.model, threads=arguments.threads)
    if arguments.task not in (None, student.task.name):
        raise UserError(
            f"{arguments.model}: made for task {student.task.name!r}, --task is "
            f"{arguments.task!r}; give the folder of a model of that task with --model"
        )
    return student


def _predict_one(student: OnnxStudent, query: Said, arguments: argparse.Namespace) -> int:
    limit = arguments.max_new_tokens
    try:
        prediction = (
            _streamed(student, query, limit) if arguments.stream else student.predict(query, limit)
        )
    except CallError as error:
        print(f"error: no legal call: {error}", file=sys.stderr)
        return 1
    print(_dump(prediction.to_json() | _certainty(prediction), compact=True))
    return ASK_TEACHER if prediction.ask_teacher else 0


def _streamed(student: OnnxStudent, query: Said, max_new_tokens: int) -> Prediction:
    pieces = student.stream(query, max_new_tokens)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print()
    assert pieces.prediction is not None
    return pieces.prediction


def _certainty(prediction: Prediction) -> dict[str, Any]:
    if prediction.confidence is None:
        return {}
    confidence = round(prediction.confidence, 4)
    return {"confidence": confidence, "ask_teacher": prediction.ask_teacher}


def _predict_file(
    student: OnnxStudent,
    lines: BinaryIO,
    out: TextIO,
    arguments: argparse.Namespace,
    brought: Mapping[str, Any],
) -> int:
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    done = failed = unsure = 0
    with tqdm(unit="query", desc="predict", mininterval=0.5) as progress:
        while chunk := list(islice(numbered, CHUNK)):
            rows = _answered(student, chunk, arguments, brought)
            for (number, _), row in zip(chunk, rows, strict=True):
                if "error" in row:
                    failed += 1
                    progress.write(f"line {number}: {row['error']}", file=sys.stderr)
                unsure += row.get("ask_teacher") is True
                print(_dump(row), file=out)
            done += len(chunk)
            progress.update(len(chunk))
    asked = f", {unsure} to ask the teacher" if student.calibration else ""
    print(f"{done} lines: {done - failed} calls, {failed} failed{asked}", file=sys.stderr)
    return 1 if failed else 0


def _answered(
    student: OnnxStudent,
    chunk: list[tuple[int, bytes]],
    arguments: argparse.Namespace,
    brought: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The output row of each numbered line; ``brought`` may hold tools for those without."""
    rows = [_read_row(number, line) for number, line in chunk]
    good = [row for row in rows if "error" not in row]
    calls = student.predict_many(
        [{**brought, **row} for row in good], arguments.max_new_tokens, arguments.batch_size
    )
    for row, call in zip(good, calls, strict=True):
        if isinstance(call, CallError):
            row["error"] = str(call)
        else:
            row |= {"call": call.to_json(), **_certainty(call)}
    return rows


def _read_row(number: int, line: bytes) -> dict[str, Any]:
    """A line's object, without `MADE`; with ``error`` if it holds no query."""
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
        _dump(row).encode()  # refuses lone surrogates, which no output file could hold
    except (ValueError, RecursionError) as error:
        return {"line": number, "error": f"not valid JSON: {error}"}
    if not isinstance(row, dict):
        return {"line": number, "error": f"expected an object, found {type(row).__name__}"}
    row = {key: value for key, value in row.items() if key not in MADE}
    if ("query" in row) == ("messages" in row):
        row["error"] = 'expected one of the keys "query" and "messages"'
    elif "query" in row and not isinstance(row["query"], str):
        row["error"] = f"query: expected a string, found {type(row['query']).__name__}"
    return row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _dump(value: Any, compact: bool = False) -> str:
    separators = (",", ":") if compact else None
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=separators)


@contextmanager
def _reader(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    if not Path(name).is_file():
        raise UserError(f"--input {name}: file not found")
    with Path(name).open("rb") as file:
        yield file


@contextmanager
def _writer(name: str) -> Iterator[TextIO]:
    """A file that appears under its name once everything is written, or standard output."""
    if name == "-":
        yield sys.stdout
        return
    path = Path(name)
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"--output {name}: expected a file in a folder that exists")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
