"""Further locality questions of a benchmark's own prompts and images (after De-VQA, 2511.13243).

    image_swap_locality "nearest"            the edit's prompt, the most similar other image
    prompt_swap_locality "nearest prompt"    the edit's image, the most similar other prompt
    text_locality "no image"                 the edit's prompt alone

Images are compared as thumbnails (squared difference of 8 x 8 RGB pixels), prompts by their words
(cosine of TF-IDF). What the file teaches is left out: images of entities that it teaches the edit's
prompt, prompts that it teaches about the edit's entity or with the edit's target only. Of equally
similar ones the first in the file counts.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from liveedit_core.published.layout import TEXT, Layout
from liveedit_core.published.records import PublishedRecord, Question, entity_of
from liveedit_core.schema import ProbeKind

NEAREST_IMAGE, NEAREST_PROMPT, NO_IMAGE = "nearest", "nearest prompt", "no image"
_ROWS = 512
"""Records compared at a time."""

Floats = npt.NDArray[np.float64]
Words = tuple[str, ...]
"""A prompt as it is compared: lower case, without punctuation."""


def derived_questions(
    records: Sequence[PublishedRecord], layout: Layout, thumbnails: Mapping[str, bytes]
) -> list[tuple[Question, ...]]:
    """The further questions of each record; what finds no image or prompt is left out. Textual
    edits get none."""
    visual = [record for record in records if record.image]
    found = iter(_of_visual(visual, layout, thumbnails) if visual else ())
    return [next(found) if record.image else () for record in records]


def _of_visual(
    records: Sequence[PublishedRecord], layout: Layout, thumbnails: Mapping[str, bytes]
) -> list[tuple[Question, ...]]:
    taught: dict[Words, set[str]] = {}
    for record in records:
        for text in (record.src, record.rephrase):
            taught.setdefault(_words(text), set()).add(record.entity)
    images = _nearest_images(records, layout, thumbnails, taught)
    prompts = _nearest_prompts(records, taught)
    found = []
    for record, image, prompt in zip(records, images, prompts, strict=True):
        own, target = record.edit.prompt, record.alt
        questions = [Question(ProbeKind.TEXT_LOCALITY, own, target, None, NO_IMAGE)]
        if image:
            kind = ProbeKind.IMAGE_SWAP_LOCALITY
            questions.append(Question(kind, own, target, image, NEAREST_IMAGE))
        if prompt:
            kind, asked = ProbeKind.PROMPT_SWAP_LOCALITY, record.form.replace(TEXT, prompt, 1)
            questions.append(Question(kind, asked, target, record.image, NEAREST_PROMPT))
        found.append(tuple(questions))
    return found


def _nearest_images(
    records: Sequence[PublishedRecord],
    layout: Layout,
    thumbnails: Mapping[str, bytes],
    taught: Mapping[Words, set[str]],
) -> list[str]:
    """For each record the path of the most similar image; "" without one."""
    entity_at: dict[str, str] = {}
    for record in records:
        for path in record.own_images:
            entity_at.setdefault(path, record.entity)
    for path in (path for record in records for path in record.images):
        entity_at.setdefault(path, entity_of(path, layout))
    paths, entities = list(entity_at), np.array(list(entity_at.values()))
    pixels_MP = _pixels([thumbnails[path] for path in paths])
    squares_M = (pixels_MP**2).sum(1)
    nearest = []
    for start in range(0, len(records), _ROWS):
        part = records[start : start + _ROWS]
        own_BP = _pixels([thumbnails[record.image or ""] for record in part])
        # Sums of whole numbers are exact, so the choice is the same on every machine.
        distance_BM = squares_M - 2.0 * own_BP @ pixels_MP.T
        for record, distance_M in zip(part, distance_BM, strict=True):
            known = {record.entity, *taught[_words(record.src)]}
            distance_M[np.isin(entities, list(known))] = np.inf
            best = int(distance_M.argmin())
            nearest.append(paths[best] if np.isfinite(distance_M[best]) else "")
    return nearest


def _nearest_prompts(
    records: Sequence[PublishedRecord], taught: Mapping[Words, set[str]]
) -> list[str]:
    """For each record the most similar prompt, without its ending; "" without one."""
    texts: dict[Words, str] = {}
    targets: dict[Words, set[str]] = {}
    for record in records:
        texts.setdefault(_words(record.src), record.src)
        targets.setdefault(_words(record.src), set()).add(record.alt)
    prompts = list(texts)
    row_of = {words: row for row, words in enumerate(prompts)}
    vectors_PW = _tf_idf(prompts)
    nearest = []
    for start in range(0, len(records), _ROWS):
        part = records[start : start + _ROWS]
        similar_BP = vectors_PW[[row_of[_words(record.src)] for record in part]] @ vectors_PW.T
        for record, similar_P in zip(part, similar_BP.round(9), strict=True):
            ranked = (prompts[row] for row in np.argsort(-similar_P, kind="stable"))
            others = (
                texts[words]
                for words in ranked
                if record.entity not in taught[words] and targets[words] != {record.alt}
            )
            nearest.append(next(others, ""))
    return nearest


def _words(text: str) -> Words:
    return tuple(re.findall(r"\w+", text.lower()))


def _tf_idf(prompts: Sequence[Words]) -> Floats:
    """Unit vectors over all words, [P, W]."""
    num_with = Counter(word for words in prompts for word in set(words))
    column_of = {word: column for column, word in enumerate(num_with)}
    vectors_PW = np.zeros((len(prompts), len(column_of)))
    for row, words in enumerate(prompts):
        for word in words:
            weight = math.log((1 + len(prompts)) / (1 + num_with[word])) + 1.0
            vectors_PW[row, column_of[word]] += weight
    norms_P1 = np.linalg.norm(vectors_PW, axis=1, keepdims=True)
    return np.asarray(vectors_PW / np.maximum(norms_P1, 1e-12), dtype=np.float64)


def _pixels(thumbnails: Sequence[bytes]) -> Floats:
    return np.stack([np.frombuffer(item, dtype=np.uint8) for item in thumbnails]).astype(float)
