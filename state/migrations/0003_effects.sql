-- The effect ledger: what tools did, once per key, whatever crashed in between (docs/adr/0004).

create table effects (
    tenant          text not null,
    tool            text not null,
    key             text not null,
    effect          text not null check (effect in ('idempotent', 'once')),
    state           text not null check (state in ('started', 'succeeded', 'failed', 'unknown')),
    run_id          text not null,
    step            integer not null,
    attempts        integer not null default 1,
    token           text not null,
    arguments_hash  text,
    message         jsonb,
    blob_id         text references blobs,
    reason          text,
    questions       jsonb not null default '{}',
    worker          text not null,
    lease_until     timestamptz not null,
    started_at      timestamptz not null default now(),
    finished_at     timestamptz,
    primary key (tenant, tool, key)
);
comment on column effects.key is 'the business key that the tool declares, as argument=value, else run:step';
comment on column effects.run_id is 'the run and step that did it, or do it now';
comment on column effects.token is 'the attempt that holds the row; one that lost it can no longer end it';
comment on column effects.questions is 'run:step → the attempts there were, and the rulings it had, when its person was asked what became of the last one';
comment on column effects.lease_until is 'a holder that is silent for longer than this is dead';
create index effects_by_run on effects (run_id, step);
create index effects_unknown on effects (tenant, started_at) where state = 'unknown';

create table effect_rulings (
    ruling_id  bigint generated always as identity primary key,
    tenant     text not null,
    tool       text not null,
    key        text not null,
    ruling     text not null check (ruling in ('done', 'not_done', 'again')),
    ruled_by   text not null,
    reason     text not null default '',
    ruled_at   timestamptz not null default now()
);
comment on table effect_rulings is 'what people said of effects with unknown outcome; rows are only ever added';

-- Before a tool runs, in one round trip: its arguments, and what the ledger allows.
--   done     the step's result is in the transcript already
--   go       run it, under the key and the token given
--   reused   the effect was done before: here is its recorded result
--   busy     somebody alive does it right now: ask again in wait_s
--   unknown  an attempt ended between start and end, and nobody knows whether it did its work
--   no_call  the transcript has no such call
-- p_rulings counts how often a person has told this step to do it again; p_checked is the number of attempts that the tool's own check
-- has found undone. A ruling is good only for the attempt that the person was asked about, a check for the one it looked at.
create function begin_tool(
    p_run text, p_step integer, p_model_step integer, p_call_id text, p_tenant text, p_tool text, p_effect text,
    p_key_argument text, p_key text, p_release_key text, p_token text, p_rulings integer, p_checked integer, p_worker text,
    p_lease_s double precision,
    out outcome text, out arguments text, out key text, out message jsonb, out blob_id text, out attempts integer,
    out holder_run text, out holder_step integer, out arguments_hash text, out reason text, out wait_s double precision
)
language plpgsql as $$
#variable_conflict use_column
declare
    v effects;
    v_lease interval := make_interval(secs => p_lease_s);
    v_live_until timestamptz;
    v_asked jsonb;
    v_ruled boolean;
begin
    key := p_run || ':' || p_step;
    attempts := 1;
    select t.message, t.blob_id into message, blob_id from transcript t where t.run_id = p_run and t.step = p_step and t.part = 0;
    if found then
        outcome := 'done';
        return;
    end if;
    select c->>'arguments' into arguments
      from transcript t, jsonb_array_elements(t.message->'tool_calls') c
     where t.run_id = p_run and t.step = p_model_step and t.part = 0 and c->>'call_id' = p_call_id;
    if not found then
        outcome := 'no_call';
        return;
    end if;
    outcome := 'go';
    if p_effect = 'pure' then
        return;
    end if;
    if p_key is not null then
        key := p_key;
    elsif p_key_argument is not null then
        key := coalesce(p_key_argument || '=' || nullif(json_argument(arguments, p_key_argument), ''), key);
    end if;
    if octet_length(key) > 512 then  -- an index holds no long texts
        key := left(key, 64) || ':sha256:' || encode(sha256(convert_to(key, 'UTF8')), 'hex');
    end if;
    if p_release_key is not null then
        delete from effects e
         where e.tenant = p_tenant and e.tool = p_tool and e.key = p_release_key and e.token = p_token and e.state = 'started';
    end if;
    insert into effects (tenant, tool, key, effect, state, run_id, step, token, worker, lease_until)
    values (p_tenant, p_tool, begin_tool.key, p_effect, 'started', p_run, p_step, p_token, p_worker, now() + v_lease)
    on conflict do nothing;
    if found then
        return;
    end if;

    select * into v from effects e where e.tenant = p_tenant and e.tool = p_tool and e.key = begin_tool.key for update;
    attempts := v.attempts;
    if v.state in ('started', 'unknown') and (v.run_id, v.step) <> (p_run, p_step) then
        -- A step that has a result although its effect never ended: a person gave the result, and so ruled that it was done.
        select t.message, t.blob_id into v.message, v.blob_id from transcript t
         where t.run_id = v.run_id and t.step = v.step and t.part = 0 and not coalesce((t.message->>'is_error')::boolean, false);
        if found then
            v.state := 'succeeded';
            update effects e set state = v.state, message = v.message, blob_id = v.blob_id, finished_at = now()
             where e.tenant = p_tenant and e.tool = p_tool and e.key = begin_tool.key;
        end if;
    end if;
    holder_run := v.run_id;
    holder_step := v.step;
    if v.state = 'succeeded' then
        outcome := 'reused';
        message := v.message;
        blob_id := v.blob_id;
        arguments_hash := v.arguments_hash;
        return;
    end if;
    if v.state = 'started' and v.token = p_token then
        return;  -- the answer to our own begin was lost
    end if;
    -- While the database was away nobody could renew: right after its start every holder counts as alive.
    v_live_until := greatest(v.lease_until, pg_postmaster_start_time() + v_lease);
    if v.state = 'started' and v_live_until > clock_timestamp()
       and ((v.run_id, v.step) <> (p_run, p_step) or 'once' in (v.effect, p_effect)) then
        outcome := 'busy';
        wait_s := extract(epoch from v_live_until - clock_timestamp());
        return;
    end if;
    v_asked := v.questions->(p_run || ':' || p_step);
    v_ruled := v.state = 'unknown' and coalesce((v_asked->>0)::integer = v.attempts and (v_asked->>1)::integer < p_rulings, false);
    if v.state in ('started', 'unknown') and 'once' in (v.effect, p_effect) and not v_ruled
       and not (v.state = 'unknown' and p_checked is not distinct from v.attempts) then
        outcome := 'unknown';
        reason := coalesce(v.reason, 'its worker ended before the tool did');
        update effects e set state = 'unknown', reason = begin_tool.reason,
               questions = e.questions || jsonb_build_object(p_run || ':' || p_step, jsonb_build_array(e.attempts, p_rulings))
         where e.tenant = p_tenant and e.tool = p_tool and e.key = begin_tool.key;
        return;
    end if;
    if v_ruled then
        insert into effect_rulings (tenant, tool, key, ruling, ruled_by)
        values (p_tenant, p_tool, begin_tool.key, 'again', 'redrive of ' || p_run || ':' || p_step);
    end if;
    attempts := v.attempts + 1;
    update effects e set state = 'started', effect = p_effect, run_id = p_run, step = p_step, attempts = begin_tool.attempts,
           token = p_token, worker = p_worker, reason = null,
           arguments_hash = null, message = null, blob_id = null, started_at = now(), finished_at = null, lease_until = now() + v_lease
     where e.tenant = p_tenant and e.tool = p_tool and e.key = begin_tool.key;
