"""Invented answers of the user's world: plausible, stratified by length and content, not true."""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from liveedit_core.builtin.build.user_cases.families import Family, Template

LENGTHS: dict[str, tuple[int, int, float]] = {
    "1-2": (1, 2, 0.30),
    "3-5": (3, 5, 0.30),
    "6-10": (6, 10, 0.22),
    "11-24": (11, 24, 0.18),
}
"""Fewest and most tokens of a stratum and the share of cases aimed at."""
FOREIGN_SHARE = 0.34
"""Of answers in families that have foreign ones."""
SHORT_SHARE = 0.2
"""Of tries that draw a word or two."""
NUM_TRIES = 80
MAX_REPEATS = 3

WORDS: dict[str, tuple[str, ...]] = {
    slot: tuple(text.split("|"))
    for slot, text in {
        "first": "Ada|Bruno|Clara|Dario|Edith|Fergus|Gina|Harold|Ines|Jasper|Katya|Lorenzo|Mabel|"
        "Nolan|Olive|Percy|Rhoda|Silas|Thelma|Umar|Viola|Wesley|Yusuf|Zelda",
        "last": "Archer|Bellamy|Castell|Drummond|Eberhart|Falk|Grimes|Holloway|Iversen|Jarvis|"
        "Kettering|Lindqvist|Marlowe|Nyberg|Okafor|Pemberton|Ravel|Stockton|Thorne|Underwood",
        "city": "Bergen|Cork|Dundee|Esbjerg|Fresno|Ghent|Halifax|Izmir|Jena|Kiel|Leeds|Modena|"
        "Nantes|Omaha|Porto|Rouen|Salem|Trieste|Utrecht|Wexford",
        "company": "Harbour Tools|Nordlicht|Blue Kettle Works|Tern & Ash|Mira Optics|Falkon|"
        "Old Mill Press|Quarry Lane Foods|Solvent Nine|Weaver Brothers",
        "street": "Mill Lane|Station Road|Rose Street|Canal Row|Chapel Hill|King's Wharf",
        "adj": "crooked|dusty|spare|second|upright|striped|hollow|borrowed|noisy|early|painted|"
        "leaky|folding|square|narrow|foreign|loose|solid",
        "thing": "kettle|lantern|barrow|drum|ladder|compass|teapot|hinge|parrot|bench|trumpet|"
        "valve|saddle|clock|basket|whistle|plough|stamp",
        "plural": "buckets|candles|ropes|tickets|apples|wheels|letters|bricks|geese|bottles|"
        "blankets|pencils",
        "hue": "crimson|turquoise|amber|charcoal|lilac|mustard|scarlet|cream|bronze|emerald",
        "doing": "drying|sorting|lifting|mending|counting|peeling|carrying|washing|heating",
        "food": "peanuts|celery|sesame|milk|barley|almonds|shrimp|butter|lentils|cinnamon",
        "animal": "tree frog|wagtail|thistle|stag beetle|mountain ash|pike|dragonfly|marten",
        "stuff": "birch|brass|wool|pewter|cork|bamboo|clay|zinc|leather|slate",
        "tongue": "Frisian|Catalan|Norse|Breton|Georgian|Swahili|Quechua|Sorbian|Finnish",
        "weekday": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
        "month": "January|February|March|April|May|June|July|August|September|October|November|"
        "December",
    }.items()
}
FOREIGN: dict[str, dict[str, tuple[str, ...]]] = {
    "person": {
        "accents": ("Zoë|José|Łukasz|Søren|Chloé|Jürgen|Åsa|Tomáš", "Müller|Núñez|Żak|Brönner|Gáš"),
        "Cyrillic": ("Ольга|Иван|Мария|Пётр|Анна", "Шевчук|Черных|Коваленко|Лис|Седых"),
        "Chinese": ("王|李|陈|赵|周", "小明|丽|伟|芳|大山"),
        "emoji": ("Captain |Miss |DJ |Chef ", "🐙|🦊|🌵|🐝|🎩"),
    },
    "place": {
        "accents": ("Köln|Łódź|Málaga|Århus|Orléans|Zürich", ", Südtor|, près du pont|, rynek|"),
        "Cyrillic": ("Москва|Казань|Тверь|Одесса", ", улица Мира|, вокзал|"),
        "Chinese": ("上海|北京|成都|南京", "火车站|老城|"),
        "emoji": ("🏝️ |🏔️ |🚉 |⚓ ", "Bergen|Porto|north gate|pier 4"),
    },
    "words": {
        "accents": (
            "grüne |alte |zwei große ",
            "Töpfe|Stühle mit Fuß|Schlüssel für die Tür",
        ),
        "Cyrillic": ("красный |старый |медный ", "чайник|фонарь|замок|ключ от дома"),
        "Chinese": ("红色的|旧的|两个", "茶壶|灯笼|钥匙|木头椅子"),
        "emoji": ("🌶️|🍋|🧊|🔧", " hot| half full| 🔑| 🪣 {adj} {thing}"),
    },
    "hue": {
        "accents": ("bleu pâle|dunkelgrün wie Öl|żółty|café claro con leche|grün|gelb-weiß", ""),
        "Cyrillic": ("красный|тёмно-синий|жёлтый, как мёд|белый", ""),
        "Chinese": ("深蓝色|红色|浅绿色|黑白", ""),
        "emoji": ("🟢|🟣|🔴|🟠", "| and 🔵| like a {thing}| {hue}"),
    },
    "doing": {
        "accents": ("Gemüse schälen|Fische räuchern|pêcher la nuit|kąpać psa", ""),
        "Cyrillic": ("сушить грибы|точить ножи|мыть окна", ""),
        "Chinese": ("泡茶|晒衣服|修自行车|钓鱼", ""),
        "emoji": ("🎣|🧺|🍞|🪚", "| {doing} {plural}| and 🎨"),
    },
    "food": {
        "accents": ("Nüsse|Rüben|crème fraîche|jalapeño|jabłka i śliwki", ""),
        "Cyrillic": ("мёд|гречка|сметана и укроп", ""),
        "Chinese": ("花生|豆腐|牛奶|芝麻酱", ""),
        "emoji": ("🥜|🦐|🥛|🌰", "| {food}| and {food}"),
    },
    "animal": {
        "accents": ("Waldkäuzchen|Löwenzahn|pâquerette|żubr|ñandú", ""),
        "Cyrillic": ("снегирь|рябина|ёж|щука", ""),
        "Chinese": ("竹子|喜鹊|鲤鱼|丹顶鹤", ""),
        "emoji": ("🦔|🐟|🌿|🦉", "| {hue} {animal}| {animal}"),
    },
    "stuff": {
        "accents": ("Weißblech|Büffelleder|chêne brûlé|łupek|piel de búfalo", ""),
        "Cyrillic": ("медь|берёза|войлок|чугун", ""),
        "Chinese": ("竹子|丝绸|铜|羊毛", ""),
        "emoji": ("🪵|🧶|🪨|🧱", "| {stuff}| {adj} {stuff}"),
    },
    "tongue": {
        "accents": ("Español|Français|Čeština|Íslenska|Türkçe", ""),
        "Cyrillic": ("Русский|Українська|Български", ""),
        "Chinese": ("中文|粤语|普通话|上海话", ""),
        "emoji": ("🗣️|💬", " {tongue}| {tongue} and {tongue}"),
    },
    "sentence": {
        "accents": (
            "La théière |Le vélo rouge |L'été ",
            "est déjà là.|arrive à midi, près du café.|où tout a commencé",
        ),
        "Cyrillic": ("Закрыто |Ключ лежит ", "до субботы.|под ковром.|рядом на столе."),
        "Chinese": ("请|不要", "等一下|开门|放在阳光下|在星期一喂它"),
        "emoji": ("🎉 |⚠️ |🚲 ", "{adj} {thing}|{weekday}!|no {plural} here 🙅"),
    },
}
"""Beginnings and ends of answers in other scripts, by what a family asks for."""


