-- Runs, their transcripts, the blobs behind them, and the ledger of paid model calls.

create table runs (
    run_id           text primary key,
    tenant           text not null,
    agent            text not null,
    definition_hash  text not null,
    user_id          text,
    idempotency_key  text,
    body_hash        text not null,
    parent_run_id    text,
    ancestors        text[] not null default '{}',
    cost_limit_usd   numeric not null,
    spent_usd        numeric not null default 0,
    reserved_usd     numeric not null default 0,
    unknown_usd      numeric not null default 0,
    created_at       timestamptz not null default now(),
    unique (tenant, idempotency_key)
);
comment on column runs.ancestors is 'root first, without the run itself: whom its model calls charge too';
comment on column runs.spent_usd is 'settled charges, unknown spend included, sub-runs included';
create index runs_by_parent on runs (parent_run_id) where parent_run_id is not null;

create table blobs (
    blob_id     text primary key,
    body        bytea not null,
    created_at  timestamptz not null default now()
);
comment on column blobs.blob_id is 'SHA-256 of the body, in hex';

create table transcript (
    run_id           text not null references runs on delete cascade,
    step             integer not null,
    part             smallint not null default 0,
    agent            text not null,
    message          jsonb not null,
    blob_id          text references blobs,
    tokens           integer not null,
    summary_through  integer,
    created_at       timestamptz not null default now(),
    primary key (run_id, step, part)
);
comment on column transcript.message is 'a Message; where blob_id is set its text is in that blob and `text` holds the head the model sees';
comment on column transcript.summary_through is 'on a summary: every step from 1 up to this one is stood for by it';

create table model_calls (
    call_id         bigint generated always as identity primary key,
    run_id          text not null references runs on delete cascade,
    step            integer not null,
    attempt         integer not null,
    state           text not null check (state in ('in_flight', 'recorded', 'superseded', 'failed', 'unknown')),
    agent           text not null,
    provider        text not null,
    model           text not null,
    reserved_usd    numeric not null,
    cost_usd        numeric not null default 0,
    price_version   text,
    input_tokens    integer not null default 0,
    cached_tokens   integer not null default 0,
    cache_write_tokens integer not null default 0,
    output_tokens   integer not null default 0,
    request_id      text,
    simulated       boolean not null default false,
    failure_class   text,
    failure         text,
    reason          text not null default '',
    turn            jsonb,
    worker          text not null,
    started_at      timestamptz not null default now(),
    finished_at     timestamptz,
    unique (run_id, step, attempt)
);
comment on table model_calls is 'one row an attempt; (run_id, step) is the key of the paid response';
comment on column model_calls.reason is 'why the router chose this model';
create unique index model_calls_recorded on model_calls (run_id, step) where state = 'recorded';

create index transcript_summaries on transcript (run_id) where summary_through is not null;

-- Writes a run and its first message, or finds the run that holds its id or its idempotency key.
create function create_run(
    p_run text, p_tenant text, p_agent text, p_definition_hash text, p_user text, p_key text, p_body_hash text, p_cost_limit numeric,
    p_message jsonb, p_tokens integer
) returns runs
language plpgsql as $$
declare
    r runs;
begin
    insert into runs (run_id, tenant, agent, definition_hash, user_id, idempotency_key, body_hash, cost_limit_usd)
    values (p_run, p_tenant, p_agent, p_definition_hash, p_user, p_key, p_body_hash, p_cost_limit)
    on conflict do nothing
    returning * into r;
    if found then
        insert into transcript (run_id, step, agent, message, tokens) values (p_run, 0, p_agent, p_message, p_tokens);
        return r;
    end if;
    select * into r from runs where run_id = p_run or (tenant = p_tenant and idempotency_key = p_key)
     order by run_id = p_run desc limit 1;
    return r;
end $$;

-- Locks the books of a run and its ancestors, root first, so that two sub-runs never wait for each other, and gives the run's
-- row. Taken before any row of model_calls is touched, so that whoever holds it sees all attempts as they are.
create function lock_books(p_run text) returns runs
language plpgsql as $$
declare
    r runs;
begin
    select * into r from runs where run_id = p_run and ancestors = '{}' for update;
    if not found then
        perform 1 from runs where run_id = any((select ancestors || run_id from runs where run_id = p_run)::text[])
          order by cardinality(ancestors), run_id for update;
        select * into r from runs where run_id = p_run;
    end if;
    return r;
end $$;

-- Ends an attempt whose outcome nobody knows: what was reserved is charged. Returns the charge.
create function charge_unknown(p_call bigint, p_class text, p_failure text) returns numeric
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
    return v.reserved_usd;
end $$;

