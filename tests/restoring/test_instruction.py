"""Wishes in plain English: a table of what they mean, words of a user's own, and what is no wish."""

import contextlib
import random
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import TEN

from daclip.errors import DaclipError
from daclip.files import config_folder
from daclip.restoring.instruction import Wish, understand
from daclip.restoring.lexicon import Lexicon, words_of

TABLE = yaml.safe_load((Path(__file__).parent / "instructions.yaml").read_text(encoding="utf-8"))
WORDS = yaml.safe_load((config_folder() / "instruction" / "english.yaml").read_text(encoding="utf-8"))
CLASSES = sorted(TEN)


def mistake(row: dict[str, Any]) -> str | None:
    """How a sentence of the table is misunderstood; None: it is not."""
    try:
        found = understand(row["say"], CLASSES)
    except DaclipError as error:
        refused = str(error).split("; ")[0]
        return None if row.get("unknown", "\0") in refused else refused
    if "unknown" in row:
        return str(found)
    repair = {} if row["repair"] == "all" else row["repair"]
    strengths = repair if isinstance(repair, dict) else dict.fromkeys(repair, 1)
    same = found.repair == strengths and set(found.keep) == set(row.get("keep", ()))
    return None if same and (repair or found.strength == row.get("share", found.strength)) else str(found)


def test_the_table_is_large_and_says_nothing_twice() -> None:
    said = [row["say"] for row in chain(*TABLE.values())]
    assert len(set(said)) == len(said) >= 80
    assert len(TABLE["held_out"]) >= 40


@pytest.mark.parametrize("row", [*TABLE["own"], *TABLE["prompts"], *TABLE["hard"]], ids=lambda row: row["say"])
def test_a_wish_is_understood(row: dict[str, Any]) -> None:
    assert mistake(row) is None


def test_sentences_that_the_grammar_was_not_made_for_are_understood_too() -> None:
    mistakes = {row["say"]: found for row in TABLE["held_out"] if (found := mistake(row))}
    assert len(mistakes) <= 0.1 * len(TABLE["held_out"]), mistakes


@pytest.mark.parametrize("name", WORDS["classes"])
def test_every_class_goes_by_its_own_name_and_its_faults(name: str) -> None:
    for phrase in (name, *WORDS["classes"][name]["faults"]):
        assert understand(f"Remove the {phrase}.", [name]) == Wish({name: 1.0}, (), 1.0)
        assert understand(f"do not touch the {phrase}", [name]) == Wish({}, (name,), 1.0)


@pytest.mark.parametrize("name", WORDS["classes"])
def test_words_are_there_only_for_classes_that_exist(name: str) -> None:
    files = (config_folder() / "degradation").glob("*.yaml")
    assert any(re.search(rf"^ *{name}:", path.read_text(), re.MULTILINE) for path in files)


def test_no_phrase_has_two_meanings() -> None:
    lexicon = Lexicon([])
    found: dict[tuple[str, ...], str] = {}
    lists = {**WORDS["words"], "too_much": WORDS["too_much"]}
    lists |= {f"strength {value}": phrases for value, phrases in WORDS["strengths"].items()}
    lists |= {f"class {name}": list(chain(*entry.values())) for name, entry in WORDS["classes"].items() if name in TEN}
    for kind, phrases in lists.items():
        for phrase in phrases:
            assert found.setdefault(lexicon.key(phrase), kind) == kind, phrase


@pytest.mark.parametrize(
    "text", ["Remove the coffee stains, keep the noise", "get rid of the coffee-stained look but not the noise"]
)
def test_a_class_of_ones_own_needs_no_entry(text: str) -> None:
    assert understand(text, ["coffee-stain", "noisy"]) == Wish({"coffee-stain": 1.0}, ("noisy",), 1.0)


def test_a_cure_is_made_of_any_fault() -> None:
    assert understand("dedust and de-noise", ["dusty", "noisy"]).repair == {"dusty": 1.0, "noisy": 1.0}


def test_what_a_restorer_cannot_do_is_refused_with_what_it_can() -> None:
    with pytest.raises(DaclipError) as caught:
        understand("remove the rain", ["noisy", "dusty"])
    known = "what can be repaired: noise (noisy), dusty, everything"
    assert str(caught.value) == f"instruction: 'rain' is nothing that can be repaired here; {known}"
    with pytest.raises(DaclipError, match="did you mean noise"):
        understand("remove the nosie", CLASSES)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "asks for no change"),
        ("please", "asks for no change"),
        ("keep everything", "asks for no change"),
        ("remove the fog, but keep the haze", "hazy is to be both repaired and left"),
        ("remove 120% of the noise", "give at most 100 %"),
    ],
)
def test_what_makes_no_sense_is_one_line(text: str, part: str) -> None:
    with pytest.raises(DaclipError, match=part) as caught:
        understand(text, CLASSES)
    assert "\n" not in str(caught.value)


def test_nothing_of_a_fault_is_to_be_changed() -> None:
    assert understand("remove 0% of the noise and all of the fog", CLASSES) == Wish({"hazy": 1.0}, ("noisy",), 1.0)


def test_an_unknown_phrase_may_be_matched() -> None:
    known = {"pea soup": "hazy", "bokeh": "motion-blurry"}
    found = understand("remove the pea soup but keep the bokeh", CLASSES, known.get)
    assert (found.repair, found.keep) == ({"hazy": 1.0}, ("motion-blurry",))
    assert found.remarks == ("'pea soup' is taken for hazy", "'bokeh' is taken for motion-blurry")
    assert "'umbrella'" in understand("remove the rain but keep the umbrella", CLASSES, known.get).remarks[0]


def test_no_text_is_too_strange() -> None:
    draw = random.Random(0)
    words = sorted({word for row in chain(*TABLE.values()) for word in words_of(row["say"])})
    understood = 0
    for _ in range(1500):
        text = " ".join(draw.choices([*words, "0.5", "½", "🌧", "'s", "--"], k=draw.randrange(1, 14)))
        with contextlib.suppress(DaclipError):
            found = understand(text, CLASSES)
            assert set(found.repair) | set(found.keep) <= TEN
            assert all(0 < share <= 1 for share in [*found.repair.values(), found.strength])
            understood += 1
    assert 100 < understood < 1400


def test_understanding_needs_no_torch() -> None:
    code = "import sys; import daclip.restoring.instruction; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
