"""Write the lists of the languages besides English that come from packages, into languages/<code>.

First names, cities and food from the wheel `mimesis`, conversation that asks a home for nothing from
`chatterbot-corpus`. Both are downloaded and read as data, never imported.

    python -m tasks.home.make_language_data
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

from supertiny.io import sha256_file, write_text
from tasks.home.languages import FOLDER

WHEELS = {
    "mimesis==22.2.0": "037011eb3d5edf0b0b5d9eafd74d9881f6dce25b4f01032da0e13fb2a56f37e9",
    "chatterbot-corpus==1.3.3": "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
}
CORPUS = {"de": "german", "fr": "french", "es": "spanish"}
ENTRIES = 400  # of a list at most, chosen by hash
MAX_CHARACTERS = 90

# Spanish food of the package is partly English, so our own list stands alone there.
FOOD = {
    "de": ("vegetables", "fruits", "spices"),
    "fr": ("vegetables", "fruits", "drinks"),
    "es": (),
}

# Whatever a tool could be asked for, a greeting and who somebody is among it.
_SERVABLE = {
    "de": r"licht|lampe|wetter|uhr|datum|musik|lied|film|zimmer|haus|heiz|hallo|^hi\b|guten|wer bist|name"
    r"|mach|kalt|warm|hör|spiel|nichts|stop|egal|danke",
    "fr": r"lumière|lampe|météo|heure|date|musique|chanson|film|pièce|maison|chauff|salut|bonjour|qui es"
    r"|nom|hey|fait|froid|chaud|écoute|joue|rien|stop|merci|cr[eé]é",
    "es": r"\bluz|lámpara|tiempo|hora|fecha|música|canción|películ|habitación|casa|calef|hola|buen"
    r"|qui[eé]n eres|nombre|haz|frío|calor|escuch|juega|nada|para\b|gracias|cre[oó]|olvid",
}


def first_names(data: dict[str, Any]) -> list[str]:
    """All first names of a locale."""
    return [name for names in data["names"].values() for name in names]


def conversation(archive: zipfile.ZipFile, code: str) -> list[str]:
    """Openings of the corpus's conversations, one line each, that a home could not serve."""
    servable = re.compile(_SERVABLE[code], re.I)
    found = set()
    for member in archive.namelist():
        if f"/data/{CORPUS[code]}/" in member and member.endswith(".yml"):
            for turns in yaml.safe_load(archive.read(member).decode("utf-8"))["conversations"]:
                found.add(" ".join(str(turns[0]).split()))
    return [
        text
        for text in found
        if 8 <= len(text) <= MAX_CHARACTERS
        and not servable.search(text)
        and not re.search(r"[<>{}]", text)
    ]


def some(texts: list[str]) -> str:
    """At most `ENTRIES` of the texts, chosen by hash, sorted, one a line."""
    kept = {text for text in texts if re.fullmatch(r"[\w'’ .?¿!¡,-]{2,}", text)}
    chosen = sorted(kept, key=lambda text: hashlib.sha256(text.encode()).digest())[:ENTRIES]
    return "".join(f"{text}\n" for text in sorted(chosen))


def download(folder: Path) -> list[Path]:
    """The wheels, checked, in the order of `WHEELS`."""
    paths = []
    for package, digest in WHEELS.items():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d"]
        subprocess.run([*command, str(folder), package], check=True)
        name = package.partition("==")[0].replace("-", "_")
        wheel = next(folder.glob(f"{name}-*.whl"))
        if sha256_file(wheel) != digest:
            raise SystemExit(f"{wheel.name}: found sha256 {sha256_file(wheel)}, expected {digest}")
        paths.append(wheel)
    return paths


def main() -> None:
    """Download, filter, write."""
    with tempfile.TemporaryDirectory() as folder:
        mimesis, corpus = map(zipfile.ZipFile, download(Path(folder)))
        for code in CORPUS:

            def data(name: str, code: str = code) -> dict[str, Any]:
                return json.loads(mimesis.read(f"mimesis/datasets/{code}/{name}.json"))

            out = FOLDER / code
            write_text(out / "person.txt", some(first_names(data("person"))))
            if code != "es":  # which has few cities, some of them in English
                cities = [city for city in data("address")["city"] if len(city) <= 25]
                write_text(out / "weather.txt", some(cities))
            food = data("food")
            if FOOD[code]:
                items = [item for kind in FOOD[code] for item in food[kind]]
                if code == "fr":  # where only names are written with a capital
                    items = [item.lower() for item in items]
                write_text(out / "shopping_item.txt", some(items))
            write_text(out / "out_of_scope.txt", some(conversation(corpus, code)))


if __name__ == "__main__":
    main()
