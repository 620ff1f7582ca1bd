"""Exported experts in plain PyTorch, routed as in the paper: to port to other runtimes."""

import json
from math import sqrt

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

PAPER = {"visual_source": "edit_layer", "prompt_source": "edit_layer", "visual_filter": "sentinel",
         "soft_routing": "prompt", "has_hard_filter": True, "max_kept": 0, "min_gate": 0.0,
         "visual_gate": 0.0}  # fmt: skip


class ExportedExperts:
    """The experts of a file of `exported_experts.py`, for one question at a time."""

    def __init__(self, file: str) -> None:
        with safe_open(file, "pt") as opened:
            self.tensors: dict[str, Tensor] = {n: opened.get_tensor(n) for n in opened.keys()}  # noqa: SIM118
            self.config = json.loads(opened.metadata()["config"])
        if others := {k: self.config[k] for k in PAPER if self.config.get(k, PAPER[k]) != PAPER[k]}:
            raise ValueError(
                f"{others}: this reader routes as in the paper; `residual` is the same"
            )

    def _norm(self, name: str, rows: Tensor) -> Tensor:
        weight, bias = (self.tensors[f"{name}.{part}"] for part in ("weight", "bias"))
        return functional.layer_norm(rows, rows.shape[-1:], weight, bias)

    def _attend(self, name: str, query: Tensor, context: Tensor) -> Tensor:
        heads = []
        for part, rows in (("q", query), ("k", context), ("v", context)):
            weight, bias = (self.tensors[f"{name}.{part}_proj.{w}"] for w in ("weight", "bias"))
            split = functional.linear(rows, weight, bias)
            split = split.unflatten(-1, (self.config["num_attention_heads"], -1))
            heads.append(split.transpose(0, 1))
        return functional.scaled_dot_product_attention(*heads).transpose(0, 1).flatten(1)

    def weights(self, image: Tensor, prompt: Tensor) -> Tensor:
        """Of each expert, [N], by the hidden states at l_e of image [I, D] and prompt [P, D]."""
        phi, psi, sentinel = (self.tensors[f"router.{n}"][0] for n in ("phi", "psi", "sentinel"))
        asked = self._attend("router.psi_attention", psi, self._norm("router.prompt_norm", prompt))
        if self.config["visual_query"] == "prompt":
            rows = self._norm("router.visual_norm", prompt)
            phi = self._attend("router.phi_prompt_attention", phi, rows)
        images = [self._norm("router.visual_norm", rows) for rows in (image, sentinel)]
        seen, least = (self._attend("router.phi_image_attention", phi, rows) for rows in images)
        unit = self.config["num_queries"] * sqrt(self.config["module_dim"])
        kept = self.tensors["visual"] @ seen.flatten() > (seen * least).sum()  # Eq. 5
        scores = self.tensors["prompt"] @ asked.flatten() / unit
        shares = scores.masked_fill(~kept, -torch.inf).softmax(0).nan_to_num(0.0)
        return torch.mul(shares, scores.sigmoid())  # Eq. 7

    def residual(self, hidden: Tensor, weights: Tensor) -> Tensor:
        """What is added to hidden states [..., D] at l_e (Eq. 6)."""
        active = torch.relu(self._norm("norm", hidden) @ self.tensors["down"].T)
        slots = weights.repeat_interleave(self.tensors["rank"])
        return torch.mul((active * slots) @ self.tensors["up"], self.config["gain"])
