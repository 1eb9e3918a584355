"""predict, plan, break-even, frontier and teachers: questions that the laws answer without any data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..asking import (
    SCENARIOS,
    budget_from,
    count_from,
    flops_from,
    hardware_from,
    limits_from,
    range_from,
    scenario_from,
    shape_from,
)
from ..files import write_atomically
from .options import (
    hardware_options,
    json_option,
    law_option,
    limit_options,
    output_path,
    ruled,
    scenario_options,
    seed_option,
    shape_options,
    student_from,
    student_option,
)
from .show import bullets, line, nats, print_json, table

if TYPE_CHECKING:
    from ..answer import Plan
    from ..breakeven import BreakEven

__all__ = ["break_even", "frontier", "plan", "predict", "teachers"]

_teacher_option = click.option(
    "--teacher", type=click.Choice(SCENARIOS), help="Who pays for the teacher: nothing, its logits, its training, both."
)


_MOST_PLANS = 1_000_000


def _example(*commands: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  distillscale {command}" for command in commands)


@click.command(
    epilog=_example("predict --student 1B --tokens 20B --teacher-loss 2.1"),
    short_help="Loss of one student, alone and under a teacher.",
)
@student_option
@click.option("--tokens", type=ruled("tokens"), required=True, help="Student training tokens.")
@click.option("--teacher-loss", type=ruled("teacher_loss"), help="Measured teacher loss, nats per token.")
@click.option("--teacher-params", type=ruled("teacher_params"), help="The teacher's size, with --teacher-tokens.")
@click.option("--teacher-tokens", type=ruled("teacher_tokens"), help="The teacher's training tokens.")
@shape_options
@law_option
@seed_option
@json_option
def predict(
    student: str,
    tokens: float,
    teacher_loss: float | None,
    teacher_params: float | None,
    teacher_tokens: float | None,
    context: float | None,
    vocab: float | None,
    total_params: bool,
    law: str,
    seed: int,
    as_json: bool,
) -> None:
    """Loss of one student, alone and under a teacher (the best one where none is given)."""
    from ..predict import predict as predict_
    from ..units import format_count

    who = student_from(student, context=context, vocab=vocab, total_params=total_params)
    if teacher_params is not None:
        teacher_params = count_from(teacher_params, "--teacher-params", vocab, total_params)
    found = predict_(
        law,
        who,
        tokens,
        teacher_loss=teacher_loss,
        teacher_params=teacher_params,
        teacher_tokens=teacher_tokens,
        seed=seed,
    )
    if as_json:
        return print_json(found.to_json())
    rows = [("alone (supervised)", nats(found.supervised_loss, found.supervised_interval))]
    if found.student_loss is not None:
        given = "" if teacher_loss or teacher_params else ", the best there is"
        rows += [
            (
                f"distilled from a teacher of {found.teacher_loss:.3f} nats{given}",
                nats(found.student_loss, found.interval),
            ),
            ("best teacher's loss", nats(found.optimal_teacher_loss)),
            ("regime", found.regime or ""),
        ]
    table((f"{format_count(who.params)} student, {format_count(tokens)} tokens", "nats per token (90 %)"), rows)
    return bullets("Warnings", found.warnings)


@click.command(
    epilog=_example(
        "plan --student 3B --budget 1e21 --teacher inference",
        'plan --student 1B --budget "5000 USD" --teacher both',
        "plan --student 500M --target-loss 2.4 --teacher inference",
    ),
    short_help="Train or distill: the split, verdict, bill and reasons.",
)
@student_option
@click.option("--budget", metavar="BUDGET", help='Total for this student: 1e21, "5000 USD", "2000 H100-hours".')
@click.option("--target-loss", type=ruled("target_loss"), help="In place of a budget: the cheapest way to this loss.")
@_teacher_option
@scenario_options
@limit_options
@shape_options
@hardware_options
@law_option
@seed_option
@json_option
def plan(
    student: str,
    budget: str | None,
    target_loss: float | None,
    teacher: str | None,
    context: float | None,
    vocab: float | None,
    total_params: bool,
    law: str,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train it or distill it: the optimal split of a budget, the verdict, the bill and the reasons.

    The budget is per student and counts everything Eq 9 counts for --teacher. Counts are non-embedding parameters
    unless --total-params is said.
    """
    from ..errors import InputError
    from ..plan import plan as plan_

    hardware, scenario = hardware_from(options), scenario_from(teacher, options)
    limits = limits_from(options, vocab=vocab, total_params=total_params)
    who = student_from(student, context=context, vocab=vocab, total_params=total_params)
    flops = None
    if budget is not None:
        flops, hardware = budget_from(budget, hardware)
    elif target_loss is None:
        raise InputError(
            "--budget is missing; give a budget such as 1e21, or --target-loss for the cheapest plan to it"
        )
    answer = plan_(
        law,
        who,
        flops,
        scenario,
        target_loss=target_loss,
        limits=limits,
        hardware=hardware,
        seed=seed,
        **shape_from(context, vocab),
    )
    if as_json:
        return print_json(answer.to_json())
    return _show_plan(answer)


