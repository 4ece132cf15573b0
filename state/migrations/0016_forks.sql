-- Runs that walk the recorded steps of another one again: forks, and runs reborn from one that died (docs/adr/0019).

alter table runs
    add column forked_from    text,
    add column forked_at_step integer,
    add column fork_mode      text check (fork_mode in ('fork', 'rebirth')),
    add column forked_by      text;
comment on column runs.forked_from is 'the run whose steps it walks again; no reference, since it may outlive that run';
comment on column runs.forked_at_step is 'from here on its steps are its own; null on a sub-run';
create index runs_by_origin on runs (forked_from) where forked_from is not null;

alter table model_calls add column shared boolean not null default false;
comment on column model_calls.shared is 'copied from the run that paid for it: no call of this run, and no cost';

-- A paid turn as a run that shares it finds it: it costs nothing, and calls whose result is in the transcript already are done, unless
-- a person has yet to let the model see it: a result that is held back is let pass when the old run went on to its next model call.
create function shared_turn(p_old text, p_run text, p_turn jsonb) returns jsonb
language sql stable as $$
    select p_turn || '{"cost_usd": "0", "unknown_usd": "0", "usage": {}, "shared": true}' || case when p_turn ? 'calls' then
        jsonb_build_object('calls', coalesce((
            select jsonb_agg(case when exists (select from transcript t where t.run_id = p_run and t.step = (c->>'step')::integer and t.part = 0)
                                   and not exists (select from held_results h
                                                    where h.run_id = p_run and h.step = (c->>'step')::integer and h.state = 'asked'
                                                      and not exists (select from model_calls m where m.run_id = p_old
                                                                         and m.step > (p_turn->>'last_step')::integer))
                                  then c || '{"done": true}' else c - 'done' end order by place)
              from jsonb_array_elements(p_turn->'calls') with ordinality as x(c, place)), '[]')) else '{}' end
$$;

-- Copies what is recorded of a run before a step, sub-runs included. A turn before it is copied whole, with what it told the model of
-- malformed calls and the sub-runs that it founded; a sub-run whose step is not before it has its first message only.
create function copy_steps(p_old text, p_new text, p_until integer, p_mode text) returns void
language plpgsql as $$
declare
    v_child record;
begin
    insert into transcript (run_id, step, part, agent, message, blob_id, tokens, summary_through, created_at)
    select p_new, t.step, t.part, t.agent, t.message, t.blob_id, t.tokens, t.summary_through, t.created_at
      from transcript t
     where t.run_id = p_old
       and (t.step < p_until or (t.part = 0 and exists (
            select from model_calls m
             where m.run_id = p_old and m.state = 'recorded' and m.step between 1 and p_until - 1
               and t.step > m.step and t.step <= (m.turn->>'last_step')::integer
               and not exists (select from jsonb_array_elements(m.turn->'calls') c where (c->>'step')::integer = t.step))));
    insert into held_results (run_id, step, state, agent, message, blob_id, tokens, ask, decided_by, reason, held_at, decided_at)
    select p_new, h.step, h.state, h.agent, h.message, h.blob_id, h.tokens, h.ask, h.decided_by, h.reason, h.held_at, h.decided_at
      from held_results h where h.run_id = p_old and h.step < p_until;
    -- Their time is now: what is forgotten by age is not forgotten with the run that paid.
    insert into model_calls (run_id, step, attempt, state, agent, provider, model, reserved_usd, price_version, request_id, simulated, reason,
           turn, worker, started_at, finished_at, tenant, user_id, key, asked_model, tier, downgraded_from, cache, shared)
    select p_new, m.step, 1, 'recorded', m.agent, m.provider, m.model, 0, 'shared', m.request_id, m.simulated, m.reason,
           shared_turn(p_old, p_new, m.turn), m.worker, now(), now(), m.tenant, m.user_id, m.key, m.asked_model, m.tier,
           m.downgraded_from, m.cache, true
      from model_calls m
     where m.run_id = p_old and m.state = 'recorded' and m.step between 1 and p_until - 1;
    -- Numbers below zero: no order that the new run is given has one.
    insert into edited_arguments (run_id, step, call_id, version, arguments, by, note, at)
    select p_new, e.step, e.call_id, e.version, e.arguments, e.by, -e.version, e.at
      from edited_arguments e where e.run_id = p_old and e.step < p_until;
    for v_child in
        select r.run_id, r.tenant, r.agent, r.definition_hash, r.user_id, r.cost_limit_usd, (c->>'step')::integer as step
          from model_calls m, jsonb_array_elements(m.turn->'calls') c, runs r
         where m.run_id = p_new and m.shared and c->>'kind' = 'agent' and r.run_id = p_old || '.' || (c->>'step')
         order by step
    loop
        insert into runs (run_id, tenant, agent, definition_hash, user_id, body_hash, parent_run_id, ancestors, cost_limit_usd, forked_from,
               fork_mode)
        select p_new || '.' || v_child.step, v_child.tenant, v_child.agent, v_child.definition_hash, v_child.user_id, '', p_new,
               n.ancestors || n.run_id, v_child.cost_limit_usd, v_child.run_id, p_mode
          from runs n where n.run_id = p_new;
        if p_mode = 'rebirth' then
            update runs n set effects_run = coalesce(o.effects_run, o.run_id) from runs o
             where n.run_id = p_new || '.' || v_child.step and o.run_id = v_child.run_id;
        end if;
        perform copy_steps(v_child.run_id, p_new || '.' || v_child.step, case when v_child.step < p_until then 2147483647 else 1 end, p_mode);
    end loop;
