-- Budgets over many runs, and what the ledger tells of a call beside its cost.

alter table model_calls
    add column tenant          text not null default '',
    add column user_id         text,
    add column key             text not null default '',
    add column asked_model     text not null default '',
    add column tier            text not null default '',
    add column downgraded_from text,
    add column decision        jsonb,
    add column delayed_s       numeric,
    add column batch           boolean not null default false,
    add column cache           text check (cache in ('exact', 'semantic', 'stale')),
    add column price_factor    numeric not null default 1,
    add column saved_usd       numeric not null default 0,
    add column reserved_tokens bigint not null default 0,
    add column budget_periods  bigint[] not null default '{}';
comment on column model_calls.key is 'the name of the provider''s key, never the key';
comment on column model_calls.asked_model is 'the model that was asked for; `model` is the one that the answer names';
comment on column model_calls.tier is 'what the agent names: a tier, a task type or a model';
comment on column model_calls.decision is 'the candidates that the router weighed';
comment on column model_calls.cache is 'how a stored answer was found; null: a model was asked';
comment on column model_calls.saved_usd is 'what the cache or the Batch API has saved';
comment on column model_calls.budget_periods is 'the budgets it was reserved in, each in its period';
update model_calls m set tenant = r.tenant, user_id = r.user_id, asked_model = m.model from runs r where r.run_id = m.run_id;
create index model_calls_by_time on model_calls (started_at);
create index model_calls_in_flight on model_calls (started_at) where state = 'in_flight';

create table budget_periods (
    period_id       bigint generated always as identity primary key,
    budget          text not null,
    name            text not null,
    period          text not null check (period in ('hour', 'day', 'month')),
    starts_at       timestamptz not null,
    cost_limit_usd  numeric,
    token_limit     bigint,
    call_limit      bigint,
    soft            numeric not null,
    spent_usd       numeric not null default 0,
    reserved_usd    numeric not null default 0,
    unknown_usd     numeric not null default 0,
    spent_tokens    bigint not null default 0,
    reserved_tokens bigint not null default 0,
    spent_calls     bigint not null default 0,
    reserved_calls  bigint not null default 0,
    soft_since      timestamptz,
    unique (budget, period, starts_at)
) with (fillfactor = 50);
comment on table budget_periods is 'what one budget has spent in one period; made by the first call that it applies to';
comment on column budget_periods.budget is 'name and whose, as in team-day:acme';
comment on column budget_periods.cost_limit_usd is 'this and the other limits: as the last call was told them';
comment on column budget_periods.spent_usd is 'settled charges, unknown spend included';
comment on column budget_periods.soft_since is 'since when its soft line is passed; null again a tenth below it';

create table budget_waits (
    run_id  text not null references runs on delete cascade,
    step    integer not null,
    budget  text not null,
    since   timestamptz not null default clock_timestamp(),
    until   timestamptz,
    primary key (run_id, step, budget)
);
comment on table budget_waits is 'the runs that go on when a budget''s period turns, or somebody raises it';
create index budget_waits_by_budget on budget_waits (budget);

-- The share of a budget that is spent and reserved, in the dimension that is used most.
create function budget_share(b budget_periods) returns numeric
language sql immutable as $$
    select greatest(
        (b.spent_usd + b.reserved_usd) / nullif(b.cost_limit_usd, 0),
        (b.spent_tokens + b.reserved_tokens)::numeric / nullif(b.token_limit, 0),
        (b.spent_calls + b.reserved_calls)::numeric / nullif(b.call_limit, 0),
        0)
$$;

-- When a budget's period ends, by UTC.
create function budget_turns_at(b budget_periods) returns timestamptz
language sql immutable as $$
    select (b.starts_at at time zone 'UTC' + case b.period when 'hour' then interval '1 hour' when 'day' then interval '1 day' else interval '1 month' end)
           at time zone 'UTC'
$$;