end $$;

-- One argument of a call as text; null when it is not there or the arguments are no JSON object.
create function json_argument(p_arguments text, p_name text) returns text
language plpgsql immutable as $$
begin
    return (nullif(p_arguments, '')::json)->>p_name;
exception when data_exception then
    return null;
end $$;

-- After a tool ran, in one round trip: the ledger and the transcript together. The first result of a step stays. A null state
-- leaves the ledger alone. `recorded` is false when another attempt has taken the effect over in the meantime; when that one is
-- an attempt of this very step, a failure of ours is not the step's result, and there may be no message yet.
create function finish_tool(
    p_run text, p_step integer, p_agent text, p_tenant text, p_tool text, p_key text, p_token text, p_state text, p_reason text,
    p_arguments_hash text, p_message jsonb, p_tokens integer, p_blob_id text, p_blob bytea,
    out message jsonb, out blob_id text, out recorded boolean
)
language plpgsql as $$
#variable_conflict use_column
begin
    recorded := true;
    if p_blob is not null then
        insert into blobs (blob_id, body) values (p_blob_id, p_blob) on conflict do nothing;
    end if;
    if p_state is not null then
        update effects e set state = p_state, reason = p_reason, arguments_hash = p_arguments_hash, message = p_message,
               blob_id = p_blob_id, finished_at = now()
         where e.tenant = p_tenant and e.tool = p_tool and e.key = p_key
           and ((e.token = p_token and (e.state in ('started', 'unknown') or e.state = p_state))
                -- Done is done, also by an earlier attempt of this step.
                or (p_state = 'succeeded' and e.state <> 'succeeded' and (e.run_id, e.step) = (p_run, p_step)));
        recorded := found;
    end if;
    if recorded or p_state <> 'failed' or not exists (
        select from effects e where e.tenant = p_tenant and e.tool = p_tool and e.key = p_key and e.state = 'started'
                                and (e.run_id, e.step) = (p_run, p_step)
    ) then
        insert into transcript (run_id, step, agent, message, tokens, blob_id)
        values (p_run, p_step, p_agent, p_message, p_tokens, p_blob_id)
        on conflict do nothing;
    end if;
    select t.message, t.blob_id into message, blob_id from transcript t where t.run_id = p_run and t.step = p_step and t.part = 0;
end $$;

-- What a person says of an effect whose outcome is unknown. False when it is not unknown.
create function rule_effect(
    p_tenant text, p_tool text, p_key text, p_ruling text, p_by text, p_reason text, p_message jsonb
) returns boolean
language plpgsql as $$
begin
    update effects set state = case p_ruling when 'done' then 'succeeded' else 'failed' end, message = p_message,
           finished_at = now(), reason = case p_ruling when 'done' then null else 'a person says it was not done' end
     where tenant = p_tenant and tool = p_tool and key = p_key and state = 'unknown';
    if not found then
        return false;
    end if;
    insert into effect_rulings (tenant, tool, key, ruling, ruled_by, reason) values (p_tenant, p_tool, p_key, p_ruling, p_by, p_reason);
    return true;
end $$;
