"""What is asked in place of a question: the edit's own words, one hop, or a form that is named.

Own words. A question that means the same as that of the edit it keeps is asked in the edit's words,
whose answer was verified when the edit was written: "what temperature" as "At what temperature does
it melt?". A question of yes or no stays what it is, beside a fact that is none.

One hop, a question about the owner of what is shown, answered by a textual edit about the owner:

"What is the phone number of its owner?"
inner     "What is the owner of this?", with the image    -> an image edit: "Anna Keller"
second    "What is the phone number of Anna Keller?", without an image    -> a textual edit

The second question takes the place of the asked one, so whatever answers questions answers it. If
either keeps no edit, or the asked question keeps one of its own, nothing changes; nor where an edit
is about something near ("its maker", "the brother of its owner", "its previous owner"), which the
prompt key takes for the same. The image edit must have been written with forms (`refine.derived`).

Of a question of yes or no the texts may tell the answer (`forms/claims.py`): "Is the price 9
euros?" is answered by the "no" of its edit, whatever embeddings say.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.inputs.contrasts import ask_apart
from liveedit_core.method.corrections import passes_gate
from liveedit_core.method.editor import Editor, Routing
from liveedit_core.method.forms.claims import verdict
from liveedit_core.method.forms.writing import form_asked, has_yes_and_no
from liveedit_core.method.routing import RoutingBatch, similarity
from liveedit_core.schema import Fact

_IMAGE = r"(?:image|picture|photo|photograph)"
_FIRST = r"(?:serial|main|delivery|release|trade|brand|model|product|full|official|right|head|home)"
"""Words that a noun may begin with: what follows others may be a verb."""
_PHRASES = tuple(
    re.compile(rf"\b(?:{pattern})(?![\w-])", re.I)
    for pattern in (
        rf"the (?P<noun>(?:[\w-]+ )?[\w-]+) of (?:it|this|that)(?: (?:one|thing|object|{_IMAGE}))?",
        rf"the (?P<noun>[\w-]+(?: [\w-]+)??) (?P<shown>\w+ )?in (?:the|this) {_IMAGE}",
        rf"its (?P<noun>(?:{_FIRST} )?[\w-]+)",
        r"(?:the \w+ (?:who|that|which)|whoever) (?P<verb>(?:\w+ ){1,2}(?:it|this|that))",
    )
)
"""What a question may call the answer of another one."""
_PEOPLE = ("person", "individual", "man", "woman")
_ASKING = frozenset(
    "who what which is are was were 's the a of name called tell give say show me us please can "
    "could would you do i know need want like to about and".split()
)
"""A question of no other words beside such a phrase is the inner one itself."""
_LINKED = re.compile(r"([\w-]+)(?= of it\b)|(?<=\bit's )([\w-]+)", re.I)
_OF_IT = re.compile(
    r"(?:\b(?:what|which|who)(?:'s| is| are| was| were)|\b(?:tell|give|show|name)(?: me| us)?)"
    r" (?:the )?(?:(?:[\w-]+ ){1,2}of it|it's(?: [\w-]+){1,2})\W*$",
    re.I,
)
"""Asks for what belongs to it, rather than about that."""


LEAST_WEIGHT = 0.5
"""An edit with more weight than this is what a question is about."""

LEAST_GAIN = 1.0
"""In prompt similarity, of the second question over a textual edit that the asked one keeps."""

MAX_SPLITS = 6
"""That are looked at."""

ROUTED_AT_ONCE = 64

FactsOf = Callable[[Collection[str]], Mapping[str, Fact]]
"""What some edits taught, as far as it is known (`FactSource.facts_of`)."""


class Split(NamedTuple):
    """A question with an inner one: "What is the phone number of [its owner]?"."""

    inner: str
    start: int
    stop: int
    """Of the words that its answer replaces."""


class Hop(NamedTuple):
    """What is asked in place of a question."""

    inner: BackboneInput
    """About the image."""
    second: BackboneInput
    """The question that is asked instead."""
    first: Routing | None
    """Of the inner question, where two edits answer."""


def splits(prompt: str) -> Iterator[Split]:
    """Each inner question that a prompt may have."""
    for pattern in _PHRASES:
        for found in pattern.finditer(prompt):
            start, stop = found.span()
            rest = re.findall(r"'?\w+", f"{prompt[:start]} {prompt[stop:]}".lower())
            if _ASKING.issuperset(rest):
                continue
            words = found.groupdict()
            if "verb" in words:
                inner = f"Who {words['verb']}?"
            elif "shown" in words:
                is_person = words["noun"].lower() in _PEOPLE
                inner = "Who is the person in the image?" if is_person else f"What is {found[0]}?"
            else:
                inner = f"What is the {words['noun']} of this?"
            yield Split(inner, start, stop)


@torch.no_grad()
def hops_of(editor: Editor, items: Sequence[BackboneInput], facts_of: FactsOf) -> dict[int, Hop]:
    """What is asked in place of some questions, by index; the others are asked as they are."""
    hops = hops_of_forms(editor, items, facts_of)
    if editor.generator.can_route_texts and len(editor.repository):
        rest = [i for i in range(len(items)) if i not in hops]
        routings = _routings(editor, [items[i] for i in rest])
        asked = {rest[n]: (items[rest[n]], routing) for n, routing in routings.items()}
        hops |= {i: Hop(one, one, None) for i, one in in_own_words(editor, asked, facts_of).items()}
    return hops


@torch.no_grad()
def hops_of_forms(
    editor: Editor, items: Sequence[BackboneInput], facts_of: FactsOf
) -> dict[int, Hop]:
    """Those over two edits, and those that name a form, where edits have forms."""
    hops: dict[int, Hop] = {}
    for i, item in enumerate(items) if editor.repository.forms else ():
        if item.image_bytes is not None:
            hop = _two_edits(editor, item, facts_of) if editor.has_textual else None
            if hop := hop or _claim(editor, item, facts_of):
                hops[i] = hop
    return hops


def in_own_words(
    editor: Editor, asked: Mapping[int, tuple[BackboneInput, Routing]], facts_of: FactsOf
) -> dict[int, BackboneInput]:
    """Of some routed questions those that are asked in an edit's words, in these words."""
    meant = {
        i: routing.kept[0]
        for i, (item, routing) in asked.items()
        if routing.kept and routing.weights[0] > LEAST_WEIGHT and routing.is_plain
        if item.form is None and editor.generator.can_route_texts
    }
    facts = facts_of(set(meant.values())) if meant else {}
    found = {}
    for i, edit_id in meant.items():
        item, fact = asked[i][0], facts.get(edit_id)
        if fact is None or fact.prompt == item.prompt:
            continue
        if _is_of_yes_or_no(editor, item.prompt) <= _is_of_yes_or_no(editor, fact.prompt):
            found[i] = replace(item, prompt=fact.prompt)
    return found


