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

-- Locks the books of a run and its ancestors, root first, so that two sub-runs never wait for each other. Taken before any
-- row of model_calls is touched.
create function lock_books(p_run text) returns text[]
language plpgsql as $$
declare
    v_ids text[];
begin
    select ancestors || run_id into v_ids from runs where run_id = p_run;
    perform 1 from runs where run_id = any(v_ids) order by cardinality(ancestors), run_id for update;
    return v_ids;
end $$;

-- Moves the books of runs that are locked.
create function book(p_ids text[], p_spent numeric, p_reserved numeric, p_unknown numeric) returns void
language sql as $$
    update runs set spent_usd = spent_usd + p_spent, reserved_usd = reserved_usd + p_reserved, unknown_usd = unknown_usd + p_unknown
     where run_id = any(p_ids)
$$;

-- Ends an attempt whose outcome nobody knows: what was reserved is charged. Returns the charge.
create function charge_unknown(p_call bigint, p_class text, p_failure text) returns numeric
language plpgsql as $$
declare
    v model_calls;
    v_ids text[] := lock_books((select run_id from model_calls where call_id = p_call));
begin
    update model_calls set state = 'unknown', cost_usd = reserved_usd, failure_class = p_class, failure = p_failure, finished_at = now()
     where call_id = p_call and state = 'in_flight' returning * into v;
    if not found then
        return 0;
    end if;
    perform book(v_ids, v.reserved_usd, -v.reserved_usd, v.reserved_usd);
    return v.reserved_usd;
end $$;

-- What a model is shown of a run: the input, the newest summary, and what came after it, up to (not with) a step.
create function conversation(p_run text, p_before integer) returns table (step integer, part smallint, message jsonb, tokens integer)
language sql stable as $$
    with newest as (
        select max(summary_through) as through from transcript where run_id = p_run and step < p_before and summary_through is not null
    )
    select t.step, t.part, t.message, t.tokens
      from transcript t, newest
     where t.run_id = p_run and t.step < p_before
       and (t.step = 0
            or (newest.through is null and t.summary_through is null)
            or (newest.through is not null and t.summary_through = newest.through)
            or (newest.through is not null and t.summary_through is null and t.step > newest.through))
     order by (t.step > 0 and t.summary_through is null), t.step, t.part
$$;

-- Before a model call, in one round trip: append what orchestration decided, find a paid response, settle dead attempts,
-- check the context window, reserve the worst case against the run's and its ancestors' limits, read the conversation.
create function begin_model_call(
    p_run text, p_step integer, p_agent text, p_provider text, p_model text, p_worker text, p_reason text,
    p_appendices jsonb, p_cost_limit numeric, p_overhead_tokens integer, p_factor numeric, p_window integer,
    p_max_output integer, p_min_output integer, p_input_price numeric, p_output_price numeric
) returns table (outcome text, turn jsonb, call_id bigint, max_output integer, unknown_usd numeric, refused_by text, messages jsonb, input_tokens integer)
language plpgsql as $$
#variable_conflict use_column
declare
    v_ids text[];
    v_room numeric;
    v_refused text;
    v_tokens integer;
    v_output integer;
    v_reserve numeric;
    v_unknown numeric := 0;
    v_call bigint;
    v_turn jsonb;
    v_messages jsonb;
    a jsonb;
    c record;
begin
    v_ids := lock_books(p_run);
    if v_ids is null then
        return query select 'no_run', null::jsonb, null::bigint, 0, 0::numeric, null::text, null::jsonb, 0;
        return;
    end if;
    -- Under the lock: a late answer may have been recorded while this call waited for it.
    select m.turn into v_turn from model_calls m where m.run_id = p_run and m.step = p_step and m.state = 'recorded';
    if found then
        select coalesce(sum(cost_usd), 0) into v_unknown from model_calls m where m.run_id = p_run and m.step = p_step and m.state = 'unknown';
        return query select 'recorded', v_turn, null::bigint, 0, v_unknown, null::text, null::jsonb, 0;
        return;
    end if;
    for c in select m.call_id from model_calls m where m.run_id = p_run and m.step = p_step and m.state = 'in_flight' loop
        perform charge_unknown(c.call_id, 'transient', 'its worker ended while the call was in the air');
    end loop;
    select coalesce(sum(cost_usd), 0) into v_unknown from model_calls m where m.run_id = p_run and m.step = p_step and m.state = 'unknown';
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
    select coalesce(sum(s.tokens), 0)::integer, coalesce(jsonb_agg(s.message order by s.n), '[]')
      into v_tokens, v_messages
      from (select message, tokens, row_number() over () as n from conversation(p_run, p_step)) s;
    v_tokens := ceil((v_tokens + p_overhead_tokens) * p_factor);
    if v_tokens + p_min_output > p_window then
        return query select 'context_full', null::jsonb, null::bigint, 0, v_unknown, null::text, null::jsonb, v_tokens;
        return;
    end if;
    v_output := least(p_max_output, p_window - v_tokens);
    update runs set cost_limit_usd = p_cost_limit where run_id = p_run and cost_limit_usd <> p_cost_limit;
    select min(r.cost_limit_usd - r.spent_usd - r.reserved_usd) into v_room from runs r where r.run_id = any(v_ids);
    if p_output_price > 0 then
        v_output := greatest(0, least(v_output, floor((v_room - v_tokens * p_input_price) / p_output_price)));
    end if;
    v_reserve := v_tokens * p_input_price + v_output * p_output_price;
    if v_output < p_min_output or v_reserve > v_room then
        select r.run_id into v_refused from runs r where r.run_id = any(v_ids)
         order by r.cost_limit_usd - r.spent_usd - r.reserved_usd, cardinality(r.ancestors) limit 1;
        return query select 'over_budget', null::jsonb, null::bigint, 0, v_unknown, v_refused, null::jsonb, v_tokens;
        return;
    end if;
    update runs set reserved_usd = reserved_usd + v_reserve where run_id = any(v_ids);
    insert into model_calls (run_id, step, attempt, state, agent, provider, model, reserved_usd, worker, reason)
    select p_run, p_step, coalesce(max(m.attempt), 0) + 1, 'in_flight', p_agent, p_provider, p_model, v_reserve, p_worker, p_reason
      from model_calls m where m.run_id = p_run and m.step = p_step
    returning model_calls.call_id into v_call;
    return query select 'go', null::jsonb, v_call, v_output, v_unknown, null::text, v_messages, v_tokens;
