"""What `dvc repro` would do, told before it does it: which stages, why, how long, how many bytes.

Nothing is run, pulled or written: the working tree is compared with dvc.lock and with the run
cache. What cannot be known without running is said to be unknown: whether a stage that runs again
gives the same bytes (then those behind it stand), what the remote holds, and how long a stage
takes that never ran here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils import dict_sha256
from dvc.utils.serialize import load_path

from supertiny.errors import UserError

TIMES = Path(".supertiny/times.tsv")
# run: something it reads is new. follow: it reads what such a stage makes. restore: the cache holds
# the result. missing: unchanged, but its result is neither in the working tree nor in the cache.
ACTIONS = {"run": "runs", "follow": "follows", "restore": "from cache", "missing": "not here"}
_ABSENT = object()


@dataclass(frozen=True)
class Step:
    """One stage: what happens to it (a key of `ACTIONS`, or "keep") and why.

    Attributes:
        minutes: what its last run here took; None where it never ran here.
        missing: its cached outs that are not here, with their bytes (None: dvc.lock does not say).
        reads: outs of other stages that it reads.
    """

    stage: str
    action: str
    reasons: tuple[str, ...]
    minutes: float | None
    missing: Mapping[str, int | None]
    reads: tuple[str, ...]


def make_plan(root: Path = Path()) -> list[Step]:
    """Every stage of the graph in the folder ``root``, each behind those it reads from.

    Raises:
        UserError: no DVC repository, or a dvc.yaml that DVC refuses.
    """
    try:
        with Repo(str(root)) as repo:
            return list(_Planner(repo, root.resolve(), read_times(root / TIMES)).steps())
    except DvcException as error:
        raise UserError(f"DVC cannot read the graph: {error}; see `dvc status`") from None


class _Planner:
    def __init__(self, repo: Any, folder: Path, times: Mapping[str, float]) -> None:
        self.repo, self.folder, self.times = repo, folder, times
        self.made_by = {out.fs_path: out for stage in repo.index.stages for out in stage.outs}
        self.unknown: set[str] = set()  # outs that come to be only by running
        self.restored: dict[str, Any] = {}  # outs that the run cache will put in place
        self.params: dict[str, Any] = {}  # files of params by path

    def steps(self) -> Iterator[Step]:
        graph = self.repo.index.graph  # edges lead from a stage to those it reads from
        before = {stage: set(graph.successors(stage)) for stage in self.repo.index.stages}
        for stage in TopologicalSorter(before).static_order():
            # `dvc add` makes stages without a command; other tasks have graphs of their own.
            if stage.cmd and Path(stage.path).parent == self.folder:
                yield self._step(stage)

    def _step(self, stage: Any) -> Step:
        reasons = self._own_reasons(stage)
        read = self._read_outs(stage)
        behind = [self._name(path) for path in read if self._changes(stage, path)]
        lost = {out: state for out in stage.outs for state in out.status().values()}
        gone = [out for out in lost if _gone(out)]
        action = "keep"
        if not reasons and not behind and gone:
            action, reasons = "missing", [f"{out} is not in the cache" for out in gone]
        elif reasons or behind or lost:
            outs = self._restorable(stage, changed=bool(reasons or behind))
            action = "restore" if outs is not None else "run" if reasons or not behind else "follow"
            reasons += [f"reads {path}" for path in behind]
            reasons = reasons or [
                f"{out} is {state} (`dvc checkout`)" for out, state in lost.items()
            ]
            self.restored |= {out.fs_path: out for out in outs or ()}
            self.unknown |= {out.fs_path for out in stage.outs} if outs is None else set()
        return Step(
            stage=stage.addressing,
            action=action,
            reasons=tuple(reasons),
            minutes=self._minutes(stage),
            missing={str(out): out.meta.size for out in gone} if action == "missing" else {},
            reads=tuple(map(self._name, read)),
        )

    def _own_reasons(self, stage: Any) -> list[str]:
        if not any(dep.hash_info for dep in stage.deps):
            return ["dvc.lock has no run of it"]
        reasons = []
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                reasons += _param_changes(dep, self._params_now(dep))
            elif not any(_overlap(path, dep.fs_path) for path in {*self.unknown, *self.restored}):
                for path, state in dep.status().items():
                    reasons += self._dep_reason(dep, path, state)
        if stage.changed_stage():
            reasons.append("its command changed")
        return reasons

    def _params_now(self, dep: Any) -> dict[str, Any]:
        # As DVC reads them, but the file once and not once a stage: that takes a second.
        if dep.fs_path not in self.params:
            self.params[dep.fs_path] = load_path(dep.fs_path, dep.fs) if dep.exists else {}
        if not dep.params:  # the whole file
            return self.params[dep.fs_path]
        found: dict[str, Any] = {}
        for key in dep.params:
            value: Any = self.params[dep.fs_path]
            for part in key.split("."):
                value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
            if value is not _ABSENT:
                found[key] = value
        return found

    def _dep_reason(self, dep: Any, path: str, state: str) -> list[str]:
        if state != "deleted":
            return [f"{path} is new to it" if state == "new" else f"{path} changed"]
        makers = [out for made, out in self.made_by.items() if _overlap(made, dep.fs_path)]
        if not makers:
            return [f"{path} is missing and no stage makes it"]
        # Not here, but what dvc.lock says of it may still be what this stage read.
        same = all(out.hash_info == dep.hash_info for out in makers if out.fs_path == dep.fs_path)
        return [] if same else [f"{path} changed"]

    def _read_outs(self, stage: Any) -> list[str]:
        read = [dep.fs_path for dep in stage.deps if not isinstance(dep, ParamsDependency)]
        return [out for out in self.made_by if any(_overlap(out, path) for path in read)]

    def _changes(self, stage: Any, out: str) -> bool:
        if out in self.unknown:
            return True
        deps = [dep for dep in stage.deps if _overlap(out, dep.fs_path)]
        return out in self.restored and any(self._hash(dep) != dep.hash_info for dep in deps)

    def _hash(self, dep: Any) -> Any:
        """The hash that a dep will have once the stages before it are done; None: not known."""
        if any(_overlap(path, dep.fs_path) for path in self.unknown):
            return None
        for path, out in self.restored.items():
            if path == dep.fs_path:
                return out.hash_info
            if _overlap(path, dep.fs_path):
                return _inner_hash(out, Path(dep.fs_path))
        return dep.get_hash() if dep.exists else dep.hash_info

    def _restorable(self, stage: Any, changed: bool) -> list[Any] | None:
        """The outs that DVC puts in place instead of running the stage, if its cache has them."""
        # DVC has no public question for this; tests compare the answer with what `dvc repro` does.
        cache = self.repo.stage_cache
        entry = self._run_cache_entry(stage) if changed else to_single_stage_lockfile(stage)
        if entry is None:
            return None
        found = cache._create_stage(entry, wdir=stage.wdir)
        return found.outs if found.outs_cached() else None

    def _run_cache_entry(self, stage: Any) -> Any:
        hashes = [(dep, self._hash(dep), dep.hash_info) for dep in stage.deps]
        if not all(value for _, value, _ in hashes):
            return None
        for dep, value, _ in hashes:
            dep.hash_info = value
        entry = to_single_stage_lockfile(stage)
        for dep, _, value in hashes:
            dep.hash_info = value
        found = {dep.def_path: value.value for dep, value, _ in hashes}
        for item in entry["deps"]:  # what DVC knows beside the hash still holds the old one
            item["md5"] = found[item["path"]]
        # The key of dvc.stage.cache: command, deps and params by hash, outs by path.
        entry["outs"] = [out["path"] for out in entry["outs"]]
        key = dict_sha256(entry, exclude=["size", "nfiles"])
        results = Path(self.repo.stage_cache.cache_dir, key[:2], key).glob("*")
        newest = max(results, key=lambda path: path.stat().st_mtime, default=None)
        return None if newest is None else self.repo.stage_cache._load_cache(key, newest.name)

    def _minutes(self, stage: Any) -> float | None:
        seconds = self.times.get(_label(stage.cmd))
        return None if seconds is None else seconds / 60

    def _name(self, fs_path: str) -> str:
        return str(self.made_by[fs_path])


def _gone(out: Any) -> bool:
    return bool(out.use_cache and out.hash_info and out.changed_cache())


def _inner_hash(out: Any, path: Path) -> Any:
    """The hash of one file of a folder in the cache; None where it is not there."""
    tree = out.get_obj()
    inner = path.relative_to(out.fs_path).parts if path.is_relative_to(out.fs_path) else ()
    return (tree.get(inner) or (None, None))[1] if tree and inner else None


def _overlap(one: str, other: str) -> bool:
    # Of DVC's own absolute paths, by the hundred thousand: as text, since parsing them takes seconds.
    return one == other or one.startswith(f"{other}{os.sep}") or other.startswith(f"{one}{os.sep}")


def _param_changes(dep: Any, now: Mapping[str, Any]) -> list[str]:
    old, new = _flat(dep.hash_info.value or {}), _flat(now)
    prefix = "" if Path(str(dep)).name == "params.yaml" else f"{dep}:"
    return [
        f"{prefix}{key}: {_shown(old.get(key, _ABSENT))} -> {_shown(new.get(key, _ABSENT))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else repr(value)


def _label(command: str) -> str:
    """The name under which `run_stage` logs the time of a command."""
    words = shlex.split(command)
    script = words.index("-m") + 1 if "-m" in words else min(1, len(words) - 1)
    stem = words[script].rsplit(".", 1)[-1] if "-m" in words else Path(words[script]).stem
    return "-".join([stem, *words[script + 1 :]]).replace("/", "_")


def read_times(path: Path) -> dict[str, float]:
    """Seconds that each stage's last run here took; a line that a killed run left half is passed over."""
    times = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        label, _, seconds = line.partition("\t")
        if seconds.replace(".", "", 1).isdecimal():
            times[label] = float(seconds)
    return times


