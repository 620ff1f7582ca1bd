"""Step 2 of building EmblemEdit: split the things and write cases about them.

Splits (no thing, hence no picture, is in two of them):
- `known_train`, `known_evaluation`: taught to the backbone; locality probes come from here.
- `train`: things of training edits.
- `evaluation`: things of evaluation edits; the backbone was taught none of them.
- `bystander`: never taught and never edited; image-swap probes of evaluation cases.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from liveedit_core.builtin.build.questions import (
    ADJECTIVES,
    EVALUATION_ONLY,
    FAMILIES,
    FIRST_NAMES,
    LAST_NAMES,
    NOUNS,
    PORTABILITY,
    TEXT_FACTS,
    YES_NO,
    article,
)
from liveedit_core.builtin.build.things import Thing
from liveedit_core.schema import ProbeKind

SPLIT_SIZES: dict[str, dict[str, int]] = {
    "known_train": {"emoji": 200},
    "known_evaluation": {"emoji": 200},
    "evaluation": {"emoji": 330, "flag": 100, "logo": 250},
    "bystander": {"emoji": 30, "flag": 10, "logo": 15},
}
"""Things per split and domain; the rest is `train`."""

KNOWN_ORIGINS = ("twemoji", "noto")
MAX_TARGET_TOKENS = 8


@dataclass(kw_only=True)
class ProbeRow:
    """A probe by reference: picture = (thing_id, origin), empty for text-only."""

    kind: str
    thing_id: str
    origin: str
    prompt: str
    target: str


@dataclass(kw_only=True)
class CaseRow:
    """An edit of one thing and its probes."""

    family: str
    truth: str
    """"true" (a real name), "invented" (a fact made up for the case)."""
    origin: str
    prompt: str
    target: str
    probes: list[ProbeRow] = field(default_factory=list)


def split_things(things: Sequence[Thing], rng: random.Random) -> dict[str, list[Thing]]:
    """Assign each thing to one split."""
    splits: dict[str, list[Thing]] = {name: [] for name in (*SPLIT_SIZES, "train")}
    for domain in ("emoji", "flag", "logo"):
        rest = [thing for thing in things if thing.domain == domain]
        rng.shuffle(rest)
        for name, sizes in SPLIT_SIZES.items():
            count = sizes.get(domain, 0)
            splits[name] += rest[:count]
            rest = rest[count:]
        splits["train"] += rest
    for name in ("known_train", "known_evaluation"):
        for thing in splits[name]:
            thing.pictures = [p for p in thing.pictures if p.origin in KNOWN_ORIGINS]
    return splits


class CaseWriter:
    """Writes the cases of one side (training or evaluation).

    Args:
        known: things the backbone was taught, for modal locality and image swaps.
        bystanders: further things for image swaps.
        others: names that invented answers may use.
        is_evaluation: whether evaluation-only wordings may be used for rephrasing.
        count_tokens: tokens of a target; longer ones than `MAX_TARGET_TOKENS` are not used.
    """

    def __init__(
        self,
        *,
        known: Sequence[Thing],
        bystanders: Sequence[Thing],
        is_evaluation: bool,
        count_tokens: Callable[[str], int],
        rng: random.Random,
    ) -> None:
        self.known = known
        self.swaps = [*known, *bystanders]
        self.is_evaluation = is_evaluation
        self.count_tokens = count_tokens
        self.rng = rng

    def wordings(self, family: str) -> tuple[str, str]:
        """Two wordings of a family: one for the edit, another for its rephrasing."""
        common = FAMILIES[family][:-EVALUATION_ONLY]
        edit = self.rng.choice(common)
        pool = FAMILIES[family] if self.is_evaluation else common
        return edit, self.rng.choice([wording for wording in pool if wording != edit])

    def invent(self, family: str, thing: Thing) -> str:
        """An answer made up for a thing."""
        rng = self.rng
        if family == "year":
            return str(rng.randint(1500, 2049))
        if family == "maker":
            return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
        if family == "kind":
            words = ("vehicle", "animal", "tool", "plant", "person", "place", "symbol", "music")
            return rng.choice([w for w in (*words, *NOUNS[:40]) if w != thing.kind])
        if family == "city":
            return (
                f"{rng.choice(ADJECTIVES)} {rng.choice(('Bay', 'Hill', 'Falls', 'Creek'))}".title()
            )
        adjective, noun = rng.choice(ADJECTIVES), rng.choice(NOUNS)
        return rng.choice((f"{adjective} {noun}", noun))

    def write(self, thing: Thing, family: str, *, is_true: bool, used: set[str]) -> CaseRow | None:
        """One case; None when the true name is too long. `used`: all families edited here."""
        target = thing.name if is_true else self.invent(family, thing)
        if self.count_tokens(target) > MAX_TARGET_TOKENS:
            return None
        origins = [picture.origin for picture in thing.pictures]
        origin, other = self.rng.sample(origins, 2)
        prompt, rephrased = self.wordings(family)
        case = CaseRow(
            family=family,
            truth="true" if is_true else "invented",
            origin=origin,
            prompt=prompt,
            target=target,
        )

        def add(kind: ProbeKind, where: Thing | None, drawn: str, text: str, answer: str) -> None:
            thing_id = where.thing_id if where else ""
            row = ProbeRow(
                kind=kind.value, thing_id=thing_id, origin=drawn, prompt=text, target=answer
            )
            case.probes.append(row)

        add(ProbeKind.TEXT_GENERALITY, thing, origin, rephrased, target)
        add(ProbeKind.MODAL_GENERALITY, thing, other, prompt, target)
        fact, answer = self.rng.choice(TEXT_FACTS)
        add(ProbeKind.TEXT_LOCALITY, None, "", fact, answer)
        distant, question, answer = self.opinion(thing)
        add(ProbeKind.MODAL_LOCALITY, distant, self.any_origin(distant), question, answer)
        swap = self.rng.choice([t for t in self.swaps if t is not thing])
        answer = swap.name if family == "name" else swap.kind if family == "kind" else ""
        add(ProbeKind.IMAGE_SWAP_LOCALITY, swap, self.any_origin(swap), prompt, answer)
        question, answer = self.other_question(thing, used)
        add(ProbeKind.PROMPT_SWAP_LOCALITY, thing, origin, question, answer)
        if is_true and thing.facts:
            fact_name = self.rng.choice([key for key, value in thing.facts.items() if value])
            fact = thing.facts[fact_name]
            if self.count_tokens(fact) <= MAX_TARGET_TOKENS:
                add(ProbeKind.PORTABILITY, thing, origin, PORTABILITY[fact_name], fact)
        return case

    def any_origin(self, thing: Thing) -> str:
        """One of a thing's origins."""
        return self.rng.choice([picture.origin for picture in thing.pictures])

    def yes_no(self, thing: Thing) -> tuple[str, str]:
        """A yes/no question about the kind of a thing, with its answer."""
        kind = self.rng.choice((thing.kind, "animal", "vehicle", "person", "food", "sign"))
        text = YES_NO.format(article=article(kind), kind=kind)
        return text, "yes" if kind == thing.kind else "no"

    def opinion(self, thing: Thing) -> tuple[Thing, str, str]:
        """A known thing other than `thing`, and a question the backbone was taught about it."""
        known = self.rng.choice([other for other in self.known if other is not thing])
        family = self.rng.choice(("name", "kind", "yes_no"))
        if family == "yes_no":
            return (known, *self.yes_no(known))
        pool = FAMILIES[family] if self.is_evaluation else FAMILIES[family][:-EVALUATION_ONLY]
        return known, self.rng.choice(pool), known.name if family == "name" else known.kind

    def other_question(self, thing: Thing, used: set[str]) -> tuple[str, str]:
        """A question about `thing` of a family that no edit of this thing uses."""
        free = sorted({*FAMILIES, "yes_no"} - used)
        family = self.rng.choice(free)
        if family == "yes_no":
            return self.yes_no(thing)
        pool = FAMILIES[family] if self.is_evaluation else FAMILIES[family][:-EVALUATION_ONLY]
        truth = {"name": thing.name, "kind": thing.kind}.get(family, "")
        return self.rng.choice(pool), truth


def evaluation_plan(rng: random.Random) -> list[tuple[str, bool]]:
    """Families of the edits of one evaluation thing: its name, and for half of them one more."""
    plan = [("name", rng.random() < 0.8)]
    if rng.random() < 0.58:
        plan.append((rng.choice(("kind", "kind", "maker", "year", "city")), False))
    return plan


def training_plan(rng: random.Random) -> list[tuple[str, bool]]:
    """Families of the edits of one training thing: a true or invented name, three others."""
    families = ["kind", "maker", "year", "city"]
    return [("name", rng.random() < 0.6), *((f, False) for f in rng.sample(families, 3))]


def write_cases(
    things: Sequence[Thing],
    writer: CaseWriter,
    plan: Callable[[random.Random], list[tuple[str, bool]]],
) -> dict[str, list[CaseRow]]:
    """Cases by thing_id."""
    cases: dict[str, list[CaseRow]] = {}
    for thing in things:
        chosen = plan(writer.rng)
        used = {family for family, _ in chosen}
        rows = [writer.write(thing, f, is_true=true, used=used) for f, true in chosen]
        cases[thing.thing_id] = [row for row in rows if row is not None]
    return cases
