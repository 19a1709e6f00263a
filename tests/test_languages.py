"""Other languages: English stays as it is, each language keeps to the rules, articles agree."""

import dataclasses
import json
import random
import re

import pytest

from supertiny.calls import call_from_json
from supertiny.errors import UserError
from supertiny.params import core
from supertiny.params.prepare import Prepare
from supertiny.prepare import draw_splits, leakage, sources
from supertiny.task import load_task
from tasks.home import gold, languages, noise, rules
from tasks.home.languages.agreement import Noun
from tasks.home.names import FOLDER, MEDIA_LISTS, ForeignNames, NameLists

TASK = load_task("home")
FOREIGN = [code for code in languages.CODES if code != "en"]
SMALL = dataclasses.replace(
    core.load(Prepare), train_rows=1600, dev_rows=80, test_rows=400, languages=languages.CODES
)


@pytest.fixture(scope="module")
def splits():
    return draw_splits(sources(TASK, SMALL), TASK, SMALL)[0]


def of(splits, code, names=("train", "dev", "test")):
    return [row for name in names for row in splits[name] if row["language"] == code]


@pytest.mark.parametrize(
    ("asked", "found"),
    [(("en", "it"), r"\['en', 'it'\]"), ((), r"\[\]"), (("de", "de"), r"\['de', 'de'\]")],
)
def test_a_language_that_the_task_does_not_offer_is_named(asked, found):
    params = dataclasses.replace(SMALL, languages=asked)
    message = rf"prepare.languages: found {found}; expected some of \['en', 'de', 'fr', 'es'\]"
    with pytest.raises(UserError, match=message):
        sources(TASK, params)


def test_a_task_without_other_languages_refuses_them():
    params = dataclasses.replace(SMALL, languages=("de",))
    with pytest.raises(UserError, match=r"expected some of \['en'\].*tasks/feedback/task.yaml"):
        sources(load_task("feedback"), params)


def test_english_alone_carries_no_language():
    params = dataclasses.replace(SMALL, languages=("en",), train_rows=50, dev_rows=10, test_rows=20)
    alone = draw_splits(sources(TASK, params), TASK, params)[0]
    assert alone == draw_splits(gold.load(params), TASK, params)[0]
    assert not any("language" in row for rows in alone.values() for row in rows)


def test_each_language_has_its_part_of_every_split(splits):
    for name, rows in splits.items():
        for code in languages.CODES:
            mine = of(splits, code, (name,))
            assert len(mine) == len(rows) // 4
            assert all(f"language_{code}" in row["slices"] for row in mine)


@pytest.mark.parametrize("code", ["en", "fr"])
def test_a_language_has_the_same_test_rows_alone(splits, code):
    part = {f"{name}_rows": len(of(splits, code, (name,))) for name in ("dev", "test")}
    params = dataclasses.replace(SMALL, languages=(code,), train_rows=1, **part)
    alone = draw_splits(sources(TASK, params), TASK, params)[0]["test"]
    beside = {row["id"] for row in of(splits, code, ("test",))}
    assert len({row["id"] for row in alone} & beside) > 0.95 * len(beside)


def test_nothing_of_test_is_in_train(splits):
    report = leakage(splits, SMALL.max_similarity)
    assert not any(value for key, value in report.items() if key.startswith("leak"))


@pytest.mark.parametrize("code", FOREIGN)
def test_every_call_is_legal_and_every_tool_is_offered(splits, code):
    for row in of(splits, code):
        call = call_from_json(row["call"])
        TASK.validate(call)
        assert TASK.equivalent(TASK.parse_call(TASK.render_call(call), row["query"]), call)
    source = gold.load(dataclasses.replace(SMALL, languages=(code,)))
    assert {template.tool for template in source._templates} == set(TASK.tools)
    assert len(source.refused) < 10, source.refused


@pytest.mark.parametrize("code", FOREIGN)
def test_free_values_can_be_copied_from_what_the_student_reads(splits, code):
    copied = 0
    for row in of(splits, code, ("dev", "test")):
        for value in row["call"]["arguments"].values():
            if value in row["names"]:
                assert value in TASK.normalise(row["query"]), row
                copied += 1
    assert copied > 50


