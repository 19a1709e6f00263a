"""`dvc plots` draws with no network, in a real Chromium, and works before the page is made."""

import pytest
from PIL import Image
from project import ROOT, run
from tinygraph import DVC, commit, make_repository

from supertiny.errors import UserError
from supertiny.plotspage import write_page

PLOTS = """\
plots:
  - metrics/loss.tsv:
      x: step
      y: loss
  - metrics/tools.csv:
      x: exact_match
      y: tool
      template: bar_horizontal
"""
DRAWN = "document.querySelectorAll('svg.marks').length"
COLOURS = [(0x94, 0x5D, 0xD6), (0x13, 0xAD, 0xC7)]  # of DVC's first two revisions


def write_plots(folder, scale):
    lines = [f"{step}\t{scale / step}" for step in range(1, 20)]
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics/loss.tsv").write_text("\n".join(["step\tloss", *lines]) + "\n")
    (folder / "metrics/tools.csv").write_text(f"tool,exact_match\nDim,{scale / 10}\nOn,0.5\n")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The tiny graph with two plots, and two commits in which they differ."""
    folder = make_repository(tmp_path_factory.mktemp("plots") / "repository")
    with (folder / "dvc.yaml").open("a") as file:
        file.write(PLOTS)
    for scale in (4, 7):
        write_plots(folder, scale)
        commit(folder, f"scale {scale}")
    return folder


def plots_diff(folder, out):
    run(folder, DVC, "plots", "diff", "HEAD~1", "HEAD", "--out", str(out))
    return out / "index.html"


def test_the_plots_of_two_commits_are_drawn_without_a_network(
    repository, browser, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.chdir(repository)
        write_page()
    page = plots_diff(repository, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "<script src" not in text and "{plot_divs}" not in text and "{refresh_tag}" not in text
    browser.open(page, height=1600)
    assert browser.wait(f"{DRAWN} >= 2")
    # Vega itself warns: of DVC's templates, which are of an older one, and of empty scales.
    warnings = ("The compiled spec uses Vega", "'value': 'WARN'")
    assert not [c for c in browser.complaints() if not any(part in c for part in warnings)]
    assert browser.run(DRAWN) == 2
    browser.screenshot(tmp_path / "page.png")
    picture = Image.open(tmp_path / "page.png").convert("RGB")
    seen = {colour for _, colour in picture.getcolors(1 << 24)}
    assert seen.issuperset(COLOURS), "a commit's line or bars are not there"


def test_the_browser_of_these_tests_sees_that_dvcs_own_page_needs_a_network(
    repository, browser, tmp_path
):
    (repository / ".dvc/config.local").unlink(missing_ok=True)
    browser.open(plots_diff(repository, tmp_path / "out"))
    problems = browser.complaints()
    assert any("vegaEmbed is not defined" in problem for problem in problems)
    assert any("Failed to load resource" in problem for problem in problems)
    assert browser.run(DRAWN) == 0


def test_this_repository_names_no_page_that_a_clone_lacks():
    listed = run(ROOT, "git", "ls-files", ".dvc").stdout
    assert "html_template" not in (ROOT / ".dvc/config").read_text() and "plots.html" not in listed
    assert run(ROOT, "git", "check-ignore", ".dvc/plots.html").stdout


def test_outside_a_dvc_repository_the_mistake_is_named(tmp_path):
    with pytest.raises(UserError, match="not found; run from the root of the repository"):
        write_page(tmp_path / ".dvc")
