"""Trains the joint (projector + LoRA) of the built-in backbone on the known things.

Two stages (fixed seed, resumable): (a) the mean projected row of a picture is drawn to the mean
token embedding of its thing's name (InfoNCE, projector alone); (b) language-model loss on short
questions, projector and LoRA on q_proj and v_proj. An eighth of each batch of (b) is text alone,
continued as the unjoined model continues it, so that text-only knowledge stays.

Usage: python -m liveedit_core.builtin.build.train_backbone --work DIR   (about 15 min on 2 cores)
Writes DIR/checkpoint.pt while training, then assets/joint.safetensors and joint_curve.json.
"""

import argparse
import io
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.builtin.assembly import LORA_SCALE, assemble
from liveedit_core.builtin.build.questions import FAMILIES, YES_NO, article
from liveedit_core.parts import IMAGE_TOWER, LANGUAGE_MODEL, default_cache_dir, fetch_part

SEED = 7
ALIGN_STEPS = 400
STEPS = 230
BATCH = 32
LORA_RANK = 8
ASSETS = Path(__file__).parents[1] / "assets"
STARTERS = (
    "Once upon a time|The best way to learn a language is|In the morning, she|My favourite book is"
    "|The weather today is|When I was a child,|A good teacher should|The history of music begins"
    "|To bake a cake, you need|Scientists have discovered that|The city of Venice is known for|The"
    " most important thing in life is|Water is made of|The human body has|Trees are important"
    " because"
    "|During the war,|The computer was invented by|In mathematics, a prime number is|The president"
    " said that|Dogs are|The capital city of Canada is|Birds can|The sun is|Computers use|The story"
    " is about|Many people believe that|The number three is|A triangle has|Winter is|The ocean is"
    "|Gold is|The name of the first man on the moon is"
).split("|")


class LoraLinear(nn.Module):
    """A frozen linear layer plus `LORA_SCALE * B A x`."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(LORA_RANK, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, LORA_RANK))

    def forward(self, hidden: Tensor) -> Tensor:
        low_rank = functional.linear(functional.linear(hidden, self.a), self.b)
        result: Tensor = self.base(hidden) + LORA_SCALE * low_rank
        return result


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training sequence; `picture` is a row of the feature table, -1 for text alone."""

    picture: int
    prompt: str
    answer: str