def _is_of_yes_or_no(editor: Editor, prompt: str) -> bool:
    return form_asked(editor.backbone, editor.generator, prompt) == "yes or no"


def _routings(editor: Editor, items: Sequence[BackboneInput]) -> dict[int, Routing]:
    """Of those that are routed, by index."""
    found: dict[int, Routing] = {}
    for start in range(0, len(items), ROUTED_AT_ONCE):
        states = editor.routing_states(items[start : start + ROUTED_AT_ONCE])
        rows = [row for row, state in enumerate(states) if editor.is_routed(state)]
        if rows:
            explained = editor.explain(editor.route([states[row] for row in rows]))
            found |= zip((start + row for row in rows), explained, strict=True)
    return found


def _claim(editor: Editor, item: BackboneInput, facts_of: FactsOf) -> Hop | None:
    """A question of yes or no whose text tells the answer (`claims`)."""
    form = form_asked(editor.backbone, editor.generator, item.prompt)
    if form not in ("yes or no", "reversed"):
        return None
    routing = editor.route(editor.routing_states([item]))
    column = _best(routing, 0)
    place = -1 if column is None else int(routing.position_N[column])
    fact = _fact_at(editor, place, facts_of) if place in editor.repository.forms else None
    if fact is None:
        return None
    found = verdict(item.prompt, fact.prompt, fact.target)
    has_answers = has_yes_and_no(editor.repository.forms[place])
    if found is None or not has_answers or (form == "reversed" and found != "which"):
        return None
    return Hop(item, replace(item, form=("which", "yes", "no").index(found)), None)


