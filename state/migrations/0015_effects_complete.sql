-- The effect ledger complete: edited arguments, hooks, undoing, runs that were reborn (docs/adr/0018).

alter table runs add column effects_run text;
comment on column runs.effects_run is 'the first of the runs that this one is a rebirth of: its effects keep that one''s keys; null: its own';
create index runs_by_effects_run on runs (effects_run) where effects_run is not null;

alter table effects drop constraint effects_state_check;
alter table effects add constraint effects_state_check
    check (state in ('started', 'succeeded', 'failed', 'unknown', 'undoing', 'undone'));
alter table effects
    add column call_id text,
    add column arguments text,
    add column undo_timeout_s double precision,
    add column generation integer not null default 1;
comment on column effects.arguments is 'what it was called with, as JSON, a person''s edit included: what undoing it is given';
comment on column effects.undo_timeout_s is 'seconds that undoing it may take; null: the tool declares no undo';
comment on column effects.generation is '1, and one more each time it is done anew after having been undone: another effect to the other side';
comment on column effects.state is 'undoing: see the row of the tool NAME.undo under the same key; undone: may be done anew';

drop index effects_unknown;
create index effects_open on effects (tenant, started_at) where state in ('unknown', 'undoing');

create table held_results (
    run_id      text not null references runs on delete cascade,
    step        integer not null,
    state       text not null check (state in ('pending', 'released', 'asked', 'withheld')),
    agent       text not null,
    message     jsonb not null,
    blob_id     text references blobs,
    tokens      integer not null,
    ask         jsonb,
    decided_by  text,
    reason      text not null default '',
    held_at     timestamptz not null default now(),
    decided_at  timestamptz,
    primary key (run_id, step)
);
comment on table held_results is 'tool results that a hook looks at before the model may see them, and those that were withheld';
comment on column held_results.message is 'the result itself; of a withheld one the transcript holds other words, of a pending one none yet';
comment on column held_results.state is 'asked: a hook let a person decide, and the run waits';

-- Undoing changes the world as doing does: answers that the effect made old are old again (0011).
drop trigger effects_invalidate on effects;
create trigger effects_invalidate after update of state on effects
    for each row
    when (new.invalidates <> '{}' and new.state is distinct from old.state
          and (new.state in ('succeeded', 'unknown', 'undone') or (new.state = 'failed' and new.effect = 'idempotent')))
    execute function invalidate_by_effect();

drop function begin_tool(text, integer, integer, text, text, text, text, text, text, text, text, integer, integer, text, double precision);
drop function finish_tool(text, integer, text, text, text, text, text, text, text, text, jsonb, integer, text, bytea);

-- Before a tool runs, in one round trip: its arguments, and what the ledger allows.
--   done     the step has its result already; `held` (p_hold): one that a hook has yet to look at
--   go       run it, under the key and the token given
--   reused   the effect was done before: here is its recorded result
--   busy     somebody alive does it, or undoes it, right now: ask again in wait_s
--   unknown  an attempt ended between start and end, and nobody knows whether it did its work; `undoing`: or whether it was undone
--   no_call  the transcript has no such call
--   look     (p_look) nothing of this step has begun with these arguments: hooks may still stop it; nothing was entered
-- p_rulings counts how often a person has told this step to do it again; p_checked is the number of attempts that the tool's own check
-- has found undone. A ruling is good only for the attempt that the person was asked about, a check for the one it looked at.
create function begin_tool(
    p_run text, p_step integer, p_model_step integer, p_call_id text, p_tenant text, p_tool text, p_effect text,
    p_key_argument text, p_key text, p_release_key text, p_token text, p_rulings integer, p_checked integer, p_worker text,
    p_lease_s double precision, p_undo_timeout_s double precision, p_look boolean, p_hold boolean,
    out outcome text, out arguments text, out edited boolean, out key text, out by_step boolean, out message jsonb, out blob_id text,
    out held boolean, out ask jsonb, out attempts integer, out generation integer, out holder_run text, out holder_step integer,
    out arguments_hash text, out reason text, out undoing boolean, out wait_s double precision
)
language plpgsql as $$
#variable_conflict use_column
declare
    v effects;
    u effects;
    v_lease interval := make_interval(secs => p_lease_s);
    v_live_until timestamptz;
    v_asked jsonb;
    v_ruled boolean;
    v_own text;
