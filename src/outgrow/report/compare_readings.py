"""Two more ways to read a study: seed by seed, and as papers read their runs, each named with what it leaves out."""

from __future__ import annotations

from outgrow.comparing.result import StudyResult
from outgrow.comparing.saving import seeds_for
from outgrow.report.compare_cells import mean_cell, percent, saved_cell
from outgrow.text.numbers import amount
from outgrow.text.table import TextTable

NEAR = 0.05
"""Half an interval that tells a saving worth the trouble from none."""
PAIRED = (
    "arm",
    "budget",
    "saved, seed by seed",
    "saved, paired",
    "saved, of two means",
    "loss difference, paired",
    "loss difference, of two means",
    f"seeds for ± {100 * NEAR:.0f} points",
)
PAIRED_NOTE = (
    "Seed i of every arm saw the same data in the same order. Seed by seed: each seed's FLOPs saved, read off its own frontier of the "
    "baseline. Paired: their mean, ± Student's t · s / √n, 90 %. Loss difference: nats at equal FLOPs, the arm's minus the "
    "baseline's. Of two means: the same, as if the seeds of both arms had nothing in common (draws apart; Welch). A seed outside its "
    "baseline's frontier leaves no paired mean: one without it would choose seeds. Seeds: how many would bring the first table's interval of FLOPs saved there, "
    "by the spread of these; for planning a study, not for stopping one."
)
STOPPED = ("arm", "seeds", "leader", "behind", "tokens not trained")
READINGS = (
    "arm",
    "budget",
    "tokens",
    "this report",
    "speed-up at equal loss",
    "small model sunk",
    "undecayed",
    "at optimality",
    "saved at equal steps",
    "speed-up at equal steps",
    "loss difference",
)
READINGS_NOTE = (
    "FLOPs saved, 90 % over seeds in brackets. Only the first is at equal decayed loss with everything counted; the table below says what each leaves out. "
    "Tokens: all stages. Loss difference: at equal steps, above 0 worse than the baseline, in nats: what that saving was paid with."
)
LEGEND = ("reading", "exactly", "leaves out", "papers that read so")
_MEANINGS = (
    (
        "this report",
        "1 - C / C of the baseline at equal loss after a full decay, the small stages and the growth counted",
        "the sweep of learning rates, by the same rule for every arm",
        "",
    ),
    (
        "speed-up at equal loss",
        "C of the baseline / C - 1, else as this report",
        "nothing, but is a larger number: a speed-up of 54.6 % saves 35.3 %",
        "G_stack: 54.6 % at 7 B (2405.15319), rates not fully decayed",
    ),
    (
        "small model sunk",
        "as this report, the stages before the last taken as free",
        "what the small model cost: counted, LiGO's 44.7 % is 17.4 % (2404.07999)",
        "LiGO: 44.7 % BERT-Base, 22.5 % GPT2-Medium, 55.4 % DeiT-B; in its table StackBERT 34.1 %, bert2BERT 29.0 % (2303.00980)",
    ),
    (
        "undecayed",
        "1 - C / C of the baseline at equal loss of both trunks, at the peak rate",
        "the decay, which does not give both arms the same",
        "G_stack (2405.15319), Staged Training (2203.06211)",
    ),
    (
        "at optimality",
        "undecayed, at the one loss where the baseline's slope d ln L / d ln C rises to -0.052; mean over seeds, paired",
        "the decay, and every later loss: the earlier, the larger a saving is",
        "Staged Training: up to 22 % (2203.06211)",
    ),
    (
        "equal steps",
        "1 - C / C of the baseline, or C of the baseline / C - 1, on as many tokens, small stages included",
        "the loss: the arm may end worse, by the loss difference",
        "SPARKLING: 20 to 35 % saved (2602.02472)",
    ),
)


def paired_table(result: StudyResult) -> TextTable:
    """Arms that grow against the baseline seed by seed; no row where there is one seed."""
    return TextTable("Seed by seed", PAIRED, _paired_rows(result), PAIRED_NOTE)


