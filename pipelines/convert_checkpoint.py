#!/usr/bin/env python
"""Convert generator checkpoints between the authors' layout and ours, and MiniGPT-4 to BLIP-2's.

    convert_checkpoint.py to-ours FILE.pt FOLDER --edit-layer N
    convert_checkpoint.py to-authors FOLDER FILE.pt
    convert_checkpoint.py minigpt4 FILE.pth FOLDER --blip2 FOLDER --llama FOLDER

Ours is a folder with generator.safetensors and config.json, theirs one torch.save file with
`train_modules`. Shapes are read from the tensors and checked against the options. config.json says
that their generators were trained on raw prompts (prompt_protocol "paper"): use them with
`--protocol paper`.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.job import entry

CHECKED = ("hidden_size", "num_image_tokens", "module_dim", "num_queries", "rank")
"""Fields that follow from the tensors; an option that differs is an error."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ours = commands.add_parser("to-ours", help="their file -> our folder")
    ours.add_argument("source", type=Path, metavar="FILE.pt")
    ours.add_argument("target", type=Path, metavar="FOLDER")
    ours.add_argument("--edit-layer", type=int, required=True, help="l_e, 0-based")
    ours.add_argument("--num-attention-heads", type=int, default=8, help="of cross attention (8)")
    ours.add_argument("--expert-scale", type=float, default=5.0, help="divisor of experts (5)")
    ours.add_argument("--max-gigabytes", type=float, default=8.0, help="refuse larger files (8)")
    for name in CHECKED:
        option = f"--{name.replace('_', '-')}"
        ours.add_argument(option, type=int, metavar="N", help="stop if the tensors say otherwise")
    theirs = commands.add_parser("to-authors", help="our folder -> their file")
    theirs.add_argument("source", type=Path, metavar="FOLDER")
    theirs.add_argument("target", type=Path, metavar="FILE.pt")
    minigpt4 = commands.add_parser("minigpt4", help="MiniGPT-4's file -> a backbone folder")
    minigpt4.add_argument("source", type=Path, metavar="FILE.pth")
    minigpt4.add_argument("target", type=Path, metavar="FOLDER")
    for name, model in (("--blip2", "BLIP-2 model"), ("--llama", "Llama that it was trained with")):
        minigpt4.add_argument(name, type=Path, required=True, metavar="FOLDER", help=f"the {model}")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.exit_code_of(lambda: convert(options))


def convert(options: argparse.Namespace) -> int:
    commands = {"to-ours": to_ours, "to-authors": to_authors, "minigpt4": from_minigpt4}
    print(commands[options.command](options))
    return 0


def to_ours(options: argparse.Namespace) -> str:
    from liveedit_core.errors import ConfigError
    from liveedit_core.method.authors_checkpoint import read_authors_checkpoint
    from liveedit_core.method.generator import save_generator

    generator = read_authors_checkpoint(
        options.source,
        edit_layer=options.edit_layer,
        num_attention_heads=options.num_attention_heads,
        expert_scale=options.expert_scale,
        max_bytes=int(options.max_gigabytes * 1e9),
    )
    for name in CHECKED:
        stated, found = getattr(options, name), getattr(generator.config, name)
        if stated is not None and stated != found:
            raise ConfigError(
                f"{name}: the option says {stated}, the tensors of the file say {found}"
            )
    generator.config = generator.config.with_changes(prompt_protocol="paper")  # as they train
    digest = save_generator(generator, options.target)
    shapes = ", ".join(f"{name} {getattr(generator.config, name)}" for name in CHECKED)
    return f"generator {digest[:16]} written to {options.target} ({shapes})"


def from_minigpt4(options: argparse.Namespace) -> str:
    from liveedit_core.backbones.minigpt4 import convert_minigpt4

    folder = convert_minigpt4(options.source, options.blip2, options.llama, options.target)
    return f"{folder} written: use it as the name of a backbone"


def to_authors(options: argparse.Namespace) -> str:
    from liveedit_core.method.authors_checkpoint import write_authors_checkpoint
    from liveedit_core.method.generator import load_generator

    generator = load_generator(options.source)
    write_authors_checkpoint(generator, options.target)
    config = generator.config
    return (
        f"{options.target} written; their format has no edit layer ({config.edit_layer}), heads "
        f"({config.num_attention_heads}) and scale ({config.expert_scale:g}): keep them beside it"
    )


if __name__ == "__main__":
    sys.exit(main())