begin
    key := p_run || ':' || p_step;
    by_step := true;
    attempts := 1;
    generation := 1;
    held := false;
    edited := false;
    undoing := false;
    select t.message, t.blob_id, h.ask into message, blob_id, ask
      from transcript t left join held_results h on h.run_id = t.run_id and h.step = t.step and h.state = 'asked'
     where t.run_id = p_run and t.step = p_step and t.part = 0;
    if found then
        outcome := 'done';
        return;
    end if;
    if p_hold then
        select h.message, h.blob_id into message, blob_id from held_results h
         where h.run_id = p_run and h.step = p_step and h.state = 'pending';
        held := found;
    end if;
    select coalesce(a.arguments, c->>'arguments'), a.arguments is not null into arguments, edited
      from transcript t cross join jsonb_array_elements(t.message->'tool_calls') c
      left join lateral (
          select x.arguments::text as arguments from edited_arguments x
           where x.run_id = p_run and x.step = p_step and x.call_id = p_call_id order by x.version desc limit 1
      ) a on true
     where t.run_id = p_run and t.step = p_model_step and t.part = 0 and c->>'call_id' = p_call_id;
    if held then
        outcome := 'done';
        return;
    end if;
    if arguments is null then
        outcome := 'no_call';
        edited := false;
        return;
    end if;
    if p_effect <> 'pure' then
        v_own := coalesce((select r.effects_run from runs r where r.run_id = p_run), p_run) || ':' || p_step;
        key := coalesce(p_key, case when p_key_argument is not null then
                                   p_key_argument || '=' || nullif(json_argument(arguments, p_key_argument), '') end, v_own);
        by_step := key = v_own;
        if octet_length(key) > 512 then  -- an index holds no long texts
            key := left(key, 64) || ':sha256:' || encode(sha256(convert_to(key, 'UTF8')), 'hex');
        end if;
    end if;
    if p_look and not exists (
        select from effects e where e.run_id = p_run and e.step = p_step and e.tenant = p_tenant and e.tool = p_tool
                                and e.state in ('started', 'unknown') and e.arguments = begin_tool.arguments
    ) then
        outcome := 'look';
        return;
    end if;
    outcome := 'go';
    if p_effect = 'pure' then
        return;
    end if;
    if p_release_key is not null then
        delete from effects e
         where e.tenant = p_tenant and e.tool = p_tool and e.key = p_release_key and e.token = p_token and e.state = 'started';
    end if;
    insert into effects (tenant, tool, key, effect, state, run_id, step, token, worker, lease_until, call_id, arguments, undo_timeout_s)
    values (p_tenant, p_tool, begin_tool.key, p_effect, 'started', p_run, p_step, p_token, p_worker, now() + v_lease, p_call_id,
            begin_tool.arguments, p_undo_timeout_s)
    on conflict do nothing;
    if found then
        return;
    end if;

    select * into v from effects e where e.tenant = p_tenant and e.tool = p_tool and e.key = begin_tool.key for update;
    attempts := v.attempts;
    generation := v.generation;
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
    undoing := v.state = 'undoing';
    if undoing then
        select * into u from effects e where e.tenant = p_tenant and e.tool = p_tool || '.undo' and e.key = begin_tool.key for update;
        holder_run := u.run_id;
        holder_step := u.step;
    end if;
    -- While the database was away nobody could renew: right after its start every holder counts as alive.
    v_live_until := greatest(case when undoing then u.lease_until else v.lease_until end, pg_postmaster_start_time() + v_lease);
    if v_live_until > clock_timestamp()
       and ((undoing and u.state = 'started')
            or (v.state = 'started' and ((v.run_id, v.step) <> (p_run, p_step) or 'once' in (v.effect, p_effect)))) then
        outcome := 'busy';
        wait_s := extract(epoch from v_live_until - clock_timestamp());
        return;
    end if;
    v_asked := v.questions->(p_run || ':' || p_step);
    v_ruled := v.state in ('unknown', 'undoing')
               and coalesce((v_asked->>0)::integer = v.attempts and (v_asked->>1)::integer < p_rulings, false);
    if (undoing or (v.state in ('started', 'unknown') and 'once' in (v.effect, p_effect))) and not v_ruled
       and not (v.state = 'unknown' and p_checked is not distinct from v.attempts) then
        outcome := 'unknown';
        reason := case when undoing then coalesce(u.reason, 'its worker ended before it was undone')
                       else coalesce(v.reason, 'its worker ended before the tool did') end;
        update effects e set state = case when undoing then 'undoing' else 'unknown' end, reason = begin_tool.reason,
               questions = e.questions || jsonb_build_object(p_run || ':' || p_step, jsonb_build_array(e.attempts, p_rulings))
         where e.tenant = p_tenant and e.tool = p_tool and e.key = begin_tool.key;
        update effects e set state = 'unknown', reason = begin_tool.reason
         where undoing and e.tenant = p_tenant and e.tool = p_tool || '.undo' and e.key = begin_tool.key and e.state = 'started';
        return;
    end if;
    if v_ruled then
        insert into effect_rulings (tenant, tool, key, ruling, ruled_by)
        values (p_tenant, p_tool, begin_tool.key, 'again', 'redrive of ' || p_run || ':' || p_step);
        update effects e set state = 'succeeded', reason = 'a person says that it may be done again', finished_at = now()
         where undoing and e.tenant = p_tenant and e.tool = p_tool || '.undo' and e.key = begin_tool.key;
    end if;
    undoing := false;
    attempts := v.attempts + 1;
    generation := v.generation + case when v.state in ('undoing', 'undone') then 1 else 0 end;
    update effects e set state = 'started', effect = p_effect, run_id = p_run, step = p_step, attempts = begin_tool.attempts,
           generation = begin_tool.generation, token = p_token, worker = p_worker, call_id = p_call_id, arguments = begin_tool.arguments,
           undo_timeout_s = p_undo_timeout_s, reason = null, arguments_hash = null, message = null, blob_id = null, started_at = now(),
           finished_at = null, lease_until = now() + v_lease
     where e.tenant = p_tenant and e.tool = p_tool and e.key = begin_tool.key;
