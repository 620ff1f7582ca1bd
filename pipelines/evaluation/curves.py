"""Lifelong curves: every case evaluated after N edits, for N = 1, 10, 100, 1 000, over all groups.

An expert depends on its own request alone, so the bank after any N edits is a part of one bank
version. For each N the cases are taken in groups of N, in order, and each case is evaluated against
the N edits of its group. So each point of a curve counts every case, not the first N alone,
including the last, incomplete group.
"""

from collections.abc import Callable, Sequence

from infra.bank.expert_bank import ExpertBank
from infra.tracking.results import ResultsTable
from liveedit_core.schema import Case
from pipelines.evaluation.bank_evaluation import (
    BankEvaluation,
    EvaluationSettings,
    EvaluationTask,
    check_models,
    run_task,
)
from pipelines.job.stages import Evaluator


def lifelong_curves(
    *,
    results: ResultsTable,
    bank: ExpertBank,
    version: int,
    cases: Sequence[Case],
    settings: EvaluationSettings,
    pool: Evaluator,
    sizes: Sequence[int],
    on_progress: Callable[[int, int], None] = lambda num_done, num_units: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[BankEvaluation]:
    """Evaluate the cases that the version holds after each number of edits, or resume where an
    earlier call ended; a number beyond the cases evaluated stands for all of them."""
    facts = pool.describe()
    check_models(bank, facts)
    edit_ids = set(bank.edit_ids(version))
    held = [case for case in cases if case.edit.edit_id in edit_ids]
    # Groups are cut from the evaluated cases, so no group can hold more edits than those.
    num_evaluated = min(len(held), settings.max_cases or len(held))
    curve = []
    for size in sorted({min(size, num_evaluated) for size in sizes} - {0}):
        task = EvaluationTask(
            bank, results, held, settings, version=version, num_edits=size, group_size=size
        )
        curve.append(
            run_task(task, pool, facts.config, on_progress=on_progress, should_stop=should_stop)
        )
        if should_stop():
            break
    return curve
