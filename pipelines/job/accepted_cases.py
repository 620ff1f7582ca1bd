"""The cases that the backbone takes: asked at the start, and again where a forward fails."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.errors import InputError, LiveEditError
from liveedit_core.evaluation.probes import probe_input
from liveedit_core.evaluation.scoring import ProbePreparer, probes_of
from liveedit_core.inputs.datasets import known_good
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case
from liveedit_core.state_source import BackboneStates
from workers.failures import outcomes

_Result = TypeVar("_Result")


def accepted_cases(
    cases: Sequence[Case], backbone: Backbone, say: Callable[[str], None]
) -> list[Case]:
    """The cases whose edits and probes the backbone takes; says which it refuses, and why."""

    def check(case: Case) -> None:
        for item in (*map(edit_input, case.requests), *map(probe_input, case.all_probes())):
            backbone.check_input(item)

    return _sound(cases, check, say)


def on_cases(
    cases: Sequence[Case],
    act: Callable[[list[Case]], _Result],
    check: Callable[[Case], object],
    say: Callable[[str], None],
) -> _Result:
    """What `act` makes of the cases. Where it fails, each is tried alone with `check`: those that
    fail are refused, and `act` begins again with the others.

    The error is raised when no single case is at fault, and when a known-good one fails too.
    """
    left = list(cases)
    while True:
        try:
            return act(left)
        except Exception as error:
            if isinstance(error, LiveEditError) and not isinstance(error, InputError):
                raise
            say(
                f"{type(error).__name__}: {Rejected.from_error(error).message}; each of the "
                f"{len(left):,} cases is tried alone"
            )
            sound = _sound(left, check, say)
            if len(sound) == len(left):
                raise
            left = sound


def answer_alone(backbone: Backbone, case: Case) -> None:
    """Raise what is wrong with a case: its edits and probes through all layers."""
    source = BackboneStates(backbone)
    wanted = probes_of([case], [case.case_id])
    ProbePreparer(backbone).prepare_probes(wanted, max_new_tokens=1, source=source)
    source.states([edit_input(request) for request in case.requests])


def _sound(
    cases: Sequence[Case], check: Callable[[Case], object], say: Callable[[str], None]
) -> list[Case]:
    def checked(chosen: Sequence[Case]) -> list[Case | Exception]:
        for case in chosen:
            check(case)
        return list(chosen)

    good = known_good()
    canary = Case(case_id=good.edit_id, edit=good)
    sound: list[Case] = []
    for case in cases:
        (done,) = outcomes([case], checked, lambda: check(canary))
        if isinstance(done, Exception):
            reason = Rejected.from_error(done).message
            say(f"case {case.case_id[:16]} is refused and left out: {reason}")
        else:
            sound.append(done)
    if cases and not sound:
        raise InputError(f"the backbone refuses all {len(cases)} cases")
    return sound
