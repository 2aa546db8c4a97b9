"""Wishes in plain English, such as "remove the rain but keep the fog": what to repair, what to leave, how strongly."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from daclip.errors import DaclipError
from daclip.restoring.lexicon import MENTIONS, Item, Lexicon, lexicon_of

VERBS = ("repair", "keep", "cure")
TAILS = ("still", "gone")  # what is said behind its subject
LINKS = ("and", "or", "nor", "but", "except", "instead", "without", "clause", "stop")


@dataclass(frozen=True)
class Wish:
    """What an instruction asks for."""

    repair: dict[str, float]  # classes with the share of the change, in (0, 1]; empty: what is recognised
    keep: tuple[str, ...]  # classes that are left
    strength: float  # share of the change where no class is named
    remarks: tuple[str, ...] = ()

    def share(self, class_name: str) -> float:
        """The share of the change that is asked of a class; 0 where it is left."""
        return self.repair.get(class_name, 0.0) if self.repair else self.strength * (class_name not in self.keep)

    def shares(self, class_names: Iterable[str]) -> dict[str, float]:
        """The shares of the change that are asked of classes; none where it is all of it."""
        shares = {name: self.share(name) for name in class_names}
        return shares if min(shares.values(), default=1.0) < 1 else {}


@dataclass
class Clause:
    """A piece of the text between connecting words: a verb at most, and what it is about."""

    link: str  # how it is connected to the one before: `stop` where it is not
    items: list[Item] = field(default_factory=list)
    wanted: bool = True  # to be repaired rather than left
    negated: bool = False
    strength: float | None = None

    def has(self, *kinds: str) -> bool:
        """Whether there is an item of one of these kinds."""
        return any(item.kind in kinds for item in self.items)

    def first(self, *kinds: str) -> Item | None:
        """The first item of one of these kinds."""
        return next((item for item in self.items if item.kind in kinds), None)

    @property
    def named(self) -> list[Item]:
        """What names classes."""
        return [item for item in self.items if item.kind in MENTIONS]


def understand(text: str, classes: Sequence[str], nearest: Callable[[str], str | None] = lambda phrase: None) -> Wish:
    """The wish of a text about photos that can be repaired from these classes. `nearest` may find the class that an
    unknown phrase means.

    >>> understand("remove the rain but keep the fog", ["rainy", "hazy"])
    Wish(repair={'rainy': 1.0}, keep=('hazy',), strength=1.0, remarks=())
    """
    lexicon = lexicon_of(tuple(classes))
    clauses = _clauses(list(lexicon.items(text)))
    _judge(clauses)
    remarks = _settle(clauses, lexicon, nearest)
    _measure(clauses, lexicon)
    repair: dict[str, float] = {}
    keep: dict[str, float] = {}
    shares: list[float] = []  # of what is asked of the whole photo
    everything = False
    for clause in clauses:
        share = 1.0 if clause.strength is None else clause.strength
        for item in clause.named:
            for name in item.value:
                if clause.wanted and share > 0:
                    if clause.strength is not None or name not in repair:
                        repair[name] = share
                elif not clause.wanted and item.kind == "goal" and not clause.negated:
                    continue  # "keep it sharp"
                else:
                    keep[name] = 0.0
        if clause.wanted and not clause.named:
            everything |= clause.has("all", "nothing")
            asked = clause.has("photo") and clause.has("repair", "want", "gone") and not _objects(clause)
            if asked or clause.has("all", "nothing"):
                shares.append(share)
    if both := [name for name in repair if name in keep]:
        raise DaclipError(f"instruction: {', '.join(both)} is to be both repaired and left; say which")
    if not repair and not keep and not shares:
        words = " ".join(item.text for clause in clauses for item in clause.items if item.kind in ("word", "content"))
        raise _cannot(words, lexicon)
    return Wish({} if everything else repair, tuple(keep), max(shares, default=1.0), tuple(remarks))


def _cannot(words: str, lexicon: Lexicon) -> DaclipError:
    named = ((faults[0], name) for name, faults in lexicon.faults.items())
    known = ", ".join(word if word == name else f"{word} ({name})" for word, name in named)
    close = next(filter(None, map(lexicon.close_to, words.split())), None)
    reason = f"'{words}' is nothing that can be repaired here" if words else "it asks for no change"
    return DaclipError(
        f"instruction: {reason}{f'; did you mean {close}?' if close else ''}; what can be repaired: {known}, everything"
    )


def _clauses(items: Sequence[Item]) -> list[Clause]:
    """Items cut at what connects them, and where an opposite verb or a `not` begins without a connecting word."""
    clauses = [Clause("stop")]
    for place, item in enumerate(items):
        now = clauses[-1]
        if item.kind in LINKS:
            if now.items:
                clauses.append(Clause(item.kind))
            elif item.kind != "and":  # ", but" and ". And"
                now.link = item.kind
            continue
        verb = now.first(*VERBS)
        opposite = verb is not None and item.kind in VERBS and (item.kind == "keep") != (verb.kind == "keep")
        last = place + 1 == len(items) or items[place + 1].kind in LINKS
        if now.named and (opposite or (item.kind == "not" and not last and not now.has("state"))):
            clauses.append(Clause("stop" if opposite else "and"))
        clauses[-1].items.append(item)
    clauses = [clause for clause in clauses if clause.items]
    for before, clause in pairwise(clauses):
        told = clause.first(*MENTIONS, *VERBS, *TAILS, "not", "no", "only")
        if clause.link == "but" and before.has("all", "nothing") and not before.named and told in clause.named[:1]:
            clause.link = "except"  # "everything but the rain"
    return clauses


def _judge(clauses: Sequence[Clause]) -> None:
    """Decide for each clause whether what it names is to be repaired."""
    before: Clause | None = None
    for clause in clauses:
        clause.wanted, clause.negated = _verdict(clause, before)
        if before is not None and before.named and not before.has(*VERBS, "gone") and _accepts(clause):
            before.wanted = False  # "it is foggy, but leave it"
        before = clause


def _accepts(clause: Clause) -> bool:
    """Whether a clause says that what came before it may stay, such as `leave it`, `don't remove it`."""
    told = [item for item in clause.items if item.kind not in ("still", "filler")]
    pronoun = bool(told) and told[-1].kind == "photo" and told[-1].text in ("it", "that", "this", "them")
    fond = clause.has("keep", "like", "repair") and not clause.wanted
    return pronoun and not clause.named and (fond or (clause.has("want") and clause.link == "but"))


def _verdict(clause: Clause, before: Clause | None) -> tuple[bool, bool]:
    """Whether what the clause names is wanted repaired, and whether a negation turned its meaning round."""
    inherited = before is None or before.wanted
    if clause.link in ("except", "instead"):
        return not inherited, False
    negative = clause.has("not", "nothing")
    verb = clause.first(*VERBS) or clause.first(*TAILS)
    if verb is None and clause.has("like") and not clause.has("no"):
        return negative, negative
    if verb is None:
        if clause.link == "without":
            full = before is not None and before.has(*VERBS) and (before.named or before.has("all"))
            return not full, False
        if clause.items[-1].kind == "not":  # "the fog should stay, the rain should not"
            return not inherited, False
        if negative and not clause.has("want") and not clause.first("goal"):
            return (False if clause.has("state") else not _carried(clause, before)), False
        return (True if negative or clause.has("no") else _carried(clause, before)), False
    base = verb.kind not in ("keep", "still")
    if clause.has("no"):
        return verb.kind != "cure", verb.kind == "cure"  # "no noise is to be left", but "no sharpening"
    shared = clause.link == "or" and before is not None and before.negated
    turned = negative or clause.link in ("without", "nor") or shared
    return base != turned, turned


def _carried(clause: Clause, before: Clause | None) -> bool:
    """The verdict on a clause without a verb: that of the one before, where both share a verb."""
    own = clause.link not in ("and", "or", "nor") or clause.has("state", "only", "want")
    return True if own or before is None else before.wanted


def _settle(clauses: Sequence[Clause], lexicon: Lexicon, nearest: Callable[[str], str | None]) -> list[str]:
    """Refuse what is demanded and unknown, unless `nearest` finds its class; remarks on what is unknown and kept."""
    remarks = []
    asked = False  # whether the clause before asks for a repair
    for clause in clauses:
        strange = [] if clause.named else _objects(clause)
        shared = asked and clause.link in ("and", "or") and not clause.has("state", *VERBS)
        asked = clause.wanted and (clause.has("repair", "cure", "gone") or shared)
        if not any(item.kind == "word" for item in strange) or not (asked or clause.has("keep")):
            continue
        words = " ".join(item.text for item in strange)
        if found := nearest(words):
            clause.items.append(Item("fault", words, (found,)))
            remarks.append(f"'{words}' is taken for {found}")
        elif clause.wanted:
            raise _cannot(words, lexicon)
        else:
            remarks.append(f"'{words}' is no fault that is known here and is left like the rest of the photo")
    return remarks


def _objects(clause: Clause) -> list[Item]:
    """The unknown words that a clause is about: behind its verb, before a preposition, not in front of a `photo`."""
    verb = clause.first("repair", "keep")
    found: list[Item] = []
    seen = False
    for item in clause.items[clause.items.index(verb) + 1 if verb else 0 :]:
        if item.kind == "place" and (found or seen):
            break
        if item.kind in ("photo", "all"):
            found, seen = [], True
        elif item.kind in ("word", "content"):
            found.append(item)
    return found


def _measure(clauses: Sequence[Clause], lexicon: Lexicon) -> None:
    """Give clauses their strength: their own, else that of the clause with which they share a verb, else one that
    follows by itself."""
    overall = None
    for place, clause in enumerate(clauses):
        own = _strength(clause, lexicon)
        clause.strength = overall
        alone = not clause.named and not clause.has("all", "nothing", *VERBS)
        before = clauses[place - 1] if place else None
        bare = before is not None and before.items[-1].kind == "cure"  # "slightly denoise and sharpen"
        shared = clause.link in ("and", "or") and (bare or not clause.has(*VERBS))
        if own is None:
            if shared and before is not None and _leads(before):
                clause.strength = before.strength
            continue
        clause.strength = own
        if alone or (shared and not _leads(clause)):
            for other in reversed(clauses[:place]):
                if other.strength is None:
                    other.strength = own
                if not alone and other.has(*VERBS):
                    break
            if alone and not any(other.named for other in clauses[:place]):
                overall = own  # "gently, please: denoise it"


def _leads(clause: Clause) -> bool:
    """Whether the strength stands in front of what it is about, and so also counts for what follows."""
    told = clause.first("strength", *MENTIONS)
    return clause.strength is not None and (told is None or told.kind == "strength")


def _strength(clause: Clause, lexicon: Lexicon) -> float | None:
    """The share of the change that a clause itself asks for."""
    items = clause.items
    degree = clause.first("strength")
    negative = clause.has("not")
    if negative and (clause.negated or not clause.named):
        # "do not remove all of it", "not too much"
        key = "too_much" if clause.has("too_much") else "complete" if degree and degree.value == 1 else None
        if key:
            clause.wanted, clause.negated = True, False
            return lexicon.after_not[key]
    if degree is None:
        return 1.0 if clause.has("all") and clause.named else None
    place = items.index(degree)
    if not clause.wanted:
        verb, named = clause.first("keep"), clause.named
        if verb and named and degree.value < 1 and items.index(verb) < place < items.index(named[0]):
            clause.wanted = True  # "leave some of the fog"
            return round(1 - float(degree.value), 2)
        return None
    if clause.has("state") and not clause.has(*VERBS, "gone"):
        return None  # "it is slightly blurred"
    around = [item.kind for item in items[max(place - 1, 0) : place + 2]]
    described = len(around) == 3 and around[0] in ("determiner", "photo") and around[2] == "fault"
    return None if described else float(degree.value)