def _show_plan(answer: Plan) -> None:
    from .. import tell

    gain = tell.gain_told(answer.gain_nats, answer.gain_interval, answer.probability)
    line(f"{tell.HEADLINES[answer.verdict]}. {gain}.", bold=True)
    line()
    table(*tell.plan_table(answer))
    bullets("Reasons", answer.reasons)
    bullets("Warnings", answer.warnings)
    line(tell.priced(answer))


@click.command(
    name="break-even",
    epilog=_example("break-even --student 1B --teacher inference"),
    short_help="The budget where supervised training catches up.",
)
@student_option
@_teacher_option
@click.option(
    "--tolerance",
    type=ruled("tolerance"),
    default=0.01,
    show_default=True,
    help="nats that count as nothing.",
)
@scenario_options
@limit_options
@shape_options
@law_option
@seed_option
@json_option
def break_even(
    student: str,
    teacher: str | None,
    tolerance: float,
    context: float | None,
    vocab: float | None,
    total_params: bool,
    law: str,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """The budget above which supervised training is as good as distillation, or none and why."""
    from ..breakeven import break_even as break_even_

    scenario = scenario_from(teacher, options)
    limits = limits_from(options, vocab=vocab, total_params=total_params)
    who = student_from(student, context=context, vocab=vocab, total_params=total_params)
    found = break_even_(law, who, scenario, limits=limits, tolerance=tolerance, seed=seed, **shape_from(context, vocab))
    if as_json:
        return print_json(found.to_json())
    return _show_break_even(found)


def _show_break_even(found: BreakEven) -> None:
    from .. import tell
    from ..units import format_count

    head = (f"{format_count(found.student_params)} student, teacher cost {found.scenario}", "")
    table(head, tell.break_even_rows(found))
    bullets("Reasons", [found.reason, *(f"popular rule: {caveat}" for caveat in tell.rule_caveats())])
    bullets("Warnings", found.warnings)


@click.command(
    epilog=_example("frontier --students 1B,3B --budgets 1e19:1e24:50 --teacher both"),
    short_help="Optimal plans over a grid, as CSV.",
)
@click.option("--students", required=True, metavar="LIST", help="Counts: 300M,1B,3B or 1e8:1e10:20 (log-spaced).")
@click.option("--budgets", required=True, metavar="LIST", help="Total FLOPs: 1e19:1e24:50 or 1e20,1e21.")
@click.option(
    "--teacher", "scenarios", required=True, metavar="LIST", help="free, inference, pretraining, both, or several."
)
@click.option(
    "--share-students", type=ruled("share_students"), default=1, metavar="K", help="K students share the training."
)
@limit_options
@shape_options
@law_option
@click.option("--out", metavar="FILE", help="Write CSV here instead of to the screen.")
@json_option
def frontier(
    students: str,
    budgets: str,
    scenarios: str,
    share_students: int,
    context: float | None,
    vocab: float | None,
    total_params: bool,
    law: str,
    out: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Optimal plans over a grid of students, budgets and scenarios, as CSV."""
    from ..cost import Scenario
    from ..errors import InputError
    from ..plan import frontier as frontier_
    from ..problem import as_evidence

    path = output_path(out)
    limits = limits_from(options, vocab=vocab, total_params=total_params)
    sizes = range_from(students, "--students", lambda text: count_from(text, "--students", vocab, total_params))
    grid = range_from(budgets, "--budgets", lambda text: flops_from(text, "--budgets"))
    names = [name.strip() for name in scenarios.split(",")]
    if (plans := len(sizes) * len(grid) * len(names)) > _MOST_PLANS:
        raise InputError(f"a frontier has at most {_MOST_PLANS:,} plans; got {plans:,}; take fewer students or budgets")
    found = frontier_(
        as_evidence(law),
        sizes,
        grid,
        [Scenario.named(name, share_students) for name in names],
        limits=limits,
        **shape_from(context, vocab),
    )
    text = found.to_csv()
    if path is not None:
        write_atomically(path, text, "--out")
    if as_json:
        answer = found.summary() | {"out": out} if path else {"rows": found.rows()}
        return print_json(answer | {"warnings": list(found.warnings)})
    if path is None:
        click.echo(text, nl=False)
        for warning in found.warnings:  # beside the table, which a program may be reading
            click.echo(f"warning: {warning}", err=True)
        return None
    s = found.summary()
    line(f"{s['plans']} plan(s) written to {out}; {s['infeasible']} of them infeasible (empty cells).")
    where = ", ".join(f"{s[v]} {v}" for v in ("distill", "supervised", "toss-up"))
    most = "" if s["largest_gain_nats"] is None else f" Largest gain {s['largest_gain_nats']:+.3f} nats."
    line(f"Verdicts: {where}.{most}")
    return bullets("Warnings", found.warnings)


@click.command(epilog=_example("teachers --student 1B --tokens 200B teachers.toml"))
@click.argument("file", metavar="TEACHERS.toml", type=click.Path(path_type=Path))
@student_option
@click.option("--tokens", type=ruled("tokens"), help="Student training tokens.")
@click.option("--budget", metavar="BUDGET", help="In place of tokens: total FLOPs, USD or hours for this student.")
@click.option(
    "--logits-share",
    type=ruled("logits_share"),
    default=1.0,
    show_default=True,
    help="Share of the teachers' forward passes paid for; 0 where their outputs are stored.",
)
@shape_options
@hardware_options
@law_option
@seed_option
@json_option
def teachers(
    file: Path,
    student: str,
    tokens: float | None,
    budget: str | None,
    logits_share: float,
    context: float | None,
    vocab: float | None,
    total_params: bool,
    law: str,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Teachers you own, ranked for one student, with warnings.

    TEACHERS.toml holds [[teacher]] tables with name, params, loss (measured on the student's data) and optionally
    tokens, config, usd_per_million_tokens.
    """
    from .. import tell
    from ..cost import Scenario
    from ..errors import InputError
    from ..teachers import rank_teachers, read_teachers

    hardware = hardware_from(options)
    who = student_from(student, context=context, vocab=vocab, total_params=total_params)
    flops = None
    if budget is not None:
        flops, hardware = budget_from(budget, hardware)
    if (tokens is None) == (flops is None):
        raise InputError("give either --tokens or --budget" + ("" if tokens is None else ", not both"))
    owned = read_teachers(file, total_params_vocab=shape_from(context, vocab)["vocab"] if total_params else None)
    ranked = rank_teachers(
        law,
        who,
        owned,
        tokens=tokens,
        budget=flops,
        scenario=Scenario(logits_share, 0.0),
        hardware=hardware,
        seed=seed,
        **shape_from(context, vocab),
    )
    if as_json:
        return print_json([teacher.to_json() for teacher in ranked])
    table(*tell.teacher_table(ranked))
    line("Losses and gains in nats per token, against supervised training on the same tokens or with equal FLOPs.")
    return bullets("Warnings", tell.teacher_warnings(ranked))