def _two_edits(editor: Editor, item: BackboneInput, facts_of: FactsOf) -> Hop | None:
    """The hop over the edit of an image and a textual one."""
    repository = editor.repository
    for split in islice(splits(item.prompt), MAX_SPLITS):
        inner = replace(item, prompt=split.inner)
        routing = editor.route(editor.routing_states([inner, item]))
        own, direct = _best(routing, 0), _best(routing, 1)
        place = -1 if own is None else int(routing.position_N[own])
        fact = _fact_at(editor, place, facts_of) if place in repository.forms else None
        if fact is None or own is None or not _is_plain(routing, own):
            continue
        if ask_apart(split.inner, fact.prompt):
            continue
        answer = fact.target.strip().rstrip(".")
        prompt = item.prompt[: split.start] + answer + item.prompt[split.stop :]
        second = replace(item, prompt=prompt, image_bytes=None)
        further = editor.route(editor.routing_states([second]))
        found = _best(further, 0)
        if found is None:
            continue
        known = _fact_at(editor, int(further.position_N[found]), facts_of)
        if known is None or not _asks_the_same(editor, prompt, known.prompt, answer):
            continue
        second = replace(second, prompt=known.prompt)
        if direct not in (None, own):
            gain = further.prompt_BN[0, found] - routing.prompt_BN[1, direct]
            if not routing.is_textual_N[direct] or gain < LEAST_GAIN:
                continue  # the asked question was taught
        return Hop(inner, second, editor.explain(routing)[0])
    return None


def hopped(
    editor: Editor, items: Sequence[BackboneInput], facts_of: FactsOf
) -> tuple[list[BackboneInput], dict[int, Routing]]:
    """The questions that are asked, and `Hop.first` where there is one, by index."""
    hops = hops_of(editor, items, facts_of)
    asked = [hops[i].second if i in hops else item for i, item in enumerate(items)]
    return asked, {i: hop.first for i, hop in hops.items() if hop.first}


def _fact_at(editor: Editor, place: int, facts_of: FactsOf) -> Fact | None:
    edit_id = editor.repository.edit_ids[place]
    return facts_of([edit_id]).get(edit_id)


def _asks_the_same(editor: Editor, prompt: str, other: str, answer: str) -> bool:
    """Whether two prompts ask the same about an answer that both name. Alone, the gate of textual
    edits takes "line 2" for "line 5", and one long name in two questions for one question."""
    named = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.I)
    if not named.search(other):
        return False
    texts = [named.sub("it", text) for text in (prompt, other)]
    is_about_it = not _ASKING.issuperset(_words(texts[1]) - {"it"})
    if not is_about_it or ask_apart(*texts) or _between(*texts) or _between(*texts[::-1]):
        return False
    inputs = [BackboneInput(prompt=text) for text in texts]
    asked, stored = (state.prompt_embeddings_WP for state in editor.routing_states(inputs))
    key, config = editor.generator.prompt_key, editor.generator.config
    likeness = similarity(key([asked], is_edit=False), key([stored], is_edit=True).flatten(1))
    return bool(passes_gate(likeness, config))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.lower()))


def _between(one: str, other: str) -> bool:
    """Whether a question is about what belongs to "it", which the other one does not name."""
    linked = {(first or second).lower() for first, second in _LINKED.findall(one)}
    return not (linked <= _words(other) or _OF_IT.search(one))


def _is_plain(routing: RoutingBatch, column: int) -> bool:
    """Whether the first input asks for the fact of an edit, not for what follows from it."""
    shares = routing.form_shares.get(column)
    return shares is None or int(shares.shares_BF[0].argmax()) == 0


def _best(routing: RoutingBatch, row: int) -> int | None:
    """Column of the edit that an input keeps with the largest weight."""
    return int(routing.weights_BN[row].argmax()) if routing.kept_BN[row].any() else None
