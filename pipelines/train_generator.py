#!/usr/bin/env python
"""Train a generator on states that are computed once.

The training split of EmblemEdit is encoded to the edit layer (and kept in the run folder), then the
phases of the recipe run one after another: visual key, prompt key, experts, joint. Interrupt it at
any time; the same command goes on from the last checkpoint with the same numbers.

    python pipelines/train_generator.py [--recipe FILE.toml] [SECTION.FIELD=VALUE ...]
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "train_generator.toml"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="train_generator.py", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and stop")
    parser.add_argument("overrides", nargs="*", help="dotted overrides, like experts.steps=100")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from liveedit_core.errors import LiveEditError
    from pipelines.config import TrainRecipe, load_recipe, to_toml

    options = parse(arguments)
    try:
        recipe = load_recipe(TrainRecipe, options.recipe, options.overrides)
        if options.dry_run:
            print(to_toml(recipe))
            return 0
        return train(recipe)
    except LiveEditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def train(recipe: "TrainRecipe") -> int:  # type: ignore[name-defined]  # noqa: F821
    """Prepare the material, run the phases, write the checkpoint."""
    from liveedit_core.builtin.backbone import load_builtin_backbone
    from liveedit_core.generator import save_generator
    from pipelines.config import to_toml
    from pipelines.training_loop import GeneratorTrainer
    from pipelines.training_material import prepare_material

    folder = recipe.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(to_toml(recipe))
    backbone = load_builtin_backbone(batch_size=32)
    material = prepare_material(recipe, backbone, folder / "material")
    trainer = GeneratorTrainer(recipe, backbone, material, folder)
    trainer.run()
    generator = trainer.generator.half() if recipe.checkpoint.is_half else trainer.generator
    digest = save_generator(generator, folder / "generator")
    (folder / "generator" / "curve.json").write_text(json.dumps(trainer.curve))
    print(f"generator {digest[:16]} written to {folder / 'generator'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