end $$;

-- After a tool ran, in one round trip: the ledger and the transcript together. The first result of a step stays. A null state
-- leaves the ledger alone. `recorded` is false when another attempt has taken the effect over in the meantime; when that one is
-- an attempt of this very step, a failure of ours is not the step's result, and there may be no message yet. p_note stands before
-- the result in this run only. With p_hold the model is not shown it before a hook has looked: `message` is what the hook sees.
create function finish_tool(
    p_run text, p_step integer, p_agent text, p_tenant text, p_tool text, p_key text, p_token text, p_state text, p_reason text,
    p_arguments_hash text, p_message jsonb, p_tokens integer, p_blob_id text, p_blob bytea, p_note text, p_hold boolean,
    out message jsonb, out blob_id text, out recorded boolean, out held boolean, out ask jsonb
)
language plpgsql as $$
#variable_conflict use_column
declare
    v_message jsonb := p_message;
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
                or (p_state = 'succeeded' and e.state in ('started', 'failed', 'unknown') and (e.run_id, e.step) = (p_run, p_step)));
        recorded := found;
    end if;
    if recorded or p_state <> 'failed' or not exists (
        select from effects e where e.tenant = p_tenant and e.tool = p_tool and e.key = p_key and e.state = 'started'
                                and (e.run_id, e.step) = (p_run, p_step)
    ) then
        if p_note is not null then
            v_message := jsonb_set(v_message, '{text}', to_jsonb(p_note || coalesce(v_message->>'text', '')));
        end if;
        if not p_hold then
            insert into transcript (run_id, step, agent, message, tokens, blob_id)
            values (p_run, p_step, p_agent, v_message, p_tokens, p_blob_id)
            on conflict do nothing;
        elsif not exists (select from transcript t where t.run_id = p_run and t.step = p_step and t.part = 0) then
            insert into held_results (run_id, step, state, agent, message, blob_id, tokens)
            values (p_run, p_step, 'pending', p_agent, v_message, p_blob_id, p_tokens)
            on conflict do nothing;
        end if;
    end if;
    held := false;
    select t.message, t.blob_id, h.ask into message, blob_id, ask
      from transcript t left join held_results h on h.run_id = t.run_id and h.step = t.step and h.state = 'asked'
     where t.run_id = p_run and t.step = p_step and t.part = 0;
    if not found then
        select h.message, h.blob_id, true into message, blob_id, held from held_results h
         where p_hold and h.run_id = p_run and h.step = p_step and h.state = 'pending';
        held := coalesce(held, false);
    end if;
end $$;

