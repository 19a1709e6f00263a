"""Write data/texts.jsonl.gz: rated sentences out of the source distribution of `vaderSentiment`.

The sentences are in the sdist alone, not in the wheel, so they are taken out once and kept here. pip
asks a source distribution for its metadata, which runs its setup.py; nothing is installed.

    python -m tasks.feedback.make_texts
"""

from __future__ import annotations

import gzip
import html
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supertiny.io import sha256_file

PACKAGE = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
FOLDER = Path(__file__).parent / "data"
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
# Source to the start of its files' names, and whether an id names the document it is from.
SOURCES = {
    "tweets": ("tweets", False),
    "products": ("amazonReviewSnippets", True),
    "films": ("movieReviewSnippets", False),
    "news": ("nytEditorialSnippets", True),
}


def rows(sdist: Path) -> Iterator[dict[str, Any]]:
    """``{source, document, text, ratings}``: nine counts of raters who said -4, -3 ... 4.

    The document is empty where the ids do not tell. Means are not taken over: those beside the
    texts and those beside the ratings differ in some rows, and the ratings are what was measured.
    """
    with tarfile.open(sdist) as outer:
        packed = outer.extractfile(_INNER)
        assert packed is not None
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as inner:
            for source, (stem, has_document) in SOURCES.items():
                texts = _table(inner, f"{stem}_GroundTruth.txt")
                ratings = _table(inner, f"{stem}_anonDataRatings.txt")
                for key, (_, text) in texts.items():
                    document = f"{source}/{key.split('_')[0]}" if has_document else ""
                    yield {
                        "source": source,
                        "document": document,
                        "text": " ".join(html.unescape(text).split()),
                        "ratings": _counts(json.loads(ratings[key][2])),
                    }


def _table(archive: tarfile.TarFile, name: str) -> dict[str, list[str]]:
    member = archive.extractfile(f"hutto_ICWSM_2014/{name}")
    assert member is not None
    lines = member.read().decode("utf-8-sig").splitlines()
    cells = [line.split("\t") for line in lines if line.strip()]
    return {key: rest for key, *rest in cells}


def _counts(ratings: list[int]) -> list[int]:
    return [ratings.count(value) for value in range(-4, 5)]


def _download(folder: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder]
    subprocess.run([*command, "--no-binary", ":all:", PACKAGE], check=True)
    sdist = next(Path(folder).glob("*.tar.gz"))
    if sha256_file(sdist) != SHA256:
        raise SystemExit(f"{sdist.name}: found sha256 {sha256_file(sdist)}, expected {SHA256}")
    return sdist


def main() -> None:
    """Download, read, write; no time goes into the file, so that it is the same each time."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(_download(folder))]
    data = gzip.compress("".join(lines).encode("utf-8"), compresslevel=9, mtime=0)
    (FOLDER / "texts.jsonl.gz").write_bytes(data)


if __name__ == "__main__":
    main()
