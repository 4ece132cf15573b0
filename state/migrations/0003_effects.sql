-- The effect ledger: what tools did, once per key, whatever crashed in between.

create table effects (
    tenant       text not null,
    tool         text not null,
    key          text not null,
    effect       text not null check (effect in ('idempotent', 'once')),
    state        text not null check (state in ('started', 'succeeded', 'failed', 'unknown')),
    run_id       text not null,
    step         integer not null,
    attempts     integer not null default 1,
    message      jsonb,
    blob_id      text references blobs,
    reason       text,
    worker       text not null,
    lease_until  timestamptz not null,
    started_at   timestamptz not null default now(),
    finished_at  timestamptz,
    primary key (tenant, tool, key)
);
comment on column effects.key is 'the business key that the tool declares, else run and step';
comment on column effects.run_id is 'the run and step that did it, or do it now';
comment on column effects.lease_until is 'a holder of another run that is silent for longer than this is dead';
create index effects_by_run on effects (run_id, step);

-- Before a tool runs, in one round trip: its arguments, and what the ledger allows.
--   done     the step's result is in the transcript already
--   go       run it, under the key given
--   reused   the effect was done before: here is its recorded result
--   busy     another run does it right now
--   unknown  an earlier attempt ended between start and end, and nobody knows whether it did its work
create function begin_tool(
    p_run text, p_step integer, p_model_step integer, p_call_id text, p_tenant text, p_tool text, p_effect text,
    p_key_argument text, p_again boolean, p_worker text, p_lease_s double precision
) returns table (outcome text, arguments text, key text, message jsonb, blob_id text, attempts integer)
language plpgsql as $$
#variable_conflict use_column
declare
    v_message jsonb;
    v_arguments text;
    v_key text := p_run || ':' || p_step;
    v effects;
begin
    select t.message into v_message from transcript t where t.run_id = p_run and t.step = p_step and t.part = 0;
    if found then
        return query select 'done', null::text, v_key, v_message, null::text, 0;
        return;
    end if;
    select c->>'arguments' into v_arguments
      from transcript t, jsonb_array_elements(t.message->'tool_calls') c
     where t.run_id = p_run and t.step = p_model_step and t.part = 0 and c->>'call_id' = p_call_id;
    if not found then
        return query select 'no_call', null::text, v_key, null::jsonb, null::text, 0;
        return;
    end if;
    if p_effect = 'pure' then
        return query select 'go', v_arguments, v_key, null::jsonb, null::text, 1;
        return;
    end if;
    if p_key_argument is not null then
        v_key := coalesce((nullif(v_arguments, '')::jsonb)->>p_key_argument, v_key);
    end if;
    insert into effects (tenant, tool, key, effect, state, run_id, step, worker, lease_until)
    values (p_tenant, p_tool, v_key, p_effect, 'started', p_run, p_step, p_worker, now() + make_interval(secs => p_lease_s))
    on conflict do nothing;
    if found then
        return query select 'go', v_arguments, v_key, null::jsonb, null::text, 1;
        return;
    end if;
    select * into v from effects e where e.tenant = p_tenant and e.tool = p_tool and e.key = v_key for update;
    if v.state = 'succeeded' then
        return query select 'reused', v_arguments, v_key, v.message, v.blob_id, v.attempts;
        return;
    end if;
    if v.state = 'started' and (v.run_id, v.step) <> (p_run, p_step) and v.lease_until > now() then
        return query select 'busy', v_arguments, v_key, null::jsonb, null::text, v.attempts;
        return;
    end if;
    if v.state in ('started', 'unknown') and v.effect = 'once' and not p_again then
        update effects e set state = 'unknown', reason = coalesce(e.reason, 'its worker ended before the tool did')
         where e.tenant = p_tenant and e.tool = p_tool and e.key = v_key;
        return query select 'unknown', v_arguments, v_key, null::jsonb, null::text, v.attempts;
        return;
    end if;
    update effects e set state = 'started', run_id = p_run, step = p_step, attempts = e.attempts + 1, worker = p_worker, reason = null,
           started_at = now(), finished_at = null, lease_until = now() + make_interval(secs => p_lease_s)
     where e.tenant = p_tenant and e.tool = p_tool and e.key = v_key;
    return query select 'go', v_arguments, v_key, null::jsonb, null::text, v.attempts + 1;
end $$;

-- After a tool ran, in one round trip: the ledger and the transcript together. The first result of a step stays.
create function finish_tool(
    p_run text, p_step integer, p_agent text, p_tenant text, p_tool text, p_effect text, p_key text, p_state text, p_reason text,
    p_message jsonb, p_tokens integer, p_blob_id text, p_blob bytea
) returns jsonb
language plpgsql as $$
declare
    v_message jsonb;
begin
    if p_blob is not null then
        insert into blobs (blob_id, body) values (p_blob_id, p_blob) on conflict do nothing;
    end if;
    if p_effect <> 'pure' then
        update effects set state = p_state, reason = p_reason, message = p_message, blob_id = p_blob_id, finished_at = now()
         where tenant = p_tenant and tool = p_tool and key = p_key and state in ('started', 'unknown')
           and (run_id, step) = (p_run, p_step);
    end if;
    insert into transcript (run_id, step, agent, message, tokens, blob_id)
    values (p_run, p_step, p_agent, p_message, p_tokens, p_blob_id)
    on conflict do nothing;
    select message into v_message from transcript where run_id = p_run and step = p_step and part = 0;
    return v_message;
end $$;
