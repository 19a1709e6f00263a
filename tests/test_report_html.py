"""The HTML report: safe with hostile text, the same bytes every time, and at work in a real browser."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from stages.report import SECTIONS
from supertiny import svg
from supertiny.curate import FUNNEL, GROUP_COLUMNS
from supertiny.errors import UserError
from supertiny.io import write_json, write_jsonl, write_tsv
from supertiny.metrics import TOOL_COLUMNS, per_tool, score
from supertiny.params.report import Report
from supertiny.report import Sources, Variant, headline
from supertiny.report_html import (
    KINDS,
    Lineage,
    Part,
    call_parts,
    cards,
    error_rows,
    pinned,
    prepare_funnels,
    render,
    slices_by_id,
)
from supertiny.report_teacher import read_quality

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> & '"
ON = {"name": "LightOn", "arguments": {}}
HALL = {"name": "Dim", "arguments": {"area": "hall", "brightness": 30}}
NONE = {"name": "no_call", "arguments": {}}
WRONG = [  # query, gold, answer, kind of error
    (HOSTILE, ON, " dim\n brightness 5", "wrong tool"),
    ("dim the hall to thirty", HALL, " dim\n area hall\n brightness 3", "wrong argument"),
    ("who won the game", NONE, " light on", "missed no_call"),
    ("lamp on", ON, " no_call", "needless no_call"),
    ("on and on", ON, "?|<b>bold</b>", "unparsable"),
]
MANY = 60  # further wrong answers, so that the list has pages
BENCH = {
    "size_mb": 120.0, "latency_p50_ms": 30.0, "latency_p95_ms": 45.0, "threads": 2,
    "usd_per_million_requests": 0.8,
}  # fmt: skip
SLOW = BENCH | {
    "size_mb": 480.0, "latency_p50_ms": 90.0, "usd_per_million_requests": 3.2
}  # fmt: skip
PARAMS = Report(examples=5, bootstrap_rounds=200, seed=1)


def made_rows(wrong=MANY):
    """Test rows and the last variant's answers: `WRONG`, many wrong numbers, some right answers."""
    rows, answers = [], []

    def add(query, call, answer, slices):
        rows.append({"id": f"q{len(rows):04}", "query": query, "call": call, "slices": slices})
        rows[-1] |= {"source": "template" if len(rows) % 3 else "natural", "template": ""}
        answers.append(answer)

    for query, call, answer, _ in WRONG:
        add(query, call, answer, ["rare"])
    for i in range(wrong):
        gold = {"name": "Dim", "arguments": {"brightness": i % 50}}
        add(f"dim it to {i % 50}", gold, " dim\n brightness 77", ["even" if i % 2 == 0 else "odd"])
    for _ in range(20):
        add("on", ON, " light on", ["odd"])
    return rows, answers


def variant(lamps, name, rows, answers, bench=None):
    metrics, predictions = score(lamps, rows, answers)
    tools = [dict(zip(TOOL_COLUMNS, map(str, line), strict=True)) for line in per_tool(predictions)]
    return Variant(name, metrics, predictions, tools, bench)


def variants(lamps, wrong=MANY):
    rows, answers = made_rows(wrong)
    return [
        variant(lamps, "rules", rows, [" no_call"] * len(rows)),
        variant(lamps, "fp32", rows, ["?", *answers[1:-1], "?"], SLOW),
        variant(lamps, "int8", rows, answers, BENCH),
    ]


def sources(folder, wrong=MANY):
    for split in ("train", "dev", "test"):
        write_jsonl(folder / f"queries/{split}.jsonl", made_rows(wrong)[0])
    refused = {"refused_train_duplicate": 7, "refused_train_near_duplicate": 3, "train_rows": 85}
    write_json(folder / "prepare.json", refused)
    write_json(folder / "origin.json", {"package": "some==1", "sha256": "ab" * 32})
    curve = [[step, 4 / step, 5 / step] for step in range(1, 40)]
    write_tsv(folder / "loss.tsv", ["step", "loss", "unseen_loss"], curve)
    (folder / "constraints.txt").write_text("# pins\nsome-package==1.2.3\n")
    return Sources(
        evaluations=folder, benchmarks=folder, queries=folder / "queries",
        prepare=folder / "prepare.json", origin=folder / "origin.json", loss=folder / "loss.tsv",
        tables={"Leakage": folder / "prepare.json"},
    )  # fmt: skip