-- The rows of the budgets in the period that is now, made where they are missing. Locks nothing that was there; new rows are made in
-- the order of their names, so that two calls never wait for each other's.
create function budget_period_ids(p_budgets jsonb) returns bigint[]
language plpgsql as $$
declare
    v_now timestamptz := clock_timestamp();
    v_ids bigint[];
begin
    for i in 1 .. 2 loop
        select coalesce(array_agg(b.period_id order by b.period_id), '{}') into v_ids
          from jsonb_to_recordset(p_budgets) as x(budget text, period text)
          join budget_periods b on b.budget = x.budget and b.period = x.period and b.starts_at = date_trunc(x.period, v_now, 'UTC');
        exit when cardinality(v_ids) = jsonb_array_length(p_budgets);
        insert into budget_periods (budget, name, period, starts_at, soft)
        select x.budget, x.name, x.period, date_trunc(x.period, v_now, 'UTC'), x.soft
          from jsonb_to_recordset(p_budgets) as x(budget text, name text, period text, soft numeric)
         order by x.budget, x.period
        on conflict do nothing;
    end loop;
    return v_ids;
end $$;

-- Books something in budgets, locked in the order of their ids. Announces a soft line that is passed, or left a tenth below; gives
-- the budgets whose line was passed by this.
create function move_budgets(
    p_ids bigint[], p_reserved_usd numeric, p_spent_usd numeric, p_unknown_usd numeric, p_reserved_tokens bigint, p_spent_tokens bigint,
    p_reserved_calls bigint, p_spent_calls bigint
) returns bigint[]
language plpgsql as $$
declare
    b budget_periods;
    v_share numeric;
    v_was timestamptz;
    v_passed bigint[] := '{}';
begin
    for b in select * from budget_periods where period_id = any(p_ids) order by period_id for update loop
        b.reserved_usd := b.reserved_usd + p_reserved_usd;
        b.spent_usd := b.spent_usd + p_spent_usd;
        b.reserved_tokens := b.reserved_tokens + p_reserved_tokens;
        b.spent_tokens := b.spent_tokens + p_spent_tokens;
        b.reserved_calls := b.reserved_calls + p_reserved_calls;
        b.spent_calls := b.spent_calls + p_spent_calls;
        v_share := budget_share(b);
        v_was := b.soft_since;
        b.soft_since := case when v_share >= b.soft then coalesce(v_was, clock_timestamp()) when v_share >= b.soft - 0.1 then v_was end;
        update budget_periods
           set reserved_usd = b.reserved_usd, spent_usd = b.spent_usd, unknown_usd = unknown_usd + p_unknown_usd,
               reserved_tokens = b.reserved_tokens, spent_tokens = b.spent_tokens, reserved_calls = b.reserved_calls,
               spent_calls = b.spent_calls, soft_since = b.soft_since
         where period_id = b.period_id;
        if (v_was is null) <> (b.soft_since is null) then
            perform pg_notify('holdfast_budgets', json_build_object(
                'budget', b.budget, 'name', b.name, 'passed', b.soft_since is not null, 'share', round(v_share, 4))::text);
            if v_was is null then
                v_passed := v_passed || b.period_id;
            end if;
        end if;
    end loop;
    return v_passed;
end $$;

-- Writes the tool results that orchestration itself decides; one that is there already stays.
create function append_to_transcript(p_run text, p_agent text, p_appendices jsonb) returns void
language plpgsql as $$
declare
    a jsonb;
begin
    for a in select * from jsonb_array_elements(p_appendices) loop
        insert into transcript (run_id, step, part, agent, message, tokens)
        select p_run, (a->>'step')::integer, coalesce((a->>'part')::smallint, 0::smallint), p_agent,
               case when answer.message is null then a->'message'
                    else jsonb_set(a->'message', '{text}', answer.message->'text') end,
               greatest((a->>'tokens')::integer, coalesce(answer.tokens, 0))
          from (select 1) one
          left join lateral (
              select t.message, t.tokens from transcript t
               where t.run_id = a->>'child_run_id' and t.message->>'role' = 'assistant'
                 and coalesce(jsonb_array_length(t.message->'tool_calls'), 0) = 0 and not (a->'message'->>'is_error')::boolean
               order by t.step desc, t.part desc limit 1
          ) answer on true
        on conflict do nothing;
    end loop;
