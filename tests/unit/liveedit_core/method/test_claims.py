"""What the texts of a question of yes or no and of a fact say about its answer."""

import pytest

from liveedit_core.method.forms.claims import parts, verdict

PROMPTS = {
    "12 euros": "How much does it cost?",
    "31 March": "When does it arrive?",
    "AB-4711": "What is its serial number?",
    "Anna Keller": "Who owns this?",
    "dark red": "Which colour is it?",
    "1.5 kg": "How heavy is it?",
    "in Lisbon": "Where is it made?",
    "4 March 1987": "When was it built?",
    "14 rooms": "How many rooms does it have?",
    "6 pm": "When does it close?",
    "9 to 17": "When is it open?",
}


@pytest.mark.parametrize(
    ("target", "questions"),
    [
        ("12 euros", "Is the price 12 euros?|Isn't it twelve euros?|Kostet es 12 Euro?|\u20ac12?"),
        (
            "31 March",
            "Will it arrive on March 31?|Kommt es am 31. M\u00e4rz?|On the 31st of March?",
        ),
        ("AB-4711", "Is it ab-4711?|Is the serial number AB 4711?|Ist das AB4711?"),
        ("Anna Keller", "Does it belong to Anna Keller?|Geh\u00f6rt es anna keller?"),
        ("1.5 kg", "Does it weigh 1,5 kg?|Is it 1.50 kilograms?"),
        ("in Lisbon", "Is it made in Lisbon, yes or no?"),
        ("12 euros", "Is twelve the price?|Is it 12?|Is it 12 euro?"),
        ("4 March 1987", "Was it built in 1987?|In March?|Was it built in March 1987, or not?"),
        ("6 pm", "Does it close at 6 PM?|Is it 18:00?|Does it close at 6 p.m.?"),
        ("9 to 17", "Is it open from 9 to 17?"),
    ],
)
def test_the_whole_answer_is_right(target: str, questions: str) -> None:
    for question in questions.split("|"):
        assert verdict(question, PROMPTS[target], target) == "yes", question


@pytest.mark.parametrize(
    ("target", "questions"),
    [
        ("12 euros", "Is it 9 euros?|Isn't it 120 euros?|Kostet es 9 Euro?|12 dollars, right?"),
        ("12 euros", "Does it cost 12.50 euros?|Is it 1,200 euros?|Is it nine euros?"),
        ("31 March", "Is it 30 March?|Will it come on 31 May?|Kommt es am 30. M\u00e4rz?"),
        ("AB-4711", "Is it AB-4712?|Is it AC-4711?|Ist es AB-471?"),
        ("Anna Keller", "Is it Anna Kellner's?|Geh\u00f6rt es Anna Kellner?|Is it Hanna Koller?"),
        ("Anna Keller", "Is the owner Anna Berg?|Does Peter Keller own it?|Is it Peter Berg?"),
        ("4 March 1987", "Was it built in 1986?|In April?|Was it built in March 1988?"),
        ("14 rooms", "Does it have fifteen rooms?"),
        ("dark red", "Is it green?|Is it dark blue?|Is the colour light red?"),
        ("1.5 kg", "Is it 15 kg?|Wiegt es 2 kg?|Is it 1.5 g?"),
        ("6 pm", "Does it close at 6 am?|Does it close at 7?|Schlie\u00dft es um 17:00?"),
    ],
)
def test_another_value_is_wrong(target: str, questions: str) -> None:
    for question in questions.split("|"):
        assert verdict(question, PROMPTS[target], target) == "no", question


@pytest.mark.parametrize(
    ("target", "questions"),
    [
        ("12 euros", "Is it 12 euros or 13?|9 or 13 euros?"),
        ("Anna Keller", "Is the owner Anna Keller or Peter Berg?"),
        ("dark red", "Is it blue or red?|Is it green or blue?"),
    ],
)
def test_a_choice_is_no_question_of_yes_or_no(target: str, questions: str) -> None:
    for question in questions.split("|"):
        assert verdict(question, PROMPTS[target], target) == "which", question


@pytest.mark.parametrize(
    ("target", "questions"),
    [
        ("12 euros", "Is it more than 9 euros?|Is it not 12 euros?|Is twice the price 24 euros?"),
        ("12 euros", "Is it cheap?|Is the price of model 7 12 euros?|"),
        ("31 March", "Is it before April?|Is it 31.3.?|Is it 31/03?"),
        ("AB-4711", "Does it end in 2?|Is the serial number Anna Weber?"),
        ("Anna Keller", "Is Keller the owner?|Is it Mrs Keller's?|Is it Anna Keller's brother?"),
        ("Anna Keller", "Is Anna Keller the previous owner?|Was it Anna Keller before?"),
        ("4 March 1987", "Was it built in 1987 or later?|Was it built in the eighties?"),
        ("in Lisbon", "Is it made in Portugal?|Wird es in Lissabon hergestellt?|in or out?"),
        ("1.5 kg", "Does it weigh 1500 g?|Is it lighter than 2 kg?"),
        ("9 to 17", "Is it open at 12?"),
        ("about 12 euros", "Is it 13 euros?"),
        ("the", "Is it the 12th?"),
    ],
)
def test_else_nothing_is_said(target: str, questions: str) -> None:
    for question in questions.split("|"):
        assert verdict(question, PROMPTS.get(target, "What is it?"), target) is None, question


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("1.500", {"1.5", "1500"}),
        ("1,234.50", {"1234.5"}),
        ("1 200", {"1200"}),
        ("1.2.3", {"1.2.3"}),
        ("-5", {"-5"}),
        ("007", {"007"}),
        ("18:30", {"18:30", "6:30"}),
        ("6 pm", {"18:00", "18", "6"}),
        ("3rd", {"3"}),
        ("99" * 400 + ".50", {"99" * 400 + ".5"}),
    ],
)
def test_readings_of_a_number(text: str, readings: set[str]) -> None:
    (part,) = parts(text)
    assert part.readings == readings