def curated(folder, asked=40):
    """What the stage `curate` leaves: every second rewrite accepted, one text of it hostile."""
    traces = [
        {"style": ("polite", "typo")[n % 2], "command": f"dim the lamp to {n}", "id": f"{n}",
         "call": {"name": "Dim", "arguments": {"brightness": n}}}
        for n in range(asked)
    ]  # fmt: skip
    accepted = [{**t, "query": f"please <b>dim</b> it to {t['id']}"} for t in traces[::2]]
    rejected = [
        {**t, "text": "on", "gold": t["call"], "reason": "missing_number: 7"} for t in traces[1::2]
    ]
    write_jsonl(folder / "train.jsonl", made_rows()[0])
    write_jsonl(folder / "test.rewrites.jsonl", [])
    write_jsonl(folder / "train.rewrites.jsonl", accepted)
    write_jsonl(folder / "train.rejected.jsonl", rejected)
    funnel = dict(zip(FUNNEL, (asked, 30, 25, 20) if asked else [0] * 4, strict=True))
    counts = {f"train_funnel_{name}": count for name, count in funnel.items()}
    counts |= {f"dev_funnel_{name}": 0 for name in FUNNEL} | {"test_accepted": 12}
    counts |= {"train_vouched_by_student": 25, "read": 11, "read_right": 8}
    counts |= {"read_student": 9, "read_student_right": 7, "read_call": 6, "read_call_right": 5}
    counts |= {"train_decided": 1400, "train_decided_right": 1013}
    write_json(folder / "curate.json", counts)
    write_tsv(
        folder / "curate.tsv",
        ["split", *GROUP_COLUMNS],
        [["train", "style", "polite", 20, 20, 0, 0, "1.0000"]],
    )
    return folder, folder


def page(lamps, folder, wrong=MANY):
    found = replace(sources(folder, wrong), curated=curated(folder / "curated"))
    write_json(folder / "bundle/lineage.json", {"inputs": {"train_queries": "ef" * 32}})
    (folder / "bundle/SHA256SUMS").write_text(f"{'cd' * 32}  model.onnx\n")
    lineage = Lineage(
        ["dvc repro"], {"sft": {"learning_rate": 0.0005}}, folder / "constraints.txt", [found.loss],
        folder / "bundle",
    )  # fmt: skip
    return render(lamps, variants(lamps, wrong), found, lineage, PARAMS)


def test_rewrites_are_counted_at_every_step_and_shown_with_their_reasons(html):
    text = Tree(html).text
    assert "Rewrites of test commands were read one by one and 12 kept" in text
    steps = [("asked for", 40, "100.0"), ("fits the function and the rules", 30, "75.0")]
    for name, rows, share in steps:
        line = html.split(f'<th scope="row">{name}</th>')[1].split("</tr>")[0]
        assert f'<td class="number">{rows}</td>' in line and f"<span>{share}%</span>" in line
    assert "Of 11 rewrites of train drawn at random and read, 8 are right." in text
    assert "counts for 1,400 rewrites, 1,013 of them right" in text
    row = '<tr><th scope="row">{}</th>' + '<td class="number">{}</td>' * 3
    assert row.format("student", 25, 9, 7) in html
    assert row.format("call", "-", 6, 5) in html  # has no say
    assert len(re.findall(r"please <b>dim</b> it to \d+", text)) == 20  # escaped, so still text
    assert text.count("missing_number: 7") == 20 and "Dim(brightness=1)" in text


def test_of_many_rewrites_some_are_drawn_the_same_each_time(tmp_path):
    found = [read_quality(*curated(tmp_path, 200), seed=seed) for seed in (1, 1, 2)]
    assert len(found[0].accepted) == len(found[0].rejected) == 30
    assert found[0] == found[1] != found[2]
    assert found[0].lengths == [("polite", 100, 5, 5)]


def test_a_task_without_rewrites_has_no_such_section(lamps, tmp_path):
    found = replace(sources(tmp_path), curated=curated(tmp_path / "curated", 0))
    lineage = Lineage([], {}, tmp_path / "constraints.txt", [])
    assert 'id="teacher"' not in render(lamps, variants(lamps), found, lineage, PARAMS)
    assert 'id="teacher"' not in render(lamps, variants(lamps), sources(tmp_path), lineage, PARAMS)