end $$;

-- Founds a run that shares what another one has recorded before a step, in one transaction: `made`, `there` when it was made before,
-- `taken` when its id is another run's, `no_run`. A reborn run goes on with the keys of the effects of the one that died.
-- p_message takes the place of the first message, p_arguments of the arguments of the call at the step, with p_ref what
-- orchestration knows of them.
create function fork_run(
    p_old text, p_new text, p_until integer, p_mode text, p_definition_hash text, p_cost_limit numeric, p_by text,
    p_message jsonb, p_tokens integer, p_call_id text, p_arguments text, p_ref jsonb
) returns text
language plpgsql as $$
declare
    -- Whoever records an answer of the old run, or of its sub-runs, waits: its rows are copied all or none.
    o runs := lock_books(p_old);
begin
    if o.run_id is null then
        return 'no_run';
    end if;
    insert into runs (run_id, tenant, agent, definition_hash, user_id, body_hash, cost_limit_usd, forked_from, forked_at_step, fork_mode, forked_by)
    values (p_new, o.tenant, o.agent, p_definition_hash, o.user_id, '', p_cost_limit, p_old, p_until, p_mode, p_by)
    on conflict do nothing;
    if not found then
        return case when exists (select from runs r where r.run_id = p_new and r.forked_from = p_old and r.fork_mode = p_mode
                                     and r.forked_at_step = p_until)
                    then 'there' else 'taken' end;
    end if;
    if p_mode = 'rebirth' then
        update runs n set effects_run = coalesce(r.effects_run, r.run_id) from runs r where n.run_id = p_new and r.run_id = p_old;
    end if;
    perform copy_steps(p_old, p_new, p_until, p_mode);
    if p_message is not null then
        update transcript set message = p_message, tokens = p_tokens, blob_id = null where run_id = p_new and step = 0 and part = 0;
    end if;
    if p_arguments is not null then
        update model_calls m
           set turn = jsonb_set(m.turn, '{calls}', (
                   select jsonb_agg(case when (c->>'step')::integer = p_until then c || p_ref else c end order by place)
                     from jsonb_array_elements(m.turn->'calls') with ordinality as x(c, place)))
         where m.run_id = p_new and m.shared
           and exists (select from jsonb_array_elements(m.turn->'calls') c where (c->>'step')::integer = p_until);
        insert into edited_arguments (run_id, step, call_id, version, arguments, by, note)
        values (p_new, p_until, p_call_id, 2, p_arguments, p_by, 0);
    end if;
    return 'made';
end $$;
