"""Fits the directions by which a question's form is known (`method/forms`), and writes them.

    python -m liveedit_core.builtin.build.question_forms

Multinomial regression on embeddings of plain questions (the question corpus) and of the wordings of
`forms/wordings.toml`, with what a family asks for as the noun. No question of a benchmark is among
them.
"""

import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.prompt_encoder import load_prompt_encoder
from liveedit_core.builtin.backbone import builtin_generator_folder
from liveedit_core.method.forms.texts import FORMS, NO_NOUN, WORDINGS
from liveedit_core.method.forms.writing import DIRECTIONS_FILE
from liveedit_core.method.generator import load_generator
from liveedit_core.training.random_targets import KINDS, WORDS

SEED = 2
SHARPNESS = 10.0
"""Length of the embeddings in the regression."""
RIDGE = 1e-3
PLAIN_WORDINGS = 5
"""Of each family."""
NOUNS = 22
"""For each wording of a form; twice as many where answers differ too."""


def corpus_families() -> dict[str, list[str]]:
    """Wordings of the question corpus by family."""
    file = Path(__file__).with_name("question_corpus.tsv")
    families: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        family, _, wording = line.split("\t")
        families.setdefault(family, []).append(wording)
    return families


def answer(rng: random.Random) -> str:
    """What somebody may suppose: half of the time a word or two, as most answers are."""
    if rng.random() < 0.5:
        return rng.choice(KINDS)(rng)
    word = rng.choice(WORDS[rng.choice(("adjectives", "nouns", "places", "first_names"))])
    return rng.choice((word, word, f"{word} {rng.choice(WORDS['nouns'])}", f"{rng.randrange(99)}"))


def texts_and_labels() -> tuple[list[str], list[int]]:
    """Questions, and which form each has; 0 is plain."""
    rng = random.Random(SEED)
    families = corpus_families()
    texts = [
        wording
        for wordings in families.values()
        for wording in rng.sample(wordings, min(PLAIN_WORDINGS, len(wordings)))
    ]
    labels = [0] * len(texts)
    nouns = [name.removeprefix("k_").replace("_", " ") for name in families]
    for label, form in enumerate(FORMS, start=1):
        for wording in WORDINGS[form]:
            count = 2 * NOUNS if "{answer}" in wording else NOUNS
            for family_noun in rng.sample(nouns, count):
                noun = NO_NOUN if rng.random() < 1 / 6 else family_noun
                texts.append(wording.format(noun=noun, answer=answer(rng)))
                labels.append(label)
    return texts, labels


def fitted(text_XS: Tensor, label_X: Tensor) -> tuple[Tensor, Tensor]:
    """Directions [F, S] and biases [F]: log-odds of each form against a plain question."""
    count_C = label_X.bincount().float()
    weight_C = (len(label_X) / count_C) ** 0.75
    direction_CS = torch.zeros(len(count_C), text_XS.shape[1], requires_grad=True)
    bias_C = torch.zeros(len(count_C), requires_grad=True)
    steps = torch.optim.LBFGS([direction_CS, bias_C], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        logits_XC = SHARPNESS * text_XS @ direction_CS.T + bias_C
        total = functional.cross_entropy(logits_XC, label_X, weight=weight_C)
        total = total + RIDGE * direction_CS.square().sum()
        total.backward()
        return total

    steps.step(loss)
    direction_FS = SHARPNESS * (direction_CS[1:] - direction_CS[:1])
    return direction_FS.detach(), (bias_C[1:] - bias_C[0]).detach()


def main() -> None:
    """Write the file."""
    texts, labels = texts_and_labels()
    encoder = load_prompt_encoder()
    parts = [encoder.encode(texts[start : start + 64]) for start in range(0, len(texts), 64)]
    key = load_generator(builtin_generator_folder()).prompt_key
    direction_FS, bias_F = fitted(key.text(torch.cat(parts)), torch.tensor(labels))
    save_file({"direction_FS": direction_FS, "bias_F": bias_F}, DIRECTIONS_FILE)
    print(f"{len(texts):,} questions; written to {DIRECTIONS_FILE}")


if __name__ == "__main__":
    main()
