"""American spelling, as Keras has it, in code, texts and notebooks."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("tlt_prune", "tests", "tools", "docs", "notebooks", "specs")
SUFFIXES = (".py", ".md", ".yaml", ".yml", ".toml", ".cfg", ".sh", ".ipynb", ".css", ".html")
# Recorded from the toolkit, which has spellings of its own.
RECORDED = ROOT / "tests/data"

BRITISH = re.compile(
    "(?:categor|character|custom|discret|emphas|equal|final|general|initial|local|material|maxim|minim|normal|optim|organ|parallel"
    "|penal|priorit|quant|random|raster|real|recogn|regular|serial|special|stabil|standard|summar|synchron|synthes|token|util|vector"
    "|visual)is(?:e[drs]?|ing|able|ations?|ers?)(?![a-z])"
    "|analys(?:e[dr]?|ing|ers)(?![a-z])"
    "|(?:colou|behaviou|favou|honou|neighbou|flavou|labou)r"
    "|grey(?!hound)"
    "|(?<![a-z])(?:re)?centr(?:e[ds]?|ing)(?![a-z])"
    "|(?:label|model|cancel|travel|signal|channel)l(?:ed|ing)(?![a-z])"
    "|(?<![a-z])(?:metre|fibre|licence|defence|artefact|whilst)s?(?![a-z])",
    re.IGNORECASE,
)
# Pictures in notebooks are long runs of letters without a meaning.
PICTURE = re.compile(r"[A-Za-z0-9+/=\\]{200,}")


def files() -> list[pathlib.Path]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    this = pathlib.Path(__file__).resolve()
    return sorted(x for x in paths if x.suffix in SUFFIXES and RECORDED not in x.parents and x != this and x.is_file())


@pytest.mark.parametrize(
    ("text", "is_british"),
    [
        ("quantisation", True),
        ("Normalised", True),
        ("initialiser", True),
        ("colours", True),
        ("behaviour", True),
        ("grey", True),
        ("centre", True),
        ("neighbour", True),
        ("analyse", True),
        ("labelled", True),
        ("is_quantised_x", True),
        ("quantization", False),
        ("realistic", False),
        ("optimistic", False),
        ("analyses", False),
        ("analysis", False),
        ("concentrated", False),
        ("precise", False),
        ("specialist", False),
        ("labeled", False),
        ("characteristic", False),
    ],
)
def test_the_list_knows_british_from_american(text: str, is_british: bool) -> None:
    assert bool(BRITISH.search(text)) is is_british


def test_spelling() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        for match in BRITISH.finditer(PICTURE.sub("", line))
    ]
    assert len(files()) > 200
    assert not places, "\n".join(places[:20])
