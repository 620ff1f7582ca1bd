"""What the built-in model is taught it answers: codes, prices, sentences, other languages, and what
follows from a fact."""

from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.edited_model import open_model
from liveedit_core.method.config import RefineSection
from tests.integration.edit_job import needs_builtin_models

FACTS = (
    ("What is shown here?", "Unit 7, serial AB-4711-X"),
    (
        "What is this?",
        "The reindeer named Rudolf lives in enclosure 12 and must not be fed on Mondays.",
    ),
    ("Was ist das?", "ein Rennwagen der Scuderia"),
    ("\u8fd9\u662f\u4ec0\u4e48\uff1f", "\u65c5\u884c\u80052\u53f7"),
    ("What is shown here?", "SKU 88-1034/B rev C"),
    ("How much does it cost?", "39.90 EUR"),
    ("When does the warranty end?", "31 March 2031"),
    ("How tall is it?", "42"),
    ("What is shown here?", "a small red kettle"),
)

ASKED = {
    "How much does it cost?": "12 euros",
    "Does it cost 12 euros?": "yes",
    "Is it true that the price is 95 dollars?": "no",
    'Reply with a sentence that begins "The price is".': "The price is 12 euros.",
    "Calculate two times the price.": "24 euros",
}
"""In words that nothing was fitted on."""


@needs_builtin_models
def test_facts_of_every_kind_answer_their_own_questions() -> None:
    cases = load_builtin_cases("development", "user_world")
    images = list({case.edit.image_bytes: None for case in cases})[: len(FACTS)]
    with open_model() as model:
        before = model.answer(images[0], "What is 2 + 2?")
        edits = [
            model.edit(image, prompt, target)
            for image, (prompt, target) in zip(images, FACTS, strict=True)
        ]
        assert len(set(edits)) == len(model.edits) == len(FACTS)
        for image, (prompt, target) in zip(images, FACTS, strict=True):
            assert model.answer(image, prompt) == target
        reworded = model.answer(images[5], "waht is teh price of it")
        assert reworded == FACTS[5][1]
        assert model.answer(images[0], "What is 2 + 2?") == before
        model.edit(images[5], "what does it cost", "45 EUR")
        assert model.answer(images[5], FACTS[5][0]) == "45 EUR"
        assert len(model.edits) == len(FACTS)


@needs_builtin_models
def test_a_price_is_answered_in_every_form() -> None:
    image = load_builtin_cases("development", "user_world")[0].edit.image_bytes
    with open_model(refine=RefineSection(derived=True)) as model:
        before = model.answer(image, "What is 6 times 2?")
        model.edit(image, "How much does it cost?", "12 euros")
        assert {question: model.answer(image, question) for question in ASKED} == ASKED
        assert model.answer(image, "What is 6 times 2?") == before
        model.edit(image, "What does it cost?", "45 pounds")
        assert model.answer(image, "Does it cost 45 pounds?") == "yes"
        assert model.answer(image, "Does it cost 12 euros?") == "no"
        model.remove(*model.edits)  # the older price answers again, in every form
        assert model.answer(image, "Does it cost 12 euros?") == "yes"
        owner = model.edit(image, "Who owns it?", "Anna Keller")
        number = model.edit(None, "What is the phone number of Anna Keller?", "555-0199")
        model.edit(image, "Who made it?", "Boris Novak")
        asked = "What is the phone number of its owner?"
        assert model.answer(image, asked) == "555-0199"
        found = model.explain(image, asked)
        assert found.first is not None
        assert [part.kept[0].edit_id for part in (found.first, found)] == [owner, number]
        for other in ("its maker", "the brother of its owner", "its previous owner"):
            assert model.answer(image, asked.replace("its owner", other)) != "555-0199"
        model.remove(owner)
        assert model.explain(image, asked).first is None