end $$;

-- What a model is shown: the input, the newest summary, and what came after it, up to (not with) this step.
create function read_conversation(p_run text, p_step integer, out tokens integer, out messages text)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_through integer;
begin
    select max(t.summary_through) into v_through from transcript t
     where t.run_id = p_run and t.summary_through is not null and t.step < p_step;
    select coalesce(sum(t.tokens), 0), coalesce(json_agg(t.message order by t.step > 0 and t.summary_through is null, t.step, t.part)::text, '[]')
      into tokens, messages
      from transcript t
     where t.run_id = p_run and t.step < p_step
       and (t.step = 0 or t.summary_through = v_through or (t.summary_through is null and t.step > coalesce(v_through, 0)));
end $$;

-- Ends an attempt whose outcome nobody knows: what was reserved is charged. Returns the charge.
create or replace function charge_unknown(p_call bigint, p_class text, p_failure text) returns numeric
language plpgsql as $$
declare
    v model_calls;
    r runs := lock_books((select run_id from model_calls where call_id = p_call));
begin
    update model_calls set state = 'unknown', cost_usd = reserved_usd, failure_class = p_class, failure = p_failure, finished_at = now()
     where call_id = p_call and state = 'in_flight' returning * into v;
    if not found then
        return 0;
    end if;
    update runs set spent_usd = spent_usd + v.reserved_usd, reserved_usd = reserved_usd - v.reserved_usd, unknown_usd = unknown_usd + v.reserved_usd
     where run_id = any(r.ancestors || r.run_id);
    if v.budget_periods <> '{}' then
        perform move_budgets(v.budget_periods, -v.reserved_usd, v.reserved_usd, v.reserved_usd, -v.reserved_tokens, v.reserved_tokens, -1, 1);
    end if;
    return v.reserved_usd;
end $$;

-- What a call of this price could still answer within the budgets, in tokens: what binds is told in `refusals`, worst first.
create function budget_room(
    p_ids bigint[], p_budgets jsonb, p_tokens integer, p_min_output integer, p_input_price numeric, p_output_price numeric,
    out output numeric, out refusals jsonb
)
language plpgsql as $$
declare
    d record;
begin
    output := 'infinity';
    refusals := '[]';
    -- The limits that this call was told hold for it, whatever another worker was told a moment ago.
    update budget_periods b set cost_limit_usd = x.cost_usd, token_limit = x.tokens, call_limit = x.calls, soft = x.soft, name = x.name
      from jsonb_to_recordset(p_budgets) as x(budget text, name text, period text, cost_usd numeric, tokens bigint, calls bigint, soft numeric)
     where b.period_id = any(p_ids) and b.budget = x.budget and b.period = x.period
       and (b.cost_limit_usd, b.token_limit, b.call_limit, b.soft, b.name) is distinct from (x.cost_usd, x.tokens, x.calls, x.soft, x.name);
    for d in
        select b.budget, b.name, k.dimension, k.room, k.room_settled,
               extract(epoch from budget_turns_at(b) - clock_timestamp()) as turns_in_s
          from budget_periods b, lateral (values
               ('cost_usd', answer_within(b.cost_limit_usd - b.spent_usd - b.reserved_usd, p_tokens, p_input_price, p_output_price),
                            answer_within(b.cost_limit_usd - b.spent_usd, p_tokens, p_input_price, p_output_price)),
               ('tokens', (b.token_limit - b.spent_tokens - b.reserved_tokens - p_tokens)::numeric,
                          (b.token_limit - b.spent_tokens - p_tokens)::numeric),
               ('calls', case when b.spent_calls + b.reserved_calls < b.call_limit then 'infinity'::numeric when b.call_limit is not null then -1 end,
                         case when b.spent_calls < b.call_limit then 'infinity'::numeric else -1 end)
          ) as k(dimension, room, room_settled)
         where b.period_id = any(p_ids) and k.room is not null
         order by k.room, b.budget, k.dimension
    loop
        output := least(output, d.room);
        if d.room < greatest(p_min_output, 0) then
            refusals := refusals || jsonb_build_object('budget', d.budget, 'name', d.name, 'dimension', d.dimension,
                'turns_in_s', greatest(0, d.turns_in_s), 'in_the_air', d.room_settled >= greatest(p_min_output, 0));
        end if;
    end loop;