def stopped_table(result: StudyResult) -> TextTable:
    """Arms that the look of `early_stop` left behind; no row where none was declared."""
    early = result.study.early_stop
    rows: list[tuple[str, ...]] = [
        (
            one.arm,
            f"{len(one.seeds)} of {len(result.study.seeds)}",
            one.leader,
            mean_cell(one.difference, scale=100, unit=" points"),
            amount(one.spared_tokens),
        )
        for one in result.stopped
    ]
    count = len(rows)
    if early is not None and not rows:
        rows = [("none", f"{early.after} of {len(result.study.seeds)}", "", "", "")]
    looked = sum(not config.is_scratch for config in result.study.arms.values())
    note = (
        f"By the study's early_stop: one look at {looked} arms that grow, {count} stopped. Behind: the arm's saving minus the leader's at their largest "
        "budgets, seed by seed, 90 %; it is stopped where that lies below 0. An arm as good as the leader is stopped by chance in about "
        "one of twenty looks, and more often behind a leader that was lucky."
    )
    return TextTable("Stopped early", STOPPED, rows, note)


def readings_table(result: StudyResult) -> TextTable:
    """Arms that grow, read in every way that is called a saving."""
    return TextTable(
        "The same runs, read as papers read theirs", READINGS, _reading_rows(result), READINGS_NOTE
    )


def legend(readings: TextTable) -> TextTable:
    """What each reading leaves out; no row where nothing is read."""
    note = "Figures of papers are theirs, of their models and data."
    rows = _MEANINGS if readings.rows else ()
    return TextTable("What each reading leaves out", LEGEND, rows, note, numbers=False)


def _paired_rows(result: StudyResult) -> list[tuple[str, ...]]:
    if len(result.study.seeds) < 2:
        return []
    flops, paired, apart = result.savings("flops"), result.paired(), result.savings_of_two_means()
    rows: list[tuple[str, ...]] = []
    for arm in _grown(result):
        for place, budget in enumerate(result.study.arm_budgets(arm)):
            one = paired[arm][place]
            needed = seeds_for(flops[arm][place], len(result.seeds_of(arm)), NEAR)
            rows.append(
                (
                    arm,
                    amount(budget),
                    ", ".join(
                        "outside" if saving is None else f"{100 * saving:.1f}" for saving in one.savings
                    ),
                    mean_cell(one.saving, scale=100, unit=" %"),
                    saved_cell(apart[arm][place]),
                    mean_cell(one.loss, form="+.4f"),
                    mean_cell(one.loss_of_two_means, form="+.4f"),
                    "" if needed is None else f"{needed}",
                )
            )
    return rows


def _reading_rows(result: StudyResult) -> list[tuple[str, ...]]:
    flops, sunk, equal = result.savings("flops"), result.savings("flops_sunk"), result.equal_tokens()
    undecayed, at_optimality = result.undecayed_savings(), result.saved_at_optimality()
    reached = result.optimality() is not None
    rows: list[tuple[str, ...]] = []
    for arm in _grown(result):
        for place, budget in enumerate(result.study.arm_budgets(arm)):
            one, steps = flops[arm][place], equal[arm][place]
            optimal = mean_cell(at_optimality[arm], scale=100, unit=" %") if reached else "baseline too short"
            rows.append(
                (
                    arm,
                    amount(budget),
                    amount(steps.tokens),
                    saved_cell(one),
                    one.side if one.speed_up is None else percent(one.speed_up),
                    saved_cell(sunk[arm][place]),
                    saved_cell(undecayed[arm][place]),
                    optimal if place == 0 else "",
                    "outside" if steps.saving is None else percent(steps.saving),
                    "outside" if steps.speed_up is None else percent(steps.speed_up),
                    "" if steps.loss_difference is None else f"{steps.loss_difference:+.4f}",
                )
            )
    return rows


def _grown(result: StudyResult) -> list[str]:
    return [arm for arm, config in result.study.arms.items() if not config.is_scratch]