@pytest.mark.parametrize("code", FOREIGN)
def test_numbers_are_digits_and_words_of_the_language(code):
    language = languages.load(code)
    assert language.digits(19.5) == "19,5"
    one = {"de": "eine", "fr": "une", "es": "una"}
    assert language.words(1, "timer_hours") == one[code]
    many = {"de": "einundzwanzig", "fr": "vingt-et-une", "es": "veintiún"}
    assert language.words(21, "timer_minutes") == many[code]


def test_german_nouns_are_written_with_capitals_and_called_without(splits):
    places = {name.lower(): name for name in ForeignNames(1, 0.2, languages.load("de")).all("area")}
    clean = [row for row in of(splits, "de") if "clean" in row["slices"]]
    rows = [row for row in clean if row["call"]["arguments"].get("area") in places]
    assert len(rows) > 30
    assert all(places[row["call"]["arguments"]["area"]] in row["query"] for row in rows)


def said(code, text, **values):
    """The sentence put right; ``text`` has the values' names in braces."""
    parts = re.split(r"\{(\w+)\}", text)
    pieces = [
        noise.Piece(values[part].text, value=True, noun=values[part])
        if index % 2
        else noise.Piece(part)
        for index, part in enumerate(parts)
    ]
    for seed in range(30):  # names are said without their article now and then
        found = languages.load(code).agree(pieces, random.Random(seed))
        if found is None:
            return None
        yield noise.join(found)


KITCHEN = Noun("f", "Küche", place=True)
BALCONY = Noun("m", "Balkon", at="auf", place=True)
LAMP, FAN, BLINDS = Noun("f", "Stehlampe"), Noun("m", "Lüfter"), Noun("p", "Rollos")
ROOM, ENTRY = Noun("m", "salon", place=True), Noun("f", "entrée", place=True)
FLOOR = Noun("m", "premier étage", at="à", place=True)
TELE, SPOTS = Noun("f", "télé"), Noun("p", "spots")
COCINA, SUELO = Noun("f", "cocina", place=True), Noun("m", "patio", place=True)
LUZ, FOCOS = Noun("f", "lámpara"), Noun("p", "focos")


@pytest.mark.parametrize(
    ("code", "text", "values", "expected"),
    [
        ("de", "mach das Licht in {x} an", {"x": KITCHEN}, "mach das Licht in der Küche an"),
        ("de", "mach das Licht in {x} an", {"x": BALCONY}, "mach das Licht auf dem Balkon an"),
        ("de", "schalte der {x} ein", {"x": FAN}, "schalte den Lüfter ein"),
        ("de", "ist der {x} an", {"x": LAMP}, "ist die Stehlampe an"),
        ("de", "sind der {x} an", {"x": LAMP}, "ist die Stehlampe an"),
        ("de", "ist der {x} offen", {"x": BLINDS}, "sind die Rollos offen"),
        ("de", "Lautstärke von {x}", {"x": FAN}, "Lautstärke vom Lüfter"),
        ("de", "wie viele Lampe sind an", {}, "wie viele Lampen sind an"),
        ("de", "Timer um {n} Stunden", {"n": Noun("#", "eine")}, "Timer um eine Stunde"),
        ("fr", "allume la lumière dans {x}", {"x": ROOM}, "allume la lumière dans le salon"),
        ("fr", "allume la lumière dans le {x}", {"x": ENTRY}, "allume la lumière dans l'entrée"),
        ("fr", "allume la lumière dans {x}", {"x": FLOOR}, "allume la lumière au premier étage"),
        ("fr", "le son de le {x}", {"x": TELE}, "le son de la télé"),
        ("fr", "le son de le {x}", {"x": Noun("m", "téléviseur")}, "le son du téléviseur"),
        ("fr", "le son de le {x}", {"x": Noun("m", "ampli")}, "le son de l'ampli"),
        ("fr", "le {x} est allumé", {"x": SPOTS}, "les spots sont allumés"),
        ("fr", "tous les lumière sont éteint", {}, "toutes les lumières sont éteintes"),
        ("fr", "quels volet sont ouvert", {}, "quels volets sont ouverts"),
        ("es", "apaga la luz en el {x}", {"x": COCINA}, "apaga la luz en la cocina"),
        ("es", "la luz de {x}", {"x": SUELO}, "la luz del patio"),
        ("es", "está el {x} encendido", {"x": LUZ}, "está la lámpara encendida"),
        ("es", "está el {x} encendido", {"x": FOCOS}, "están los focos encendidos"),
        ("es", "cuántos luz están apagado", {}, "cuántas luces están apagadas"),
    ],
)
def test_words_agree_with_their_noun(code, text, values, expected):
    assert expected in set(said(code, text, **values))