end $$;

-- The longest answer that so much money pays for, in tokens: without end where it costs nothing, -1 where not even the input is paid.
create function answer_within(p_room numeric, p_tokens integer, p_input_price numeric, p_output_price numeric) returns numeric
language sql immutable as $$
    select case when p_room is null then null
                when p_tokens * p_input_price > p_room and p_tokens * p_input_price > 0 then -1
                when p_output_price > 0 then greatest(0, floor((p_room - p_tokens * p_input_price) / p_output_price))
                else 'infinity'::numeric end
$$;

-- Before a model call, in one round trip: append what orchestration decided, find a paid response, settle dead attempts, check the
-- context window, reserve the worst case in the books of the run and its ancestors and in every budget, read the conversation.
-- Locks: the books root first, then budgets in the order of their ids, all at once; nobody takes books while holding a budget.
create function begin_budgeted_call(
    p_run text, p_step integer, p_agent text, p_provider text, p_model text, p_worker text, p_reason text,
    p_appendices jsonb, p_cost_limit numeric, p_overhead_tokens integer, p_factor numeric, p_window integer,
    p_max_output integer, p_min_output integer, p_input_price numeric, p_output_price numeric,
    p_key text, p_tier text, p_downgraded_from text, p_decision jsonb, p_delayed_s numeric, p_batch boolean, p_cache text,
    p_price_factor numeric, p_budgets jsonb,
    out outcome text, out turn jsonb, out call_id bigint, out max_output integer, out unknown_usd numeric, out refused_by text,
    out messages text, out input_tokens integer, out refusals jsonb, out pressure jsonb
)
language plpgsql as $$
#variable_conflict use_column
declare
    r runs := lock_books(p_run);
    v_attempt integer;
    v_unknown numeric;
    v_in_flight bigint[];
    v_recorded boolean;
    v_messages text;
    v_tokens integer;
    v_output integer;
    v_room numeric;
    v_settled numeric;
    v_allowed numeric;
    v_reserve numeric;
    v_periods bigint[] := '{}';
    v_passed bigint[];
    v_call bigint;