class BackboneTrainer:
    """Holds the model, the cached image-tower rows and the random state."""

    def __init__(self, work: Path) -> None:
        torch.set_flush_denormal(True)  # else steps get three times slower as the loss falls
        torch.manual_seed(SEED)
        self.rng = random.Random(SEED)
        self.work = work
        parts = default_cache_dir() / "parts"
        gguf = fetch_part(LANGUAGE_MODEL, parts, print)
        tower = fetch_part(IMAGE_TOWER, parts, print)
        self.model, self.processor = assemble(gguf, tower, {})
        self.tokenizer = self.processor.tokenizer
        self.model.requires_grad_(False)
        self.projector = self.model.model.multi_modal_projector.requires_grad_(True)
        self.things = self.known_things()
        self.features = self.encode_pictures()
        self.text_samples = self.continue_starters()
        self.loras = {
            f"layers.{index}.self_attn.{name}": (layer.self_attn, name)
            for index, layer in enumerate(self.model.model.language_model.layers)
            for name in ("q_proj", "v_proj")
        }
        for owner, name in self.loras.values():
            setattr(owner, name, LoraLinear(getattr(owner, name)))
        self.curve: list[dict[str, float | str]] = []

    def known_things(self) -> list[dict[str, Any]]:
        """Rows of the benchmark that the backbone is taught."""
        rows: list[dict[str, Any]] = pq.read_table(ASSETS / "emblem_edit.parquet").to_pylist()
        return [row for row in rows if row["split"].startswith("known")]

    @torch.no_grad()
    def encode_pictures(self) -> Tensor:
        """Image-tower rows of all known pictures [2 * things, I, E]; two pictures a thing."""
        rows = []
        for thing in self.things:
            images = [Image.open(io.BytesIO(p["image"])) for p in thing["pictures"]]
            pixels = self.processor.image_processor(images=images, return_tensors="pt")
            grid = self.model.model.vision_tower(pixels["pixel_values"]).last_hidden_state
            rows.append(grid.flatten(2).transpose(1, 2))
        return torch.cat(rows)

    @torch.no_grad()
    def continue_starters(self) -> list[Sample]:
        """What the unjoined language model says after each starter (greedy, 10 tokens)."""
        samples = []
        for starter in STARTERS:
            ids = self.tokenizer(starter, return_tensors="pt")["input_ids"]
            done = self.model.generate(input_ids=ids, max_new_tokens=10, do_sample=False)
            answer = self.tokenizer.decode(done[0, ids.shape[1] :], skip_special_tokens=True)
            samples.append(Sample(picture=-1, prompt=starter, answer=answer))
        return samples

    def align(self) -> None:
        """Stage (a)."""
        embeddings = self.model.get_input_embeddings().weight
        names = [self.tokenizer.encode(f" {t['name']}") for t in self.things]
        targets = torch.stack([embeddings[ids].mean(0) for ids in names])
        targets = functional.normalize(targets - embeddings.mean(0), dim=-1)
        optimizer = torch.optim.AdamW(self.projector.parameters(), lr=1e-3)
        for step in range(ALIGN_STEPS):
            picked = torch.randperm(len(self.things))[:128]
            rows = self.features[2 * picked + torch.randint(0, 2, (len(picked),))]
            projected = self.projector(rows).mean(1)
            size = (projected.norm(dim=-1).mean() / embeddings.norm(dim=-1).mean()).log().square()
            logits = functional.normalize(projected, dim=-1) @ targets[picked].T / 0.07
            loss = functional.cross_entropy(logits, torch.arange(len(picked))) + 0.1 * size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                self.record("align", step, loss.item())

    def draw(self) -> list[Sample]:
        """One batch: 4 texts, 20 names, 5 kinds, 3 yes/no questions."""
        samples = self.rng.sample(self.text_samples, 4)
        for family in ["name"] * 20 + ["kind"] * 5 + ["yes_no"] * 3:
            index = self.rng.randrange(len(self.things))
            thing = self.things[index]
            picture = 2 * index + self.rng.randrange(2)
            if family == "yes_no":
                kind = self.rng.choice([thing["kind"], self.rng.choice(self.things)["kind"]])
                prompt = YES_NO.format(article=article(kind), kind=kind)
                answer = "yes" if kind == thing["kind"] else "no"
            else:
                prompt = self.rng.choice(FAMILIES[family])
                answer = thing[family]
            samples.append(Sample(picture=picture, prompt=prompt, answer=answer))
        return samples

    def loss(self, samples: list[Sample]) -> Tensor:
        """Mean NLL of answer tokens and the end token; logits at answer positions only."""
        rows, labels = [], []
        embed = self.model.get_input_embeddings()
        has_picture = [sample.picture >= 0 for sample in samples]
        projected = iter(
            self.projector(self.features[[s.picture for s in samples if s.picture >= 0]])
        )
        for sample, is_seen in zip(samples, has_picture, strict=True):
            prompt = f"{sample.prompt} Answer:" if is_seen else sample.prompt
            prompt_ids = self.tokenizer.encode(prompt)
            answer = f" {sample.answer}" if is_seen else sample.answer
            answer_ids = self.tokenizer.encode(answer)
            answer_ids += [self.tokenizer.eos_token_id] if is_seen else []
            tokens = embed(torch.tensor(prompt_ids + answer_ids))
            row = torch.cat([next(projected), tokens]) if is_seen else tokens
            label = torch.full((len(row),), -100)
            label[-len(answer_ids) - 1 : -1] = torch.tensor(answer_ids)
            rows.append(row)
            labels.append(label)
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        label_BT = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        hidden = self.model.model.language_model(inputs_embeds=embeds).last_hidden_state
        wanted = label_BT >= 0
        return functional.cross_entropy(self.model.lm_head(hidden[wanted]), label_BT[wanted])

    def join(self) -> None:
        """Stage (b), resumed from `checkpoint.pt` when it is there."""
        lora = [p for owner, name in self.loras.values() for p in self.adapter(owner, name)]
        groups = [
            {"params": list(self.projector.parameters()), "lr": 1e-3},
            {"params": lora, "lr": 2e-3},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=[1e-3, 2e-3], total_steps=STEPS, pct_start=0.1
        )
        path = self.work / "checkpoint.pt"
        first = 0
        if path.exists():
            state = torch.load(path, weights_only=False)  # our own file, written below
            first = state["step"]
            self.load(state["joint"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            self.rng.setstate(state["rng"])
            self.curve = state["curve"]
        parameters = [*self.projector.parameters(), *lora]
        for step in range(first, STEPS):
            loss = self.loss(self.draw())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if step % 10 == 0:
                self.record("join", step, loss.item())
            if step % 40 == 39:
                state = {"step": step + 1, "joint": self.joint(), "curve": self.curve}
                state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
                state["rng"] = self.rng.getstate()
                torch.save(state, path)

    @staticmethod
    def adapter(owner: nn.Module, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """The two LoRA matrices of one projection."""
        layer = getattr(owner, name)
        return layer.a, layer.b

    def joint(self) -> dict[str, Tensor]:
        """All trained tensors under the names that `assemble` reads."""
        tensors = {f"projector.{k}": v.detach() for k, v in self.projector.state_dict().items()}
        for key, (owner, name) in self.loras.items():
            a, b = self.adapter(owner, name)
            tensors |= {f"lora.{key}.a": a.detach(), f"lora.{key}.b": b.detach()}
        return tensors

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `joint`."""
        for name, own in self.joint().items():
            own.copy_(tensors[name])

    def record(self, stage: str, step: int, loss: float) -> None:
        """Remember and print one point of the curve."""
        self.curve.append({"stage": stage, "step": step, "loss": round(loss, 4)})
        print(f"{time.strftime('%H:%M:%S')} {stage} {step} loss {loss:.4f}", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Train the joint of the built-in backbone.")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    np.random.default_rng(SEED)
    trainer = BackboneTrainer(options.work)
    if not (options.work / "checkpoint.pt").exists():
        trainer.align()
    trainer.join()
    half = {name: tensor.half().contiguous() for name, tensor in trainer.joint().items()}
    save_file(half, ASSETS / "joint.safetensors", metadata={"seed": str(SEED)})
    (ASSETS / "joint_curve.json").write_text(json.dumps(trainer.curve, indent=0))


if __name__ == "__main__":
    main()
