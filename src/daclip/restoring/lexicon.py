"""The words and phrases of plain English that wishes about photos are made of."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from daclip.errors import DaclipError
from daclip.files import config_folder

ENDINGS = [re.compile(ending) for ending in (r"(?<!s)s$", r"ness$", r"(ing|er|est|ed|ion)$", r"[yie]$")]
CONTRACTED = {"won't": "will not", "can't": "can not", "cannot": "can not", "dont": "do not", "doesnt": "does not"}
NUMBER = re.compile(r"(\d+(?:\.\d+)?)(%?)")
WORD = re.compile(r"\d+(?:\.\d+)?%?|[^\W\d]+(?:'[^\W\d]+)*|[,;:.!?&()\n/]")


MENTIONS = ("fault", "cure", "goal")  # what names classes


@dataclass(frozen=True)
class Item:
    """A word or phrase of a text. Its kind is one of the lists of `words` in the configuration, or `fault`, `cure`,
    `goal`, `strength`, `too_much`, `stop`, or `word` for what is unknown."""

    kind: str
    text: str
    value: Any = None  # classes, or a number


def stem(word: str) -> str:
    """A word without its endings, at least three letters of it.

    >>> [stem(word) for word in ("noisy", "noise", "blurred", "haziness", "foggy", "glass")]
    ['nois', 'nois', 'blur', 'haz', 'fog', 'glass']
    """
    for ending in ENDINGS:
        shorter = ending.sub("", word)
        word = shorter if len(shorter) >= 3 else word
    if word[-1:] == word[-2:-1] and word[-1:] not in "lsz" and len(word) > 3:
        word = word[:-1]
    return word


def words_of(text: str) -> list[str]:
    """The words, numbers and marks of a text in lower case, without contractions and hyphens.

    >>> words_of("Don't de-noise the low-light photo, it’s fine")
    ['do', 'not', 'denoise', 'the', 'low', 'light', 'photo', ',', 'it', 'is', 'fine']
    """
    text = re.sub(
        r"(\d)\s*(?:%|percent\b|per cent\b)", r"\1%", text.lower().replace("’", "'").replace("w/o", "without")
    )
    text = re.sub(r"\b(de|un)-(?=\w)", r"\1", text).replace("-", " ").replace("_", " ")
    found: list[str] = []
    for word in WORD.findall(text):
        whole = CONTRACTED.get(word, word)
        whole = re.sub(r"n't$", " not", whole)
        whole = re.sub(r"'d$", " would", whole)
        whole = re.sub(r"^(it|that|he|she|there|what)'s$", r"\1 is", whole)
        found += re.sub(r"'(?:s|re|ve|m|ll)$", "", whole).split()
    return found


class Lexicon:
    """The phrases that are understood, for the classes of one restorer."""

    def __init__(self, classes: Sequence[str]):
        path = config_folder() / "instruction" / "english.yaml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.after_not: dict[str, float] = settings["after_not"]
        self.faults: dict[str, list[str]] = {}  # what people call each class
        self.ordinary: list[str] = settings["words"]["content"]  # what photos show
        self._phrases: dict[tuple[str, ...], Item] = {}
        for kind, phrases in settings["words"].items():
            for phrase in phrases:
                self._add(Item(kind, phrase))
        for phrase in settings["too_much"]:
            self._add(Item("too_much", phrase))
        for value, phrases in settings["strengths"].items():
            for phrase in phrases:
                self._add(Item("strength", phrase, float(value)))
        for name in classes:
            entry = settings["classes"].get(name, {})
            self._name("fault", name, name)
            for kind in MENTIONS:
                for phrase in entry.get(f"{kind}s", ()):
                    self._name(kind, phrase, name)
            self.faults[name] = entry.get("faults", [name])
        entries = settings["classes"].values()
        self._english = {self.key(fault) for entry in entries for fault in entry.get("faults", ())}
        self._longest = max(map(len, self._phrases))

    def key(self, phrase: str) -> tuple[str, ...]:
        """What a phrase is looked up by: the stems of its words."""
        return (phrase,) if phrase.startswith("=") else tuple(map(stem, words_of(phrase)))

    def _add(self, item: Item) -> None:
        self._phrases[self.key(item.text)] = item

    def _name(self, kind: str, phrase: str, class_name: str) -> None:
        """Let a phrase stand for a class too; two classes may share it."""
        other = self._phrases.get(self.key(phrase))
        shared = other.value if other is not None and other.kind == kind else ()
        self._add(Item(kind, phrase, tuple(dict.fromkeys((*shared, class_name)))))

    def items(self, text: str) -> Iterator[Item]:
        """The text as items, the longest phrase first at each place."""
        words = words_of(text)
        start = 0
        while start < len(words):
            item, length = self._at(words, start)
            yield item
            start += length

    def _at(self, words: Sequence[str], start: int) -> tuple[Item, int]:
        word = words[start]
        if exact := self._phrases.get((f"={word}",)):
            return Item(exact.kind, word, exact.value), 1
        for length in range(min(self._longest, len(words) - start), 0, -1):
            piece = words[start : start + length]
            found = self._phrases.get(tuple(map(stem, piece)))
            if found is not None:
                return Item(found.kind, " ".join(piece), found.value), length
        if number := NUMBER.fullmatch(word):
            share = float(number[1]) / (100 if number[2] else 1)
            is_share = number[2] or "." in word
            if is_share and share > 1:
                raise DaclipError(f"instruction: {word} is more than the whole; give at most 100 %")
            return (Item("strength", word, share) if is_share else Item("filler", word)), 1
        if not word[0].isalpha():
            return Item("and" if word in ",/&" else "stop", word), 1
        cured = self._phrases.get((stem(word)[2:],)) if word.startswith(("de", "un")) else None
        if cured is not None and cured.kind == "fault":
            return Item("cure", word, cured.value), 1
        return Item("word", word), 1

    def close_to(self, word: str) -> str | None:
        """A word for a fault that is spelt nearly so; None for a fault, spelt rightly, of other restorers."""
        if self.key(word) in self._english:
            return None
        known = [item.text for item in self._phrases.values() if item.kind in MENTIONS]
        return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.75)), None)


lexicon_of = lru_cache(maxsize=8)(Lexicon)
"""The phrases for these classes, a tuple, read once."""