begin
    max_output := 0;
    unknown_usd := 0;
    input_tokens := 0;
    if r.run_id is null then
        outcome := 'no_run';
        return;
    end if;
    -- Under the lock: a late answer may have been recorded while this call waited for it.
    select coalesce(max(m.attempt), 0), coalesce(sum(m.cost_usd) filter (where m.state = 'unknown'), 0),
           array_agg(m.call_id) filter (where m.state = 'in_flight'), bool_or(m.state = 'recorded')
      into v_attempt, v_unknown, v_in_flight, v_recorded
      from model_calls m where m.run_id = p_run and m.step = p_step;
    if v_recorded then
        outcome := 'recorded';
        unknown_usd := v_unknown;
        select m.turn into turn from model_calls m where m.run_id = p_run and m.step = p_step and m.state = 'recorded';
        return;
    end if;
    if p_budgets <> '[]' then
        v_periods := budget_period_ids(p_budgets);
    end if;
    if v_in_flight is not null then
        perform 1 from budget_periods b
          where b.period_id = any(v_periods) or b.period_id in (
              select unnest(m.budget_periods) from model_calls m where m.call_id = any(v_in_flight))
          order by b.period_id for update;
        for i in 1 .. cardinality(v_in_flight) loop
            v_unknown := v_unknown + charge_unknown(v_in_flight[i], 'transient', 'its worker ended while the call was in the air');
        end loop;
        select * into r from runs where run_id = p_run;
    end if;
    unknown_usd := v_unknown;
    if r.cost_limit_usd <> p_cost_limit then
        update runs set cost_limit_usd = p_cost_limit where run_id = p_run;
    end if;
    if p_appendices <> '[]' then
        perform append_to_transcript(p_run, p_agent, p_appendices);
    end if;
    select c.tokens, c.messages into v_tokens, v_messages from read_conversation(p_run, p_step) c;
    v_tokens := ceil((v_tokens + p_overhead_tokens) * p_factor);
    input_tokens := v_tokens;
    if v_tokens + p_min_output > p_window then
        outcome := 'context_full';
        return;
    end if;
    v_room := p_cost_limit - r.spent_usd - r.reserved_usd;
    v_settled := p_cost_limit - r.spent_usd;
    if r.ancestors <> '{}' then
        select least(v_room, min(u.cost_limit_usd - u.spent_usd - u.reserved_usd)), least(v_settled, min(u.cost_limit_usd - u.spent_usd))
          into v_room, v_settled from runs u where u.run_id = any(r.ancestors);
    end if;
    v_allowed := answer_within(v_room, v_tokens, p_input_price, p_output_price);
    refusals := '[]';
    if v_allowed < greatest(p_min_output, 0) then
        select u.run_id into refused_by from runs u where u.run_id = any(r.ancestors || r.run_id)
         order by u.cost_limit_usd - u.spent_usd - u.reserved_usd, cardinality(u.ancestors) limit 1;
        refusals := jsonb_build_array(jsonb_build_object('budget', refused_by, 'name', 'run', 'dimension', 'cost_usd',
            'turns_in_s', null, 'in_the_air', answer_within(v_settled, v_tokens, p_input_price, p_output_price) >= greatest(p_min_output, 0)));
    end if;
    v_output := least(p_max_output, p_window - v_tokens, v_allowed);
    if v_periods <> '{}' then
        perform 1 from budget_periods b where b.period_id = any(v_periods) order by b.period_id for update;
        select least(v_output, room.output), begin_budgeted_call.refusals || room.refusals into v_output, refusals
          from budget_room(v_periods, p_budgets, v_tokens, p_min_output, p_input_price, p_output_price) room;
    end if;
    if refusals <> '[]' then
        outcome := 'over_budget';
        refused_by := refusals->0->>'budget';
        perform move_budgets(v_periods, 0, 0, 0, 0, 0, 0, 0);
        return;
    end if;
    v_reserve := v_tokens * p_input_price + v_output * p_output_price;
    update runs set reserved_usd = reserved_usd + v_reserve where run_id = any(r.ancestors || r.run_id);
    insert into model_calls (run_id, step, attempt, state, agent, provider, model, reserved_usd, worker, reason, tenant, user_id, key,
           asked_model, tier, downgraded_from, decision, delayed_s, batch, cache, price_factor, reserved_tokens, budget_periods)
    values (p_run, p_step, v_attempt + 1, 'in_flight', p_agent, p_provider, p_model, v_reserve, p_worker, p_reason, r.tenant, r.user_id, p_key,
           p_model, p_tier, p_downgraded_from, p_decision, p_delayed_s, p_batch, p_cache, p_price_factor, v_tokens + v_output, v_periods)
    returning model_calls.call_id into v_call;
    if v_periods <> '{}' then
        v_passed := move_budgets(v_periods, v_reserve, 0, 0, v_tokens + v_output, 0, 1, 0);
        select jsonb_agg(jsonb_build_object('budget', b.budget, 'name', b.name, 'share', budget_share(b), 'just_passed', b.period_id = any(v_passed)))
          into pressure from budget_periods b where b.period_id = any(v_periods) and b.soft_since is not null;
    end if;
    outcome := 'go';
    call_id := v_call;
    max_output := v_output;
    messages := v_messages;
end $$;