def test_a_plural_name_that_would_need_an_ending_is_refused():
    pieces = [noise.Piece("Licht von "), noise.Piece("", value=True, noun=Noun("p", "Regale"))]
    assert languages.load("de").agree(pieces, random.Random(1)) is None


@pytest.mark.parametrize("code", FOREIGN)
def test_nobody_says_two_articles_in_a_row(splits, code):
    twice = {
        "de": r"\b(der|die|das|den|dem|im) (der|die|das|den|dem|im)\b",
        "fr": r"\b(le|la|les|du|au|aux) (le|la|les|du|au|aux)\b",
        "es": r"\b(el|la|los|las|del|al) (el|los|las|del|al)\b",
    }
    for row in of(splits, code):
        if not row["call"]["arguments"].keys() & {"search_query", "message", "item"}:
            assert not re.search(twice[code], row["query"].lower()), row


@pytest.mark.parametrize("code", FOREIGN)
def test_name_lists_are_wide_and_cover_what_english_has(code):
    lists = ForeignNames(1, 0.2, languages.load(code))
    assert set(lists.list_names()) == set(NameLists(1, 0.2).list_names())
    for name in ("light", "switch", "fan", "media_player", "climate", "cover", "lock", "area"):
        assert len(lists.all(name)) >= 100, name
    for list_name, usual in languages.load(code).everyday().items():
        assert {*usual} <= {*lists.all(list_name)}, list_name


@pytest.mark.parametrize("code", FOREIGN)
def test_a_name_of_two_languages_is_in_one_split(code):
    mine, english = ForeignNames(1, 0.2, languages.load(code)), NameLists(1, 0.2)
    shared = 0
    for split in ("train", "dev", "test"):
        here = {name.lower() for list_ in mine.list_names() for name in mine.of(list_, split)}
        for other in {"train", "dev", "test"} - {split}:
            there = {name for list_ in english.list_names() for name in english.of(list_, other)}
            assert not here & there
        shared += len(here & {n for li in english.list_names() for n in english.of(li, split)})
    assert shared > 500  # the media lists


def test_media_lists_of_english_are_in_every_language():
    albums = (FOLDER / "media_album.txt").read_text(encoding="utf-8").splitlines()
    lists = ForeignNames(1, 0.2, languages.load("de"))
    assert len({*albums} & {*lists.all("media_album")}) > 300
    assert all(len(lists.all(name)) > 100 for name in MEDIA_LISTS)


@pytest.mark.parametrize(
    ("code", "query", "name", "arguments"),
    [
        ("de", "schalte die Stehlampe ein", "HassTurnOn", {"name": "Stehlampe"}),
        ("fr", "allume la télé", "HassTurnOn", {"name": "télé"}),
        ("es", "enciende la cafetera", "HassTurnOn", {"name": "cafetera"}),
    ],
)
def test_the_rules_listen_for_the_rows_language(code, query, name, arguments):
    baseline = rules.load(TASK.folder, FOLDER)
    assert baseline.answer(query, code).to_json() == {"name": name, "arguments": arguments}
    assert baseline.answer(query).name != name  # English hears nothing of it


def test_the_same_params_give_the_same_rows(splits):
    assert json.dumps(draw_splits(sources(TASK, SMALL), TASK, SMALL)[0]) == json.dumps(splits)
