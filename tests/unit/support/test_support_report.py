"""The demo's proof must be able to fail: each promise is broken once on purpose."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from examples.support.demo.report import Attempt, BilledCall, Evidence, PeopleBooks, ShopChange, ShopRefund, TicketRun, judge

KILL = 100.0
CENT = Decimal("0.01")

# Two tickets. `a` was hit by the kill in its second step: billed, charged as unknown, called again after the restart.
SOUND = Evidence(
    tickets=("a", "b"),
    runs=(TicketRun("a", "run-a", "completed"), TicketRun("b", "run-b", "completed")),
    billed=(
        BilledCall("run-a:1", 90, 92),
        BilledCall("run-a:2", 99, 100.1),
        BilledCall("run-a:2", 106, 108),
        BilledCall("run-b:1", 91, 94),
    ),
    ledger=(
        Attempt("run-a", 1, "recorded", 90, 92, CENT),
        Attempt("run-a", 2, "unknown", 99, 106, 3 * CENT),
        Attempt("run-a", 2, "recorded", 106, 108, CENT),
        Attempt("run-b", 1, "recorded", 91, 94, CENT),
    ),
    refunds=(ShopRefund("#W1", "refund:#W1"), ShopRefund("#W2", "refund:#W2")),
    changes=(ShopChange("cancelled", "cancel:#W2"), ShopChange("escalated", "run-b:3")),
    kills=(KILL,),
    people=PeopleBooks(asked=3, approved=2, rejected=1, letters_filed=1, letters_redriven=1, audit_rows=4, ordered=4),
)


def test_sound_books_keep_every_promise_and_count_the_call_in_the_air_apart():
    proof = judge(SOUND)
    assert proof.broken == ()
    assert proof.exit_code == 0
    assert (proof.tickets, proof.finished, proof.parked, proof.lost) == (2, 2, 0, 0)
    assert (proof.answers_paid_twice, proof.calls_in_the_air_at_kill, proof.refunds_done_twice) == (0, 1, 0)
    assert (proof.kills, proof.recovery_s) == (1, 6.0)
    assert (proof.cost_usd, proof.unknown_usd) == (0.06, 0.03)
    assert (proof.approvals_asked, proof.approvals_given, proof.approvals_rejected) == (3, 2, 1)
    assert (proof.letters_filed, proof.letters_redriven, proof.audit_rows) == (1, 1, 4)


def test_a_ticket_without_a_run_is_lost():
    proof = judge(replace(SOUND, runs=SOUND.runs[:1]))
    assert (proof.lost, proof.exit_code) == (1, 1)


def test_a_run_that_still_runs_or_failed_is_lost():
    for status in ("running", "failed", "cancelled", None):
        assert judge(replace(SOUND, runs=(SOUND.runs[0], TicketRun("b", "run-b", status)))).lost == 1


def test_a_parked_run_is_not_lost():
    proof = judge(replace(SOUND, runs=(SOUND.runs[0], TicketRun("b", "run-b", "parked"))))
    assert (proof.finished, proof.parked, proof.lost, proof.exit_code) == (1, 1, 0, 0)


def test_an_answer_paid_twice_far_from_a_kill_breaks_the_promise():
    proof = judge(
        replace(
            SOUND,
            billed=(*(SOUND.billed or ()), BilledCall("run-b:1", 95, 97)),
            ledger=(*SOUND.ledger, Attempt("run-b", 1, "superseded", 95, 97, CENT)),
        )
    )
    assert (proof.answers_paid_twice, proof.exit_code) == (1, 1)


def test_a_repeated_call_is_not_excused_by_a_kill_that_it_did_not_meet():
    early = (BilledCall("run-a:2", 95, 98.5), *(call for call in SOUND.billed or () if call.received_at != 99))
    assert judge(replace(SOUND, billed=early)).answers_paid_twice == 1


def test_a_repeated_call_is_not_excused_when_the_ledger_does_not_show_it_as_unknown_spend():
    ledger = tuple(replace(attempt, state="superseded") if attempt.state == "unknown" else attempt for attempt in SOUND.ledger)
    assert judge(replace(SOUND, ledger=ledger)).answers_paid_twice == 1


def test_one_call_in_the_air_excuses_one_repetition_only():
    proof = judge(
        replace(
            SOUND,
            billed=(*(SOUND.billed or ()), BilledCall("run-a:2", 109, 111)),
            ledger=(*SOUND.ledger, Attempt("run-a", 2, "superseded", 109, 111, CENT)),
        )
    )
    assert proof.answers_paid_twice == 1


def test_without_a_kill_nothing_excuses_a_repetition():
    assert judge(replace(SOUND, kills=())).answers_paid_twice == 1


def test_a_billed_call_that_the_ledger_does_not_know_breaks_the_promise():
    proof = judge(replace(SOUND, billed=(*(SOUND.billed or ()), BilledCall("run-c:1", 95, 97))))
    assert (proof.billed_calls_not_in_ledger, proof.exit_code) == (1, 1)


def test_an_answer_that_the_dead_worker_had_just_received_counts_as_in_the_air():
    billed = tuple(replace(call, finished_at=99.9) if call.received_at == 99 else call for call in SOUND.billed or ())
    assert judge(replace(SOUND, billed=billed)).broken == ()


def test_a_real_provider_has_no_journal_and_the_ledger_stands_alone():
    proof = judge(replace(SOUND, billed=None))
    assert (proof.answers_paid_twice, proof.calls_in_the_air_at_kill, proof.billed_calls) == (0, 1, None)
    assert judge(replace(SOUND, billed=None, kills=())).answers_paid_twice == 1


def test_a_refund_done_twice_breaks_the_promise_even_under_another_key():
    for key in ("refund:#W1", "another"):
        proof = judge(replace(SOUND, refunds=(*SOUND.refunds, ShopRefund("#W1", key))))
        assert (proof.refunds_done_twice, proof.exit_code) == (1, 1)


def test_another_change_done_twice_breaks_the_promise():
    proof = judge(replace(SOUND, changes=(*SOUND.changes, SOUND.changes[0])))
    assert (proof.other_effects_done_twice, proof.exit_code) == (1, 1)


def test_a_refund_above_the_limit_that_nobody_agreed_to_breaks_the_promise():
    proof = judge(replace(SOUND, people=replace(SOUND.people, refunds_without_a_yes=1)))
    assert (proof.refunds_without_a_yes, proof.exit_code) == (1, 1)


def test_an_order_that_the_audit_record_does_not_hold_breaks_the_promise():
    proof = judge(replace(SOUND, people=replace(SOUND.people, audit_rows=3)))
    assert (proof.orders_missing_in_audit, proof.exit_code) == (1, 1)


def test_recovery_is_told_from_the_next_call_when_the_kill_cut_none_off():
    ledger = tuple(attempt for attempt in SOUND.ledger if attempt.state != "unknown")
    proof = judge(replace(SOUND, ledger=ledger, billed=tuple(call for call in SOUND.billed or () if call.received_at != 99)))
    assert (proof.calls_in_the_air_at_kill, proof.recovery_s, proof.exit_code) == (0, 6.0, 0)


def test_the_last_line_holds_every_figure_that_was_promised():
    promised = {
        "tickets",
        "finished",
        "parked",
        "lost",
        "answers_paid_twice",
        "calls_in_the_air_at_kill",
        "refunds_done_twice",
        "kills",
        "recovery_s",
        "cost_usd",
        "approvals_given",
        "approvals_rejected",
        "letters_filed",
        "letters_redriven",
        "audit_rows",
    }
    assert promised <= judge(SOUND).as_json().keys()