end $$;

-- After a model call, in one round trip: record the response, settle the books, write the transcript, found sub-runs.
-- A late answer of an attempt given up as unknown is settled to what it cost; the first answer recorded is the one that counts.
create function finish_model_call(
    p_call bigint, p_turn jsonb, p_cost numeric, p_price_version text, p_input integer, p_cached integer, p_cache_write integer,
    p_output integer, p_request_id text, p_simulated boolean, p_model text, p_rows jsonb, p_children jsonb
) returns jsonb
language plpgsql as $$
declare
    v model_calls;
    r runs;
    v_recorded jsonb;
    v_new_state text := 'recorded';
    v_ids text[] := lock_books((select run_id from model_calls where call_id = p_call));
begin
    select * into v from model_calls where call_id = p_call for update;
    if v.state not in ('in_flight', 'unknown') then
        return coalesce((select turn from model_calls where run_id = v.run_id and step = v.step and state = 'recorded'), p_turn);
    end if;
    select turn into v_recorded from model_calls where run_id = v.run_id and step = v.step and state = 'recorded';
    if found then
        v_new_state := 'superseded';
    end if;
    update model_calls set state = v_new_state, turn = p_turn, cost_usd = p_cost, price_version = p_price_version, input_tokens = p_input,
           cached_tokens = p_cached, cache_write_tokens = p_cache_write, output_tokens = p_output, request_id = p_request_id,
           simulated = p_simulated, model = p_model, failure_class = null, failure = null, finished_at = now()
     where call_id = p_call;
    if v.state = 'unknown' then
        perform book(v_ids, p_cost - v.cost_usd, 0, -v.cost_usd);
    else
        perform book(v_ids, p_cost, -v.reserved_usd, 0);
    end if;
    if v_new_state = 'superseded' then
        return v_recorded;
    end if;
    insert into transcript (run_id, step, part, agent, message, tokens, summary_through)
    select v.run_id, (x->>'step')::integer, (x->>'part')::smallint, v.agent, x->'message', (x->>'tokens')::integer, (x->>'summary_through')::integer
      from jsonb_array_elements(p_rows) x
    on conflict do nothing;
    select * into r from runs where run_id = v.run_id;
    insert into runs (run_id, tenant, agent, definition_hash, user_id, body_hash, parent_run_id, ancestors, cost_limit_usd)
    select x->>'run_id', r.tenant, x->>'agent', x->>'definition_hash', r.user_id, '', r.run_id, r.ancestors || r.run_id, (x->>'cost_limit_usd')::numeric
      from jsonb_array_elements(p_children) x
    on conflict do nothing;
    insert into transcript (run_id, step, agent, message, tokens)
    select x->>'run_id', 0, x->>'agent', x->'message', (x->>'tokens')::integer
      from jsonb_array_elements(p_children) x
    on conflict do nothing;
    return p_turn;
end $$;

-- A model call that failed before the provider can have billed it: the reservation is given back.
create function fail_model_call(p_call bigint, p_class text, p_failure text) returns void
language plpgsql as $$
declare
    v model_calls;
    v_ids text[] := lock_books((select run_id from model_calls where call_id = p_call));
begin
    update model_calls set state = 'failed', failure_class = p_class, failure = p_failure, finished_at = now()
     where call_id = p_call and state = 'in_flight' returning * into v;
    if found then
        perform book(v_ids, 0, -v.reserved_usd, 0);
    end if;
end $$;