-- Before a model call, in one round trip: append what orchestration decided, find a paid response, settle dead attempts,
-- check the context window, reserve the worst case against the run's and its ancestors' limits, read the conversation.
-- A statement costs about as much as what it does, so the ordinary way (a first attempt of a run of its own) takes few.
create function begin_model_call(
    p_run text, p_step integer, p_agent text, p_provider text, p_model text, p_worker text, p_reason text,
    p_appendices jsonb, p_cost_limit numeric, p_overhead_tokens integer, p_factor numeric, p_window integer,
    p_max_output integer, p_min_output integer, p_input_price numeric, p_output_price numeric,
    out outcome text, out turn jsonb, out call_id bigint, out max_output integer, out unknown_usd numeric, out refused_by text,
    out messages text, out input_tokens integer
)
language plpgsql as $$
#variable_conflict use_column
declare
    r runs := lock_books(p_run);
    v_attempt integer;
    v_unknown numeric;
    v_in_flight bigint[];
    v_recorded boolean;
    v_through integer;
    v_messages text;
    v_tokens integer;
    v_output integer;
    v_room numeric;
    v_reserve numeric;
    v_call bigint;
    a jsonb;
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
    if v_in_flight is not null then
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
        for a in select * from jsonb_array_elements(p_appendices) loop
            insert into transcript (run_id, step, agent, message, tokens)
            select p_run, (a->>'step')::integer, p_agent,
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
    end if;
    -- What a model is shown: the input, the newest summary, and what came after it, up to (not with) this step.
    select max(t.summary_through) into v_through from transcript t
     where t.run_id = p_run and t.summary_through is not null and t.step < p_step;
    select coalesce(sum(t.tokens), 0), coalesce(json_agg(t.message order by t.step > 0 and t.summary_through is null, t.step, t.part)::text, '[]')
      into v_tokens, v_messages
      from transcript t
     where t.run_id = p_run and t.step < p_step
       and (t.step = 0 or t.summary_through = v_through or (t.summary_through is null and t.step > coalesce(v_through, 0)));
    v_tokens := ceil((v_tokens + p_overhead_tokens) * p_factor);
    input_tokens := v_tokens;
    if v_tokens + p_min_output > p_window then
        outcome := 'context_full';
        return;
    end if;
    v_output := least(p_max_output, p_window - v_tokens);
    v_room := p_cost_limit - r.spent_usd - r.reserved_usd;
    if r.ancestors <> '{}' then
        select least(v_room, min(u.cost_limit_usd - u.spent_usd - u.reserved_usd)) into v_room from runs u where u.run_id = any(r.ancestors);
    end if;
    if p_output_price > 0 then
        v_output := greatest(0, least(v_output, floor((v_room - v_tokens * p_input_price) / p_output_price)));
    end if;
    v_reserve := v_tokens * p_input_price + v_output * p_output_price;
    if v_output < p_min_output or v_reserve > v_room then
        outcome := 'over_budget';
        select u.run_id into refused_by from runs u where u.run_id = any(r.ancestors || r.run_id)
         order by u.cost_limit_usd - u.spent_usd - u.reserved_usd, cardinality(u.ancestors) limit 1;
        return;
    end if;
    update runs set reserved_usd = reserved_usd + v_reserve where run_id = any(r.ancestors || r.run_id);
    insert into model_calls (run_id, step, attempt, state, agent, provider, model, reserved_usd, worker, reason)
    values (p_run, p_step, v_attempt + 1, 'in_flight', p_agent, p_provider, p_model, v_reserve, p_worker, p_reason)
    returning model_calls.call_id into v_call;
    outcome := 'go';
    call_id := v_call;
    max_output := v_output;
    messages := v_messages;
end $$;

-- After a model call, in one round trip: record the response, settle the books, write the transcript, found sub-runs. Gives the
-- turn that counts instead of this one, or null. A late answer of an attempt given up as unknown is settled to what it cost;
-- the first answer recorded is the one that counts.
create function finish_model_call(
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
           failure = null, finished_at = now()
     where call_id = p_call;
    update runs set spent_usd = spent_usd + p_cost - case when v_late then v.cost_usd else 0 end,
           reserved_usd = reserved_usd - case when v_late then 0 else v.reserved_usd end,
           unknown_usd = unknown_usd - case when v_late then v.cost_usd else 0 end
     where run_id = any(r.ancestors || r.run_id);
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
create function fail_model_call(p_call bigint, p_class text, p_failure text) returns void
language plpgsql as $$
declare
    v model_calls;
    r runs := lock_books((select run_id from model_calls where call_id = p_call));
begin
    update model_calls set state = 'failed', failure_class = p_class, failure = p_failure, finished_at = now()
     where call_id = p_call and state = 'in_flight' returning * into v;
    if found then
        update runs set reserved_usd = reserved_usd - v.reserved_usd where run_id = any(r.ancestors || r.run_id);
    end if;
end $$;
