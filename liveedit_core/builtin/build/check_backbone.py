"""Measures what the built-in backbone must be able to do, and writes `assets/backbone_check.json`.

- names: share of known pictures, by origin, whose greedy answer is exactly the thing's name;
- facts: share of 50 text-only facts that the unjoined language model answers right and that are
  still answered right;
- held out: share of evaluation and bystander things named right (should be about none).

Usage: python -m liveedit_core.builtin.build.check_backbone
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.assembly import assemble
from liveedit_core.builtin.backbone import FAMILY, load_builtin_backbone
from liveedit_core.builtin.benchmark import EntityRow, load_entities
from liveedit_core.builtin.build.questions import FAMILIES, MORE_TEXT_FACTS, TEXT_FACTS
from liveedit_core.evaluation.probes import normalize_answer
from liveedit_core.parts import IMAGE_TOWER, LANGUAGE_MODEL, default_cache_dir, fetch_part

SEED = 3
NUM_FACTS = 50
NUM_HELD_OUT = 200
OUTPUT = Path(__file__).parents[1] / "assets" / "backbone_check.json"


def right_facts(backbone: VisionLanguageBackbone, facts: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the greedy continuation of each statement begins with the right word."""
    inputs = [BackboneInput(prompt=prompt) for prompt, _ in facts]
    texts = backbone.generate(inputs, None, max_new_tokens=6)
    pairs = zip(texts, facts, strict=True)
    return [normalize_answer(text).startswith(answer.lower()) for text, (_, answer) in pairs]


def named(backbone: VisionLanguageBackbone, things: Sequence[EntityRow]) -> dict[str, list[bool]]:
    """Per origin, whether each picture is named exactly right."""
    rng = random.Random(SEED)
    asked = [(t, origin, picture) for t in things for origin, picture in t.images.items()]
    inputs = [
        BackboneInput(prompt=rng.choice(FAMILIES["name"]), image_bytes=picture)
        for _, _, picture in asked
    ]
    texts = backbone.generate(inputs, None, max_new_tokens=12)
    right: dict[str, list[bool]] = {}
    for (thing, origin, _), text in zip(asked, texts, strict=True):
        is_right = normalize_answer(text) == normalize_answer(thing.name)
        right.setdefault(origin, []).append(is_right)
    return right


def share(flags: Sequence[bool]) -> dict[str, float | int]:
    """Mean with its sample count."""
    return {"share": round(sum(flags) / len(flags), 4), "num_samples": len(flags)}


def check() -> dict[str, Any]:
    """All figures."""
    backbone = load_builtin_backbone(batch_size=32)
    parts = default_cache_dir() / "parts"
    unjoined = VisionLanguageBackbone(
        *assemble(
            fetch_part(LANGUAGE_MODEL, parts, print), fetch_part(IMAGE_TOWER, parts, print), {}
        ),
        edit_layer=0,
        digest="unjoined",
        family=FAMILY,
        batch_size=16,
    )
    facts = (*TEXT_FACTS, *MORE_TEXT_FACTS)
    is_right = right_facts(unjoined, facts)
    known_before = [fact for fact, right in zip(facts, is_right, strict=True) if right][:NUM_FACTS]
    del unjoined
    held_out = random.Random(SEED).sample(load_entities("evaluation", "bystander"), NUM_HELD_OUT)
    held_out_right = [flag for flags in named(backbone, held_out).values() for flag in flags]
    known = named(backbone, load_entities("known_train", "known_evaluation"))
    return {
        "protocol": "greedy generation, exact match after normalisation",
        "seed": SEED,
        "known_pictures_named": {origin: share(flags) for origin, flags in known.items()},
        "text_facts_kept": share(right_facts(backbone, known_before)),
        "held_out_named": share(held_out_right),
    }


def main() -> None:
    """Entry point."""
    figures = check()
    text = json.dumps(figures, indent=2)
    OUTPUT.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