-- Workers of the version before begin their calls through this: without budgets, in the same books.
create or replace function begin_model_call(
    p_run text, p_step integer, p_agent text, p_provider text, p_model text, p_worker text, p_reason text,
    p_appendices jsonb, p_cost_limit numeric, p_overhead_tokens integer, p_factor numeric, p_window integer,
    p_max_output integer, p_min_output integer, p_input_price numeric, p_output_price numeric,
    out outcome text, out turn jsonb, out call_id bigint, out max_output integer, out unknown_usd numeric, out refused_by text,
    out messages text, out input_tokens integer
)
language sql as $$
    select b.outcome, b.turn, b.call_id, b.max_output, b.unknown_usd, b.refused_by, b.messages, b.input_tokens
      from begin_budgeted_call(p_run, p_step, p_agent, p_provider, p_model, p_worker, p_reason, p_appendices, p_cost_limit,
           p_overhead_tokens, p_factor, p_window, p_max_output, p_min_output, p_input_price, p_output_price,
           '', '', null, null, null, false, null, 1, '[]') b
$$;

-- After a model call, in one round trip: record the response, settle books and budgets, write the transcript, found sub-runs. Gives
-- the turn that counts instead of this one, or null. A late answer of an attempt given up as unknown is settled to what it cost;
-- the first answer recorded is the one that counts.
create or replace function finish_model_call(
    p_call bigint, p_turn jsonb, p_cost numeric, p_price_version text, p_input integer, p_cached integer, p_cache_write integer,
    p_output integer, p_request_id text, p_simulated boolean, p_model text, p_rows jsonb, p_children jsonb
) returns jsonb
language plpgsql as $$
declare
    r runs := lock_books((select run_id from model_calls where call_id = p_call));
    v model_calls;
    v_recorded jsonb;
    v_superseded boolean;
    v_late boolean;
begin
    select * into v from model_calls where call_id = p_call;
    select turn into v_recorded from model_calls where run_id = v.run_id and step = v.step and state = 'recorded';
    v_superseded := found;
    if v.state not in ('in_flight', 'unknown') then
        return v_recorded;
    end if;
    v_late := v.state = 'unknown';
    update model_calls set state = case when v_superseded then 'superseded' else 'recorded' end, turn = p_turn, cost_usd = p_cost,
           price_version = p_price_version, input_tokens = p_input, cached_tokens = p_cached, cache_write_tokens = p_cache_write,
           output_tokens = p_output, request_id = p_request_id, simulated = p_simulated, model = p_model, failure_class = null,
           failure = null, finished_at = now(),
           saved_usd = case when v.cache is not null then coalesce((v.decision->>'saved_usd')::numeric, 0)
                            when v.price_factor > 0 and v.price_factor < 1 then p_cost / v.price_factor - p_cost else saved_usd end
     where call_id = p_call;
    update runs set spent_usd = spent_usd + p_cost - case when v_late then v.cost_usd else 0 end,
           reserved_usd = reserved_usd - case when v_late then 0 else v.reserved_usd end,
           unknown_usd = unknown_usd - case when v_late then v.cost_usd else 0 end
     where run_id = any(r.ancestors || r.run_id);
    if v.budget_periods <> '{}' and v_late then
        perform move_budgets(v.budget_periods, 0, p_cost - v.cost_usd, -v.cost_usd, 0, p_input + p_output - v.reserved_tokens, 0, 0);
    elsif v.budget_periods <> '{}' then
        perform move_budgets(v.budget_periods, -v.reserved_usd, p_cost, 0, -v.reserved_tokens, p_input + p_output, -1, 1);
    end if;
    if v_superseded then
        return v_recorded;
    end if;
    insert into transcript (run_id, step, part, agent, message, tokens, summary_through)
    select v.run_id, (x->>'step')::integer, (x->>'part')::smallint, v.agent, x->'message', (x->>'tokens')::integer, (x->>'summary_through')::integer
      from jsonb_array_elements(p_rows) x
    on conflict do nothing;
    if p_children = '[]' then
        return null;
    end if;
    insert into runs (run_id, tenant, agent, definition_hash, user_id, body_hash, parent_run_id, ancestors, cost_limit_usd)
    select x->>'run_id', r.tenant, x->>'agent', x->>'definition_hash', r.user_id, '', r.run_id, r.ancestors || r.run_id, (x->>'cost_limit_usd')::numeric
      from jsonb_array_elements(p_children) x
    on conflict do nothing;
    insert into transcript (run_id, step, agent, message, tokens)
    select x->>'run_id', 0, x->>'agent', x->'message', (x->>'tokens')::integer
      from jsonb_array_elements(p_children) x
    on conflict do nothing;
    return null;
