"""One batch at a time, on real PostgreSQL: who hands it in, what a provider may say to that, and what becomes of its requests."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from decimal import Decimal

import pytest
from temporalio.testing import ActivityEnvironment

from activities.inference.batch_courier import MAX_TRIES, MAX_TROUBLES
from activities.inference.call_in_batch import BatchActivities
from activities.inference.gateway import Gateway
from activities.inference.providers.batch_api import Submission
from activities.inference.providers.scripted import Script, ScriptedModel
from activities.inference.providers.scripted_batches import ScriptedBatches
from activities.inference.routing import Router
from state import batches, model_calls, transcripts
from state.batches import Lease
from state.definitions import Definitions
from state.pool import Database
from state.runs import books as books_of
from tests.integration.state.ledger import new_run
from workflows.contracts.agents import AgentDefinition, Limits
from workflows.contracts.batches import BatchLook, BatchPlace, BatchState
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import BatchSettings, InferenceSettings, Priority
from workflows.contracts.messages import ModelResponse, Usage
from workflows.contracts.provider_settings import ModelSettings, ProviderEntry
from workflows.contracts.steps import Appendix, ModelCallRequest

PRICE = ModelSettings(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(1_000), context_window_tokens=10_000)
ANSWER = ModelResponse(model="m", text="the answer", finish="stop", usage=Usage(input_tokens=1_000, output_tokens=10))
COST_USD = Decimal("0.0055")
"""Half of 1,000 tokens in and 10 out."""
STEP = 3
AWAY = Lease("a worker that died", 0.0)


@dataclass
class Post:
    """The activities over a scripted provider with a Batch API, and runs that use them."""

    database: Database
    activities: BatchActivities
    api: ScriptedBatches
    definition: AgentDefinition

    async def submit(self, run_id: str, *appendices: Appendix) -> BatchPlace:
        request = self.request(run_id).model_copy(update={"appendices": appendices})
        found = await ActivityEnvironment().run(self.activities.submit_batch, request)
        assert isinstance(found, BatchPlace)
        return found

    async def place(self) -> tuple[str, int]:
        """A new run with a place."""
        run_id = await new_run(self.database, 5)
        place = await self.submit(run_id)
        assert place.call_id is not None
        return run_id, place.call_id

    async def collect(self, run_id: str, call_id: int, *, at_once: bool = False) -> BatchState:
        look = BatchLook(call=self.request(run_id), call_id=call_id, at_once=at_once)
        found = await ActivityEnvironment().run(self.activities.collect_batch, look)
        assert isinstance(found, BatchState)
        return found

    async def leave(self, run_id: str, call_id: int) -> None:
        await ActivityEnvironment().run(self.activities.leave_batch, BatchLook(call=self.request(run_id), call_id=call_id))

    def request(self, run_id: str) -> ModelCallRequest:
        return ModelCallRequest(run_id=run_id, step=STEP, agent=self.definition.pin(), tenant="default", priority=Priority.BATCH)

    async def states(self, run_id: str) -> list[tuple[str, bool, Decimal]]:
        return [(each.state, each.batch, each.cost_usd) for each in await model_calls.charges(self.database, run_id)]


async def posted(database: Database, answers: list[Script], **settings: object) -> Post:
    name = f"own{uuid.uuid4().hex[:6]}"  # tests share a database: what is gathered for one must not go into another's batch
    found = InferenceSettings(
        providers={name: ProviderEntry(dialect="openai")},
        models={f"{name}:m": PRICE},
        tiers={"smart": (f"{name}:m",)},
        batch=BatchSettings.model_validate({"gather_s": 0, "submit_timeout_s": 0.2, "first_look_s": 0.001} | settings),
    )
    model = ScriptedModel(answers, name=name, in_batches=True)
    assert model.batches is not None
    definitions = Definitions(database)
    definition = AgentDefinition(name="support", instructions="Help.", limits=Limits(cost_usd=Decimal(5)))
    await definitions.register([definition], by="test")
    gateway = Gateway(database, Router(found), {name: model})
    return Post(database, BatchActivities(gateway, definitions), model.batches, definition)


@pytest.fixture
async def post(guarded: Database) -> Post:
    return await posted(guarded, [ANSWER] * 8)


async def test_an_answer_is_recorded_at_half_the_price_for_every_run_of_the_batch_by_whoever_looks(post: Post) -> None:
    (first, its_call), (second, other_call) = await post.place(), await post.place()
    assert await post.collect(first, its_call) == BatchState(handed_in_at=(await _standing(post, its_call)).sent_at)
    (handed_in,) = post.api.submitted
    assert [item.custom_id.rpartition("_")[2] for item in handed_in.items] == [str(its_call), str(other_call)]
    assert all(len(item.custom_id) <= 64 for item in handed_in.items)

    state = await post.collect(first, its_call)
    assert state.turn is not None
    assert (state.turn.cost_usd, state.turn.preview, state.turn.simulated) == (COST_USD, "the answer", True)
    for run_id in (first, second):
        assert await post.states(run_id) == [("recorded", True, COST_USD)]
        books = await books_of(post.database, run_id)
        assert (books.spent_usd, books.reserved_usd) == (COST_USD, 0)
    assert (await post.collect(second, other_call)).turn is not None
    assert (await post.collect(first, its_call)).turn == state.turn, "an answer is given again, and not paid again"
    assert await post.database.fetchval("select count(*) from batch_requests where call is not null") == 0


async def test_a_step_has_one_place_however_often_it_asks_and_what_came_meanwhile_is_written_down(post: Post) -> None:
    run_id, call_id = await post.place()
    result = Appendix(step=2, call_id="c1", name="find_order", text="on its way")
    assert (await post.submit(run_id, result)).call_id == call_id
    assert await post.states(run_id) == [("in_flight", True, 0)]
    assert "on its way" in [entry.message.text for entry in await transcripts.entries(post.database, run_id)]


async def test_a_call_that_was_begun_and_never_gathered_is_given_back(post: Post) -> None:
    run_id, call_id = await post.place()
    await post.database.execute("delete from batch_requests where call_id = $1", call_id)
    assert (await post.submit(run_id)).call_id not in (None, call_id)
    assert await post.states(run_id) == [("failed", True, 0), ("in_flight", True, 0)]


async def test_many_who_look_at_once_hand_one_batch_in(post: Post) -> None:
    placed = [await post.place() for _ in range(6)]
    await asyncio.gather(*(post.collect(*each) for each in placed))
    assert [len(each.items) for each in post.api.submitted] == [6]


async def test_a_batch_holds_no_more_requests_than_it_may(guarded: Database) -> None:
    post = await posted(guarded, [ANSWER] * 4, max_requests=2)
    placed = [await post.place() for _ in range(4)]
    await post.collect(*placed[-1])
    await post.collect(*placed[0])
    await post.collect(*placed[1])
    calls = [[int(item.custom_id.rpartition("_")[2]) for item in each.items] for each in post.api.submitted]
    assert calls == [[placed[0][1], placed[3][1]], [placed[1][1], placed[2][1]]]


async def test_a_batch_that_its_worker_left_in_the_middle_is_looked_for_before_it_is_handed_in(post: Post) -> None:
    run_id, call_id = await post.place()
    batch = await batches.gather(post.database, call_id, AWAY, 10)
    assert batch is not None
    await post.collect(run_id, call_id)
    assert [each.batch_id for each in post.api.submitted] == [batch.batch_id], "it was surely not there"

    other, other_call = await post.place()
    taken_in = await batches.gather(post.database, other_call, AWAY, 10)
    assert taken_in is not None
    await post.api.submit(_submission(post, taken_in.batch_id))
    await post.collect(other, other_call)
    assert len(post.api.submitted) == 2, "it was there, and is not handed in again"
    assert (await post.collect(other, other_call, at_once=True)).turn is not None


async def test_nobody_touches_a_batch_that_somebody_holds(post: Post) -> None:
    run_id, call_id = await post.place()
    await batches.gather(post.database, call_id, Lease("another worker", 60), 10)
    assert await post.collect(run_id, call_id) == BatchState()
    assert post.api.submitted == []


@pytest.mark.parametrize("failure_class", [FailureClass.CALLER, FailureClass.QUOTA])
async def test_a_batch_that_is_refused_for_good_goes_on_as_ordinary_calls(post: Post, failure_class: FailureClass) -> None:
    run_id, call_id = await post.place()
    post.api.refuses.append(StepError("no such endpoint", failure_class=failure_class, code="404"))
    state = await post.collect(run_id, call_id)
    assert "no such endpoint" in state.ordinary
    assert await post.states(run_id) == [("failed", True, 0)]


@pytest.mark.parametrize("failure_class", [FailureClass.THROTTLED, FailureClass.TRANSIENT])
async def test_a_batch_that_is_refused_for_now_is_gathered_again_a_bounded_number_of_times(post: Post, failure_class: FailureClass) -> None:
    run_id, call_id = await post.place()
    post.api.refuses.extend(StepError("not now", failure_class=failure_class) for _ in range(MAX_TRIES))
    states = []
    for _ in range(MAX_TRIES):
        states.append(await post.collect(run_id, call_id))
        await post.database.execute("update batch_requests set not_before = '-infinity'")
    assert [state.ordinary != "" for state in states] == [False] * (MAX_TRIES - 1) + [True]
    assert post.api.refuses == []


async def test_many_who_look_do_not_try_again_before_it_is_time(guarded: Database) -> None:
    post = await posted(guarded, [], first_look_s=600)
    placed = [await post.place() for _ in range(3)]
    post.api.refuses.extend(StepError("slow down", failure_class=FailureClass.THROTTLED, retry_after_s=900) for _ in range(3))
    for each in placed:
        assert await post.collect(*each) == BatchState()
    assert len(post.api.refuses) == 2
    waits_s = await guarded.fetchval("select extract(epoch from max(not_before) - clock_timestamp()) from batch_requests")
    assert 800 < waits_s <= 900


async def test_a_request_whose_key_is_gone_is_made_as_an_ordinary_call(post: Post) -> None:
    run_id, call_id = await post.place()
    await post.database.execute("update batch_requests set key = 'gone' where call_id = $1", call_id)
    assert "has no Batch API by key 'gone'" in (await post.collect(run_id, call_id)).ordinary
    assert await post.states(run_id) == [("failed", True, 0)]
    assert post.api.submitted == []


async def test_a_batch_that_the_provider_does_not_know_any_more_is_given_up_and_stays_charged(post: Post) -> None:
    run_id, call_id = await post.place()
    await post.collect(run_id, call_id)
    post.api.forgets.extend(StepError("no such batch", failure_class=FailureClass.CALLER, code="404") for _ in range(MAX_TROUBLES))
    states = []
    while post.api.forgets:
        states.append(await _looked(post, run_id, call_id))
    assert [state.ordinary != "" for state in states] == [False] * (MAX_TROUBLES - 1) + [True]
    ((state, _, cost_usd),) = await post.states(run_id)
    assert (state, cost_usd > 0) == ("unknown", True)


async def test_a_look_that_fails_for_now_changes_nothing(post: Post) -> None:
    run_id, call_id = await post.place()
    await post.collect(run_id, call_id)
    for failure_class in (FailureClass.TRANSIENT, FailureClass.THROTTLED, FailureClass.QUOTA):
        post.api.forgets.append(StepError("not now", failure_class=failure_class))
        assert (await _looked(post, run_id, call_id)).ordinary == ""
    assert (await _looked(post, run_id, call_id)).turn is not None


async def test_a_batch_is_asked_for_seldom_over_all_runs_and_at_once_by_who_is_woken(guarded: Database) -> None:
    post = await posted(guarded, [ANSWER], first_look_s=600)
    run_id, call_id = await post.place()
    await post.collect(run_id, call_id)
    post.api.working = True
    await post.collect(run_id, call_id)
    post.api.working = False
    assert (await post.collect(run_id, call_id)).turn is None
    await guarded.execute("update batches set looked_at = looked_at - interval '2 seconds'")
    assert (await post.collect(run_id, call_id, at_once=True)).turn is not None


async def test_half_the_worst_case_is_reserved(post: Post) -> None:
    run_id, _ = await post.place()
    row = await post.database.fetchrow("select reserved_usd, reserved_tokens from model_calls where run_id = $1", run_id)
    assert row is not None
    answer_tokens = post.definition.max_output_tokens
    whole_usd = (row["reserved_tokens"] - answer_tokens) * Decimal("0.000001") + answer_tokens * Decimal("0.001")
    assert row["reserved_usd"] == whole_usd / 2


async def test_a_run_that_leaves_before_its_batch_is_handed_in_pays_nothing(post: Post) -> None:
    (left, its_call), (stays, other_call) = await post.place(), await post.place()
    await post.leave(left, its_call)
    await post.collect(stays, other_call)
    assert [len(each.items) for each in post.api.submitted] == [1]
    assert await post.states(left) == [("failed", True, 0)]


async def test_a_run_that_leaves_later_is_charged_until_the_answer_tells_what_it_cost(post: Post) -> None:
    (left, its_call), (stays, other_call) = await post.place(), await post.place()
    await post.collect(stays, other_call)
    await post.leave(left, its_call)
    assert post.api.cancelled == []
    ((state, _, charged),) = await post.states(left)
    assert (state, charged > COST_USD) == ("unknown", True)
    assert (await _looked(post, stays, other_call)).turn is not None
    assert await post.states(left) == [("recorded", True, COST_USD)]


async def test_the_last_to_leave_has_the_batch_cancelled(post: Post) -> None:
    placed = [await post.place(), await post.place()]
    await post.collect(*placed[0])
    for run_id, call_id in placed:
        assert post.api.cancelled == []
        await post.leave(run_id, call_id)
    assert post.api.cancelled == [f"scripted-{post.api.submitted[0].batch_id}"]


async def test_requests_that_nobody_asks_for_any_more_are_settled_by_the_sweep(post: Post) -> None:
    (gathered, _), (sent, its_call) = await post.place(), await post.place()
    await post.database.execute("update batch_requests set key = 'another' where call_id <> $1", its_call)
    await post.collect(sent, its_call)
    assert await batches.settle_abandoned(post.database, 3_600) == 0
    await post.database.execute("update batch_requests set made_at = made_at - interval '3 days'")
    await post.database.execute("update batches set made_at = made_at - interval '3 days'")
    assert await batches.settle_abandoned(post.database, 3_600) == 2
    assert [state for state, _, _ in await post.states(gathered)] == ["failed"]
    assert [state for state, _, _ in await post.states(sent)] == ["unknown"]
    assert await post.database.fetchval("select count(*) from batches where state <> 'ended'") == 0


async def test_an_answer_that_cannot_be_read_keeps_no_other_from_its_run(post: Post) -> None:
    (broken, its_call), (sound, other_call) = await post.place(), await post.place()
    known = post.definition.pin().definition_hash
    await post.database.execute("update batch_requests set call = replace(call, $2, 'gone') where call_id = $1", its_call, known)
    await post.collect(broken, its_call)
    assert "while the answer was read" in (await post.collect(broken, its_call)).ordinary
    assert [state for state, _, _ in await post.states(broken)] == ["unknown"]
    assert (await post.collect(sound, other_call)).turn is not None


async def _standing(post: Post, call_id: int) -> batches.Standing:
    found = await batches.standing(post.database, call_id)
    assert found is not None
    return found


async def _looked(post: Post, run_id: str, call_id: int) -> BatchState:
    """A look that is due."""
    await post.database.execute("update batches set looked_at = looked_at - interval '1 minute'")
    return await post.collect(run_id, call_id)


def _submission(post: Post, batch_id: str) -> Submission:
    """A batch of this id, as its worker had handed it in."""
    first = post.api.submitted[0]
    return Submission(batch_id, first.items, first.made_at)