-- What a hook says of a result that is held for it: shown as it is (released, or asked: a person decides, and the run waits), or withheld.
-- The first word stands. Gives the step's message as the model sees it.
create function settle_result(p_run text, p_step integer, p_state text, p_by text, p_reason text, p_ask jsonb, p_message jsonb)
returns jsonb
language plpgsql as $$
begin
    update held_results set state = p_state, ask = p_ask, decided_by = p_by, reason = p_reason, decided_at = now()
     where run_id = p_run and step = p_step and state = 'pending';
    if found then
        insert into transcript (run_id, step, agent, message, tokens, blob_id)
        select run_id, step, agent, case when p_state = 'withheld' then p_message else message end, tokens, blob_id
          from held_results where run_id = p_run and step = p_step
        on conflict do nothing;
    end if;
    return (select t.message from transcript t where t.run_id = p_run and t.step = p_step and t.part = 0);
end $$;

-- A person does not let the model see a result. It is kept, and another run that shares the effect gets it all the same.
create function withhold_result(p_run text, p_step integer, p_by text, p_reason text, p_text text, p_tokens integer) returns boolean
language plpgsql as $$
begin
    insert into held_results (run_id, step, state, agent, message, blob_id, tokens, decided_by, reason, decided_at)
    select p_run, p_step, 'withheld', t.agent, t.message, t.blob_id, t.tokens, p_by, p_reason, now()
      from transcript t where t.run_id = p_run and t.step = p_step and t.part = 0
    on conflict (run_id, step) do update
       set state = 'withheld', decided_by = p_by, reason = p_reason, decided_at = now() where held_results.state <> 'withheld';
    if not found then
        return false;
    end if;
    update transcript set message = jsonb_set(message, '{text}', to_jsonb(p_text)), tokens = p_tokens
     where run_id = p_run and step = p_step and part = 0;
    return true;
end $$;

-- Before an effect is undone, in one round trip. The row of the effect says whether it stands; the undo has a row of its own, of the tool
-- NAME.undo under the same key. Whoever takes both locks the effect's first.
--   go       undo it; until finish_undo nobody is given the effect's result
--   done     it was undone already
--   gone     it is not there to be undone: it was done anew since, or is not known to stand
--   busy, unknown  as in begin_tool, of the undoing
create function begin_undo(
    p_run text, p_step integer, p_tenant text, p_tool text, p_key text, p_doing integer, p_token text, p_rulings integer, p_worker text,
    p_lease_s double precision,
    out outcome text, out arguments text, out message jsonb, out blob_id text, out generation integer, out attempts integer,
    out holder_run text, out holder_step integer, out reason text, out wait_s double precision
)
language plpgsql as $$
#variable_conflict use_column
declare
    v effects;
    u effects;
    v_lease interval := make_interval(secs => p_lease_s);
    v_undo text := p_tool || '.undo';
    v_live_until timestamptz;
    v_asked jsonb;
begin
    select * into v from effects e where e.tenant = p_tenant and e.tool = p_tool and e.key = p_key for update;
    if not found or v.attempts <> p_doing or v.state not in ('succeeded', 'undoing', 'undone') then
        outcome := 'gone';
        attempts := 0;
        generation := 1;
        holder_run := v.run_id;
        holder_step := v.step;
        reason := coalesce(v.state, 'it has no row in the ledger');
        return;
    end if;
    arguments := v.arguments;
    generation := v.generation;
    message := v.message;
    blob_id := v.blob_id;
    select * into u from effects e where e.tenant = p_tenant and e.tool = v_undo and e.key = p_key for update;
    attempts := coalesce(u.attempts, 0);
    holder_run := u.run_id;
    holder_step := u.step;
    if v.state = 'undone' then
        outcome := 'done';
        message := u.message;
        return;
    end if;
    outcome := 'go';
    if v.state = 'undoing' then
        if u.state = 'started' and u.token = p_token then
            return;  -- the answer to our own begin was lost
        end if;
        v_live_until := greatest(u.lease_until, pg_postmaster_start_time() + v_lease);
        if u.state = 'started' and v_live_until > clock_timestamp() then
            outcome := 'busy';
            wait_s := extract(epoch from v_live_until - clock_timestamp());
            return;
        end if;
        v_asked := u.questions->(p_run || ':' || p_step);
        if not (u.state = 'unknown' and coalesce((v_asked->>0)::integer = u.attempts and (v_asked->>1)::integer < p_rulings, false)) then
            outcome := 'unknown';
            reason := coalesce(u.reason, 'its worker ended before the undoing did');
            update effects e set state = 'unknown', reason = begin_undo.reason,
                   questions = e.questions || jsonb_build_object(p_run || ':' || p_step, jsonb_build_array(e.attempts, p_rulings))
             where e.tenant = p_tenant and e.tool = v_undo and e.key = p_key;
            return;
        end if;
        insert into effect_rulings (tenant, tool, key, ruling, ruled_by)
        values (p_tenant, v_undo, p_key, 'again', 'redrive of ' || p_run || ':' || p_step);
    end if;
    -- An undo's row that is there although the effect stands is of an earlier time: refused then, or the effect was done anew since.
    attempts := attempts + 1;
    insert into effects (tenant, tool, key, effect, state, run_id, step, token, worker, lease_until, call_id, arguments, generation)
    values (p_tenant, v_undo, p_key, 'once', 'started', p_run, p_step, p_token, p_worker, now() + v_lease, v.call_id, v.arguments,
            v.generation)
    on conflict (tenant, tool, key) do update
       set state = 'started', run_id = p_run, step = p_step, attempts = begin_undo.attempts, token = p_token, worker = p_worker,
           lease_until = now() + v_lease, call_id = v.call_id, arguments = v.arguments, generation = v.generation, reason = null,
           message = null, started_at = now(), finished_at = null;
    update effects e set state = 'undoing' where e.tenant = p_tenant and e.tool = p_tool and e.key = p_key;