def to_json(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """The plan for other programs, one object a stage."""
    return [asdict(step) for step in steps]


def to_pull(steps: Iterable[Step]) -> list[str]:
    """Stages whose outs are not here and are read by a stage that runs or follows."""
    steps = list(steps)
    read = {path for step in steps if step.action in ("run", "follow") for path in step.reads}
    return [step.stage for step in steps if read & step.missing.keys()]


def render(steps: Sequence[Step]) -> str:
    """The plan as text: a table of what is not as it should be, then time and bytes."""
    shown = [step for step in steps if step.action != "keep"]
    if not shown:
        return f"Nothing to do: all {len(steps)} stages are as dvc.lock says."
    width = max(len(step.stage) for step in shown)
    lines = [f"{'stage':{width}}  {'what':10}  minutes  why"]
    for step in shown:
        minutes = "?" if step.minutes is None else f"{step.minutes:.1f}"
        head = f"{step.stage:{width}}  {ACTIONS[step.action]:10}  {minutes:>7}  "
        lines += [head + (step.reasons or ("",))[0]]
        lines += [" " * len(head) + reason for reason in step.reasons[1:]]
    return "\n".join([*lines, "", *_summary(steps)])


def _summary(steps: Sequence[Step]) -> Iterator[str]:
    by = {name: [step for step in steps if step.action == name] for name in [*ACTIONS, "keep"]}
    work = by["run"] + by["follow"]
    parts = [f"{len(by['run'])} to run", f"{len(by['follow'])} behind them"]
    parts += [f"{len(by['restore'])} from the cache"] if by["restore"] else []
    parts += [f"{len(by['missing'])} not here"] if by["missing"] else []
    yield f"{len(steps)} stages: {', '.join(parts)}, {len(by['keep'])} as they are."
    if by["follow"]:
        yield "One that follows stands as it is where the stage before it makes the same bytes again."
    if work:
        yield f"Time: {_time(work)}."
    if by["missing"]:
        yield from _pull_lines(steps, by["missing"])


def _time(steps: Sequence[Step]) -> str:
    known = [step.minutes for step in steps if step.minutes is not None]
    unknown = [step.stage for step in steps if step.minutes is None]
    text = f"{sum(known):.0f} minutes at most" if known else "not known"
    if known:
        text += ", as their last runs here took, with whatever params they had"
    return f"{text}; never timed here: {', '.join(unknown)}" if unknown else text


def _pull_lines(steps: Sequence[Step], missing: Sequence[Step]) -> Iterator[str]:
    targets = to_pull(steps)
    everything = {path: size for step in missing for path, size in step.missing.items()}
    if targets:
        needed = [step.missing for step in missing if step.stage in targets]
        sizes = {path: size for outs in needed for path, size in outs.items()}
        # `dvc repro --pull` alone would fetch one file of a folder for a stage that reads one, and
        # then take the folder for complete when the next stage reads all of it.
        commands = f"`dvc pull {' '.join(targets)}`, then `dvc repro --pull --allow-missing`"
        yield f"To pull first: {_bytes(sizes)} ({commands})."
    else:
        yield "Nothing of it has to be pulled: `dvc repro --pull --allow-missing`."
    yield f"To pull for everything that is not here: {_bytes(everything)} (`dvc pull`)."
    yield f"Made here instead, by a plain `dvc repro`: {_time(missing)}."
    yield "Whether the remote holds it was not asked."


def _bytes(outs: Mapping[str, int | None]) -> str:
    known = sum(size for size in outs.values() if size is not None)
    unknown = [path for path, size in outs.items() if size is None]
    text = f"{known / 1e6:.1f} MB at most"
    return f"{text}, and of unknown size {', '.join(unknown)}" if unknown else text
