"""Lifelong curves: every case asked after N edits, for N = 1, 10, 100, 1 000, over all groups.

An expert depends on its own request alone, so the bank after any N edits is a part of one bank
version. For each N the cases are taken in groups of N, in their order, and each case is asked
against the N edits of its group. So each point of a curve counts every case, not the first N alone,
and the last, incomplete group as well.
"""

from collections.abc import Callable, Sequence

from infra.bank.expert_bank import ExpertBank
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.schema import Case
from pipelines.evaluation.bank_evaluation import (
    BankEvaluation,
    EvaluationSettings,
    EvaluationTask,
    check_models,
    finish,
    plan_evaluation,
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
    """Score cases after so many edits each, or go on where an earlier call was ended.

    Args:
        results: Takes the results.
        bank: Holds the version.
        version: Which one.
        cases: In the order of teaching; those whose edits the version does not hold are left out.
        settings: How much of them is asked, and how.
        pool: Scores; with the models that the bank was made with.
        sizes: Numbers of edits; one beyond the number of cases asked stands for all of them.
        on_progress: Is told the pieces of work done and all of them, for each point anew.
        should_stop: Asked as results come; True ends with what is there.

    Returns:
        One evaluation a point, by number of edits.
    """
    facts = pool.describe()
    check_models(bank, facts)
    held = set(bank.edit_ids(version))
    taught = [case for case in cases if case.edit.edit_id in held]
    # Groups are cut from the cases that are asked: no group can hold more edits than those.
    num_asked = min(len(taught), settings.max_cases or len(taught))
    curve = []
    for size in sorted({min(size, num_asked) for size in sizes} - {0}):
        key = EvaluationKey(bank=bank.name, bank_version=version, num_edits=size, group_size=size)
        plan = plan_evaluation(taught, settings, group_size=size)
        seed, matrices = settings.seed, settings.matrices
        replay = EvaluationTask(bank, results, plan, key=key, seed=seed, matrices=matrices)
        finish(replay, pool, facts.config, on_progress=on_progress, should_stop=should_stop)
        curve.append(replay.evaluation())
        if should_stop():
            break
    return curve