end $$;

-- After an undo ran: its own row and the effect's together. False when another attempt has taken it over in the meantime.
create function finish_undo(p_tenant text, p_tool text, p_key text, p_token text, p_state text, p_reason text, p_message jsonb)
returns boolean
language plpgsql as $$
begin
    perform from effects where tenant = p_tenant and tool = p_tool and key = p_key for update;
    update effects set state = p_state, reason = p_reason, message = p_message, finished_at = now()
     where tenant = p_tenant and tool = p_tool || '.undo' and key = p_key and token = p_token
       and (state in ('started', 'unknown') or state = p_state);
    if not found then
        return false;
    end if;
    update effects set state = case p_state when 'succeeded' then 'undone' else 'succeeded' end, reason = null
     where tenant = p_tenant and tool = p_tool and key = p_key and state = 'undoing';
    return true;
end $$;

-- What a person says of an effect, or of the undoing of one, whose outcome is unknown. False when it is not unknown. Of an effect of
-- which nobody knows whether it was undone, `done` says that it stands. Of an undo that could do nothing it says that it was undone by hand.
create or replace function rule_effect(
    p_tenant text, p_tool text, p_key text, p_ruling text, p_by text, p_reason text, p_message jsonb
) returns boolean
language plpgsql as $$
declare
    v_is_undo boolean := right(p_tool, 5) = '.undo';
    v_effect text := case when v_is_undo then left(p_tool, -5) else p_tool end;
    v_stands boolean := (p_ruling = 'done') <> v_is_undo;
begin
    perform from effects where tenant = p_tenant and tool = v_effect and key = p_key for update;
    update effects set state = case p_ruling when 'done' then 'succeeded' else 'failed' end, message = p_message,
           finished_at = now(), reason = case p_ruling when 'done' then null else 'a person says it was not done' end
     where tenant = p_tenant and tool = p_tool and key = p_key
       and (state = 'unknown'
            or (v_is_undo and p_ruling = 'done' and state = 'failed'
                and (select e.state = 'succeeded' and e.generation = effects.generation from effects e
                      where e.tenant = p_tenant and e.tool = v_effect and e.key = p_key)));
    if not found then
        update effects set state = case when v_stands then 'failed' else 'succeeded' end, finished_at = now(),
               reason = case when v_stands then 'a person says that it stands' else 'a person says that it does not stand' end
         where tenant = p_tenant and tool = v_effect || '.undo' and key = p_key and state = 'unknown';
        if not found then
            return false;
        end if;
    end if;
    update effects set state = case when v_stands then 'succeeded' else 'undone' end, reason = null
     where tenant = p_tenant and tool = v_effect and key = p_key
       and (state = 'undoing' or (v_is_undo and not v_stands and state = 'succeeded'));
    insert into effect_rulings (tenant, tool, key, ruling, ruled_by, reason) values (p_tenant, p_tool, p_key, p_ruling, p_by, p_reason);
    return true;
end $$;