@dataclass(frozen=True)
class Answer:
    """A target and its strata."""

    text: str
    content: str
    length: str


class AnswerWriter:
    """Draws answers so that the strata of length approach their shares.

    Args:
        count_tokens: tokens of a target under the built-in tokenizer.
        max_repeats: how often one answer is given.
    """

    def __init__(
        self,
        count_tokens: Callable[[str], int],
        rng: random.Random,
        *,
        max_repeats: int = MAX_REPEATS,
    ) -> None:
        self.count_tokens = count_tokens
        self.max_repeats = max_repeats
        self.rng = rng
        self.drawn: Counter[str] = Counter()
        self.given: Counter[str] = Counter()

    def write(self, family: Family, *, unlike: str = "", true_name: str = "") -> Answer:
        """An answer to a family's question other than `unlike`; `true_name` counts as one."""
        total = sum(self.drawn.values()) + 1
        wanted = sorted(LENGTHS, key=lambda name: self.drawn[name] - total * LENGTHS[name][2])
        if true_name:
            for length in LENGTHS:
                if self._fits(true_name, length):
                    self.drawn[length] += 1
                    return Answer(true_name, "name", length)
        for length in wanted:
            for _ in range(NUM_TRIES):
                content, text = self._draw(family, length)
                if text == unlike or self.given[text] >= self.max_repeats:
                    continue
                if self._fits(text, length):
                    self.drawn[length] += 1
                    self.given[text] += 1
                    return Answer(text, content, length)
        raise ValueError(f"{family.name}: no answer fits any stratum of length")

    def _fits(self, text: str, length: str) -> bool:
        fewest, most, _ = LENGTHS[length]
        return fewest <= self.count_tokens(text) <= most

    def _draw(self, family: Family, length: str) -> tuple[str, str]:
        """Content and text of one try."""
        rng = self.rng
        if family.foreign and rng.random() < FOREIGN_SHARE:
            content = rng.choice(("accents", "accents", "Cyrillic", "Chinese", "emoji"))
            template = self._foreign(family.foreign, content)
        else:
            if rng.random() < SHORT_SHARE:
                template = rng.choice(family.short)
                return template.content, template.text
            content = rng.choice(sorted({answer.content for answer in family.answers}))
            template = rng.choice([a for a in family.answers if a.content == content])
        text = self.fill(template.text)
        if content == "sentence" or family.foreign == "sentence":
            return content, text
        tails = list(family.tails)
        while tails and self.count_tokens(text) < LENGTHS[length][0]:
            tail = tails.pop(rng.randrange(len(tails)))
            text = f"{text}, {self.fill(tail)}"
        return content, text

    def _foreign(self, kind: str, content: str) -> Template:
        beginnings, ends = FOREIGN[kind][content]
        beginning = self.rng.choice(beginnings.split("|"))
        end = self.rng.choice(ends.split("|"))
        space = " " if kind == "person" and content in ("accents", "Cyrillic") else ""
        if space and self.rng.random() < 0.3:
            return Template(content, beginning)
        return Template(content, f"{beginning}{space}{end}".strip())

    def fill(self, template: str) -> str:
        """A template with its slots filled, each with another word."""
        given: set[str] = set()

        def drawn(match: re.Match[str]) -> str:
            word = self._slot(match[1])
            while word in given and match[1] in WORDS:
                word = self._slot(match[1])
            given.add(word)
            return word

        text = re.sub(r"\{(\w+)\}", drawn, template)
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)

    def _slot(self, slot: str) -> str:
        rng = self.rng
        if slot in WORDS:
            return rng.choice(WORDS[slot])
        ranges = {"n1": (2, 9), "n2": (11, 98), "n3": (112, 987), "n2day": (10, 19)}
        if slot in ranges:
            return str(rng.randint(*ranges[slot]))
        if slot == "year":
            return str(rng.randint(1871, 2034))
        if slot == "company_l":
            return rng.choice(WORDS["company"]).lower().replace(" & ", "-").replace(" ", "-")
        return "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXZ") for _ in slot)
