"""Questions that differ by a word which turns one into another: "open" and "close", "owner" and
"previous owner". Embeddings of prompts take them for one question. English only.
"""

import re

from liveedit_core.inputs.same_question import have_equal_names

_PEOPLE = (
    "father mother brother sister son daughter husband wife uncle aunt child children friend "
    "neighbour boss manager employer lawyer doctor"
)
_GROUPS = f"""
{_PEOPLE}
who/whom/whose where when why
own/owns/owner/owned make/makes/made/maker/manufacturer wrote/writes/author/writer sell/sells/sold \
buy/buys/bought/buyer design/designs/designed/designer use/uses/used/user
tall/high/height wide/width long/length deep/depth heavy/weigh/weighs/weight old/age thick/thickness
open/opens/opened/opening close/closes/closed/closing
start/starts/started/begin/begins/began end/ends/ended/finish/finishes/stop/stops
arrive/arrives/arrived/arrival leave/leaves/left/depart/departs/departure
first/1st second/2nd third/3rd fourth/4th fifth/5th last/final next
largest/biggest/highest/longest/most/best/maximum smallest/lowest/shortest/least/worst/minimum
upper/top lower/bottom middle
front back/rear
left right
inside outside
north/northern south/southern east/eastern west/western
phone/telephone/call/mobile fax email/mail address website
city/town country street continent
today tomorrow yesterday
morning afternoon evening night
spring summer autumn winter
"""
_GROUP_OF = {
    word: (group, place)
    for group, line in enumerate(_GROUPS.strip().splitlines())
    for place, words in enumerate(line.split())
    for word in words.split("/")
}
_TURNING = frozenset(
    "not never without previous previously former formerly current currently old new other another "
    f"before after ago earlier later second third next {_PEOPLE}".split()
)
"""A question with one of these asks something else than the same one without."""
_COMMON = frozenset(
    "a an the is are was were be been do does did of to in on at for it its this that these there "
    "what which how can could would will you me i s please tell name say give show know".split()
)
_MOST = 3
"""Words of its own that either question may have: in others a word tells nothing."""
_READ_AS = (
    ("n['\u2019]t\\b", " not"),
    ("how old", "age"),
    ("made (from|of|out of)", "material"),
    ("(before|after) (i|we|you)\\b", ""),
    ("e-mail", "email"),
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)")


def ask_apart(prompt: str, other: str) -> bool:
    """Whether the words of two questions say that they are not the same one; of several sentences
    the last asks."""
    asked = [_SENTENCE.split(text.strip())[-1] for text in (prompt, other)]
    if not have_equal_names(*asked):
        return True
    one, two = map(_words, asked)
    if max(len(one - two), len(two - one)) > _MOST:
        return False
    places = [{_GROUP_OF[word] for word in words if word in _GROUP_OF} for words in (one, two)]
    alone, alone_too = places[0] - places[1], places[1] - places[0]
    if {group for group, _ in alone} & {group for group, _ in alone_too}:
        return True
    return bool(_TURNING & (one ^ two))


def _words(text: str) -> set[str]:
    """What is not common; "doesn't" is "does not", and "how old" asks for an age."""
    text = text.casefold()
    for pattern, meant in _READ_AS:
        text = re.sub(pattern, meant, text)
    return set(re.findall(r"[^\W_]+", text)) - _COMMON