@pytest.fixture(scope="module")
def html(lamps, tmp_path_factory):
    return page(lamps, tmp_path_factory.mktemp("inputs"))


class Tree(HTMLParser):
    """Every start tag with its attributes, and the text outside script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._raw = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._raw = self._raw and tag not in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self._raw else data

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]


@pytest.fixture(scope="module")
def tree(html):
    return Tree(html)


def test_landmarks_and_headings_are_in_order(tree):
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(tree.all(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _ in tree.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_tables_have_captions_and_every_header_a_scope(tree):
    assert len(tree.all("caption")) == len(tree.all("table")) >= 8
    assert {attrs.get("scope") for attrs in tree.all("th")} == {"row", "col"}
    assert {attrs["aria-sort"] for attrs in tree.all("th") if "aria-sort" in attrs} >= {"ascending"}


def test_ids_are_unique_and_every_reference_leads_somewhere(tree):
    ids = Counter(attrs["id"] for _, attrs in tree.tags if "id" in attrs)
    assert max(ids.values()) == 1
    for _, attrs in tree.tags:
        for key in ("for", "aria-labelledby"):
            assert set(attrs.get(key, "").split()) <= set(ids), attrs
        assert attrs.get("href", "#")[1:] in {*ids, ""}
    fields = {attrs["id"] for attrs in tree.all("select", "input")}
    assert fields == {attrs["for"] for attrs in tree.all("label")}


def test_every_plot_has_a_text_alternative(tree, html):
    plots = [attrs for attrs in tree.all("svg") if "aria-hidden" not in attrs]
    assert {attrs["id"] for attrs in plots} == {
        "pareto", "contributions", "confusion", "loss", "funnel-train", "funnel-dev", "funnel-test"
    }  # fmt: skip
    assert all(attrs["role"] == "img" for attrs in plots)
    for key in (attrs["id"] for attrs in plots):
        for part in ("title", "desc"):
            assert re.search(rf'<{part} id="{key}-{part}">[^<]{{5,}}</{part}>', html), (key, part)


def test_hostile_text_is_text(tree):
    assert HOSTILE in tree.text
    assert "?|<b>bold</b>" in tree.text
    assert len(tree.all("script")) == 1
    assert not tree.all("img", "b", "iframe", "link", "object")
    assert not [attrs for _, attrs in tree.tags if any(key.startswith("on") for key in attrs)]


def test_what_ships_is_named_with_its_hashes_and_origin(tree):
    for expected in ("model.onnx", "cd" * 32, "inputs.train_queries", "ef" * 32):
        assert expected in tree.text


def test_nothing_is_asked_of_a_network(tree, html):
    assert not [attrs for _, attrs in tree.tags if "src" in attrs]
    assert not re.search(r"https?://|@import|url\(", html)
    policy = next(a["content"] for a in tree.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_same_inputs_give_the_same_bytes(html, lamps, tmp_path, monkeypatch):
    again = page(lamps, tmp_path)
    assert str(tmp_path) in again  # only the inputs' own paths differ here
    there = re.search(r'scope="row">(\S+)/loss.tsv', html)[1]
    assert again == html.replace(there, str(tmp_path))


def test_a_page_of_1500_wrong_answers_is_small_enough(lamps, tmp_path):
    text = page(lamps, tmp_path, wrong=1475)
    assert text.count('<p class="query">') == 1480
    assert len(text.encode()) < 3_000_000


def test_errors_are_sorted_into_kinds_with_their_slices(lamps):
    last = variants(lamps)[-1]
    slices = {row["id"]: row["slices"] for row in made_rows()[0]}
    errors = {error.query: error for error in error_rows(lamps, last, slices)}
    assert {query: errors[query].kind for query, *_ in WRONG} == {w[0]: w[3] for w in WRONG}
    assert set(KINDS) == {kind for *_, kind in WRONG}
    assert errors[HOSTILE].slices == ["rare"]
    assert (errors[HOSTILE].gold_tool, errors[HOSTILE].got_tool) == ("LightOn", "Dim")
    assert "on" not in errors  # answered right


def test_an_answer_to_no_row_of_the_test_set_is_a_user_error(lamps):
    with pytest.raises(UserError, match="'q0001', which is not in the test set"):
        error_rows(lamps, variants(lamps)[-1], {"other": []})


def marked(parts):
    return [part.text for part in parts if part.off]


def test_only_what_differs_is_marked(lamps):
    rows = {row["query"]: row for row in variants(lamps)[-1].predictions}
    gold, got = call_parts(lamps, rows["dim the hall to thirty"])
    assert (marked(gold), marked(got)) == (["brightness=30"], ["brightness=3"])
    assert "".join(part.text for part in gold) == "Dim(area='hall', brightness=30)"
    gold, got = call_parts(lamps, rows[HOSTILE])
    assert (marked(gold), marked(got)) == (["LightOn"], ["Dim"])
    gold, got = call_parts(lamps, rows["on and on"])
    assert (marked(gold), got) == ([], [Part("?|<b>bold</b>", True)])
    same = {"gold": HALL, "predicted": {"name": "Dim", "arguments": {"brightness": 30.0}}}
    assert [marked(parts) for parts in call_parts(lamps, same)] == [["area='hall'"], []]


def test_cards_hold_the_last_variant_against_the_first_that_was_measured(lamps):
    made = {card.title: card for card in cards(variants(lamps))}
    assert made["Size"].value == "120"
    assert made["Size"].notes == ["4.0 times smaller than fp32 (480\N{NO-BREAK SPACE}MB)"]
    assert made["Latency, p50"].notes[0].startswith("3.0 times faster than fp32")
    assert made["Exact match"].notes[1].startswith("rules: ")
    first, _, last = variants(lamps)
    assert [card.title for card in cards([first])] == ["Exact match"]
    assert cards([first, last])[1].notes == []  # nothing else was measured


def test_cards_hold_the_last_variant_against_the_teacher_where_there_is_one(lamps):
    first, _, last = variants(lamps)
    rows, answers = made_rows()
    huge = SLOW | {"size_mb": 1200.0, "latency_p50_ms": 6000.0, "usd_per_million_requests": 160.0}
    teacher = variant(lamps, "teacher", rows, answers[:40] + ["?"] * (len(rows) - 40), huge)
    made = cards([first, teacher, last])
    assert made[0].notes[1].startswith("teacher: ")
    assert [card.notes[0].split(" (")[0] for card in made[1:]] == [
        "10.0 times smaller than teacher", "200.0 times faster than teacher",
        "200.0 times cheaper than teacher",
    ]  # fmt: skip
    assert "teacher does for" in headline([first, teacher, last])


def test_rows_of_every_file_of_the_test_set_have_their_slices(tmp_path):
    rows = made_rows()[0]
    write_jsonl(tmp_path / "a.jsonl", rows[:3])
    write_jsonl(tmp_path / "b.jsonl", rows[3:5])
    found = slices_by_id([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert found == {row["id"]: row["slices"] for row in rows[:5]}


def test_a_funnel_counts_what_was_refused_for_which_reason():
    kept = {split: Counter(template=4, natural=2) for split in ("train", "dev", "test")}
    metrics = {"refused_test_duplicate": 5, "refused_train_other": 1, "test_rows": 6}
    train, dev, test = prepare_funnels(metrics, kept)
    assert (test.name, test.refused, test.kept_total, test.drawn) == (
        "test",
        {"duplicate": 5},
        6,
        11,
    )
    assert (train.refused, dev.refused) == ({"other": 1}, {})
    assert list(test.kept) == ["natural", "template"]


def test_pins_are_read_without_comments(tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text("# a==1\nb==2\nc==3.post1\n")
    assert pinned(path) == [("b", "2"), ("c", "3.post1")]
    with pytest.raises(UserError, match="not found"):
        pinned(tmp_path / "missing.txt")


def test_only_unbeaten_variants_are_on_the_frontier():
    names = [("slow", 0.9, 50), ("beaten", 0.7, 40), ("fast", 0.8, 20), ("even", 0.8, 30)]
    points = [svg.Point(name, share, 0, 1, ms, None) for name, share, ms in names]
    assert [point.name for point in svg.frontier(points)] == ["fast", "slow"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (-70, 82, [-50, 0, 50]), (3, 9, [4, 6, 8])],
)  # fmt: skip
def test_ticks_are_round_and_inside(low, high, expected):
    assert svg.ticks(low, high) == expected


def test_ticks_of_a_log_axis():
    assert svg.log_ticks(0.04, 1.1) == [0.05, 0.1, 0.2, 0.5, 1]
    assert svg.log_ticks(0.0005, 20) == [0.001, 0.01, 0.1, 1, 10]


def test_the_level_line_is_named_where_no_point_is():
    points = [svg.Point("a", 0.9, 0.88, 0.92, 40, 50), svg.Point("b", 0.5, 0.4, 0.6, 6000, 1100)]
    assert svg.pareto(points, ("rules", 0.7)).count(">rules 70.0%<") == 1
    assert ">b 50.0%<" not in svg.pareto(points, ("b", 0.5))


def test_latencies_that_lie_far_apart_are_drawn_apart():
    """On a linear axis two of 40 and 80 ms would be one beside one of 6 s."""
    made = [svg.Point(str(ms), 0.9, 0.88, 0.92, ms, None) for ms in (40, 80, 6000)]
    drawn = re.findall(r'<circle class="dot" cx="([\d.]+)"', svg.pareto(made, ("old", 0.7)))
    places = sorted(float(x) for x in drawn)
    assert len(places) == 3 and places[1] - places[0] > 30


def test_labels_of_variants_at_one_place_do_not_meet():
    points = [svg.Point(f"variant{i}", 0.8, 0.78, 0.82, 30, 100) for i in range(4)]
    drawn = re.findall(r'x="([\d.]+)" y="([\d.]+)" class="name"', svg.pareto(points, ("old", 0.7)))
    heights = sorted(float(y) for _, y in drawn)
    assert len(heights) == 4
    assert all(b - a >= 15 for a, b in zip(heights, heights[1:], strict=False))


def test_a_perfect_single_variant_has_a_page(lamps, tmp_path):
    rows = made_rows()[0]
    gold = [lamps.render_call(call(row["call"])) for row in rows]
    only = variant(lamps, "int8", rows, gold)
    text = render(
        lamps, [only], sources(tmp_path), Lineage([], {}, tmp_path / "constraints.txt", []), PARAMS
    )
    for expected in ("No variant was benchmarked", "one variant only", "No tool was mixed up"):
        assert expected in text


def call(value):
    from supertiny.calls import call_from_json

    return call_from_json(value)


def test_every_param_on_the_page_is_a_param_of_the_stage():
    stage = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["report"]
    assert set(stage["params"]) == {"task", *SECTIONS}
    assert {"supertiny/templates", "constraints.txt"} <= set(stage["deps"])


@pytest.fixture(scope="module")
def file(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


SHOWN = "[...document.querySelectorAll('#error-list > li')].filter(e => e.checkVisibility())"


def choose(browser, **values):
    """Set fields of the filters as a person would and return what is listed and announced."""
    for name, value in values.items():
        browser.run(
            f"(() => {{ const f = document.forms.filters.elements[{name!r}]; f.value = {value!r};"
            "f.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
    listed = browser.run(f"{SHOWN}.map(e => e.querySelector('.query').textContent)")
    return listed, browser.run("document.getElementById('shown').textContent")


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_loads_without_a_complaint_and_asks_for_nothing(browser, file, dark):
    browser.open(file, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [file.as_uri()]
    assert (
        browser.run("document.title") == "lamps: from rules to int8"
    )  # the hostile query set none


def test_the_policy_stops_what_is_put_in(browser, html, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(html.replace("</body>", "<img src=x onerror='document.title=1'></body>"))
    browser.open(bad)
    assert browser.run("document.title") == "lamps: from rules to int8"
    assert any("Content Security Policy" in text for text in browser.complaints())


def test_every_plot_and_its_marks_are_drawn(browser, file):
    browser.open(file)
    boxes = browser.run(
        "[...document.querySelectorAll('svg.plot')].map(s => { const b = s.getBoundingClientRect();"
        "const m = [...s.querySelectorAll('circle, rect, polyline, line')]"
        ".map(e => e.getBoundingClientRect());"
        "return [s.id, b.width, b.height, m.length,"
        " m.every(r => r.width + r.height > 0 && r.left >= b.left - 1 && r.right <= b.right + 1"
        " && r.top >= b.top - 1 && r.bottom <= b.bottom + 1)]; })"
    )
    assert len(boxes) == 7
    for name, width, height, marks, inside in boxes:
        assert width > 200 and height > 15 and marks > 0 and inside, name


def test_filters_show_what_was_asked_for(browser, file):
    browser.open(file)
    total = len(WRONG) + MANY
    listed, announced = choose(browser)
    assert (len(listed), announced) == (25, f"{total} of {total} wrong answers match, 25 shown")
    for query, _, _, kind in WRONG:
        assert choose(browser, kind=kind, slice="rare")[0] == [query]
    assert len(choose(browser, kind="", slice="rare")[0]) == len(WRONG)
    assert choose(browser, slice="", gold="LightOn", got="Dim")[0] == [HOSTILE]
    listed, announced = choose(browser, gold="", got="", text="</SCRIPT>")
    assert listed == [HOSTILE]
    assert announced == f"1 of {total} wrong answers match, 1 shown"
    assert choose(browser, text="brightness=77", slice="odd")[1].startswith(f"{MANY // 2} of ")
    browser.run("document.querySelector('#filters [type=reset]').click()")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert choose(browser)[1].startswith(f"{total} of {total}")


def test_more_answers_are_shown_on_demand_and_focus_goes_on_there(browser, file):
    browser.open(file)
    browser.run("document.getElementById('more').click()")
    assert len(choose(browser)[0]) == 50
    assert browser.run(f"{SHOWN}.indexOf(document.activeElement)") == 25
    browser.run("document.getElementById('more').click()")
    assert len(choose(browser)[0]) == len(WRONG) + MANY
    assert browser.run("document.getElementById('more').hidden")


def test_a_mix_up_leads_to_its_errors(browser, file):
    browser.open(file)
    browser.run("document.querySelector('button.show[data-gold=LightOn][data-got=Dim]').click()")
    assert choose(browser)[0] == [HOSTILE]
    assert browser.run("document.activeElement.id") == "errors"


def test_a_column_sorts_both_ways_and_says_so(browser, file):
    browser.open(file)
    column = "[...document.querySelectorAll('section[aria-labelledby=tools] tbody tr')]"
    values = f"{column}.map(r => Number(r.cells[1].dataset.value))"
    header = "document.querySelectorAll('section[aria-labelledby=tools] th[aria-sort]')[1]"
    expected = sorted(browser.run(values))
    for direction, wanted in (("ascending", expected), ("descending", expected[::-1])):
        browser.run(f"{header}.querySelector('button').click()")
        assert browser.run(values) == wanted
        assert browser.run(f"{header}.ariaSort") == direction
    sorted_by = "document.querySelectorAll('section[aria-labelledby=tools] [aria-sort$=ending]')"
    assert browser.run(f"{sorted_by}.length") == 1


@pytest.mark.parametrize("dark", [False, True])
def test_the_theme_follows_the_system_until_it_is_switched(browser, file, dark):
    browser.open(file, dark=dark)
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(v => v > 200)"
    pressed = "document.getElementById('theme').ariaPressed"
    assert (browser.run(light), browser.run(pressed)) == (not dark, str(dark).lower())
    browser.run("document.getElementById('theme').click()")
    assert (browser.run(light), browser.run(pressed)) == (dark, str(not dark).lower())


@pytest.mark.parametrize("width", [320, 375, 1200])
def test_the_page_never_scrolls_sideways(browser, file, width):
    browser.open(file, width=width)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_and_works_the_controls(browser, file):
    browser.open(file)
    seen = []
    for _ in range(80):
        browser.key("Tab", 9)
        seen.append(
            browser.run(
                "(() => { const e = document.activeElement;"
                "return e.id || e.className || e.getAttribute('href') || e.textContent; })()"
            )
        )
        if seen[-1] == "more":
            break
        if seen[-1] == "theme":
            browser.key("Enter", 13, "\r")
            assert browser.run("document.documentElement.dataset.theme") == "dark"
    wanted = ["skip", "#results", "theme", "n", "show", "filter-gold", "filter-text", "more"]
    assert [name for name in wanted if name in seen] == wanted
    assert seen.index("theme") < seen.index("filter-gold") < seen.index("more")


def test_print_leaves_out_the_controls(browser, file):
    browser.open(file)
    browser.command("Emulation.setEmulatedMedia", media="print")
    for control in (".top", "#filters", "#more", "button.show"):
        assert not browser.run(f"document.querySelector('{control}').checkVisibility()"), control
    assert browser.run("document.querySelector('#pareto').checkVisibility()")