end $$;

-- A model call that failed before the provider can have billed it: the reservation is given back.
create or replace function fail_model_call(p_call bigint, p_class text, p_failure text) returns void
language plpgsql as $$
declare
    v model_calls;
    r runs := lock_books((select run_id from model_calls where call_id = p_call));
begin
    update model_calls set state = 'failed', failure_class = p_class, failure = p_failure, finished_at = now()
     where call_id = p_call and state = 'in_flight' returning * into v;
    if not found then
        return;
    end if;
    update runs set reserved_usd = reserved_usd - v.reserved_usd where run_id = any(r.ancestors || r.run_id);
    if v.budget_periods <> '{}' then
        perform move_budgets(v.budget_periods, -v.reserved_usd, 0, 0, -v.reserved_tokens, 0, -1, 0);
    end if;
end $$;

-- What is known before a model is chosen, in one round trip: the paid response if there is one, the conversation, how often which
-- model has failed at this step, the run's last call, the budgets past their soft line. Writes the appendices and reserves nothing.
create function look_at_model_call(
    p_run text, p_step integer, p_agent text, p_appendices jsonb, p_budgets jsonb,
    out tenant text, out user_id text, out turn jsonb, out unknown_usd numeric, out messages text, out tokens integer,
    out failures jsonb, out last_call jsonb, out pressure jsonb
)
language plpgsql as $$
#variable_conflict use_column
begin
    select r.tenant, r.user_id into tenant, user_id from runs r where r.run_id = p_run;
    if not found then
        return;
    end if;
    select (array_agg(m.turn) filter (where m.state = 'recorded'))[1], coalesce(sum(m.cost_usd) filter (where m.state = 'unknown'), 0)
      into turn, unknown_usd from model_calls m where m.run_id = p_run and m.step = p_step;
    if turn is not null then
        return;
    end if;
    if p_appendices <> '[]' then
        perform append_to_transcript(p_run, p_agent, p_appendices);
    end if;
    select c.tokens, c.messages into tokens, messages from read_conversation(p_run, p_step) c;
    select jsonb_object_agg(f.name, f.times) into failures from (
        select m.provider || ':' || m.asked_model as name, count(*) as times from model_calls m
         where m.run_id = p_run and m.step = p_step and m.failure_class is distinct from 'throttled' group by 1) f;
    select jsonb_build_object('provider', m.provider, 'model', m.asked_model, 'key', m.key, 'input_tokens', m.input_tokens,
           'cached_tokens', m.cached_tokens, 'age_s', greatest(0, extract(epoch from clock_timestamp() - m.finished_at)))
      into last_call from model_calls m
     where m.run_id = p_run and m.step between 0 and p_step - 1 and m.state = 'recorded' and m.cache is null order by m.step desc limit 1;
    if p_budgets <> '[]' then
        select jsonb_agg(jsonb_build_object('budget', b.budget, 'name', b.name, 'share', budget_share(b), 'just_passed', false))
          into pressure
          from jsonb_to_recordset(p_budgets) as x(budget text, period text)
          join budget_periods b on b.budget = x.budget and b.period = x.period and b.starts_at = date_trunc(x.period, clock_timestamp(), 'UTC')
         where b.soft_since is not null;
    end if;
end $$;
