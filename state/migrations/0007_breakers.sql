-- Circuit breakers that all workers share, and what workers say of their keys (docs/adr/0014).

create table circuit_breakers (
    scope            text primary key,
    state            text not null default 'closed' check (state in ('closed', 'open', 'half_open')),
    reason           text,
    failure_class    text,
    consecutive      integer not null default 0,
    window_start     timestamptz not null default clock_timestamp(),
    window_calls     integer not null default 0,
    window_failures  integer not null default 0,
    before_calls     integer not null default 0,
    before_failures  integer not null default 0,
    failed_at        timestamptz,
    opened_at        timestamptz,
    open_until       timestamptz,
    probe_by         text,
    probe_until      timestamptz,
    cooldown_until   timestamptz,
    forced           text check (forced in ('open', 'closed')),
    forced_by        text,
    forced_reason    text,
    openings         bigint not null default 0,
    probes           bigint not null default 0,
    updated_at       timestamptz not null default clock_timestamp()
);
comment on table circuit_breakers is 'a row for every scope that ever had trouble: provider:NAME, model:PROVIDER:MODEL, key:PROVIDER/KEY, key:PROVIDER/KEY:MODEL';
comment on column circuit_breakers.window_calls is 'since window_start; before_* is the window that ended there: together they make a window that slides';
comment on column circuit_breakers.open_until is 'from then on one probe is let through';
comment on column circuit_breakers.probe_until is 'a prober that is silent for longer than this is dead';
comment on column circuit_breakers.cooldown_until is 'the other side asked for no call before that; no failure';
comment on column circuit_breakers.forced is 'set by hand, over whatever state says';

-- A row as workers use it: times as seconds from now, so that no worker compares its own clock with the database's.
create view breaker_standings as
select scope, state, reason, failure_class, consecutive, window_calls + before_calls as calls, window_failures + before_failures as failures,
       extract(epoch from clock_timestamp() - failed_at)::float8 as failed_ago_s,
       extract(epoch from open_until - clock_timestamp())::float8 as open_for_s,
       extract(epoch from probe_until - clock_timestamp())::float8 as probe_for_s,
       extract(epoch from cooldown_until - clock_timestamp())::float8 as cooling_for_s,
       probe_by, forced, forced_by, forced_reason, openings, probes, opened_at, updated_at
  from circuit_breakers;

-- The window moved to the present. When one ends it becomes the one before, which counts less and less.
create function breaker_window(b circuit_breakers, p_window_s double precision) returns circuit_breakers
language plpgsql volatile as $$
declare
    v_age_s double precision := extract(epoch from clock_timestamp() - b.window_start);
begin
    if v_age_s >= 0 and v_age_s < p_window_s then
        return b;
    end if;
    b.before_calls := case when v_age_s between 0 and 2 * p_window_s then b.window_calls else 0 end;
    b.before_failures := case when v_age_s between 0 and 2 * p_window_s then b.window_failures else 0 end;
    b.window_calls := 0;
    b.window_failures := 0;
    b.window_start := case when v_age_s between 0 and 2 * p_window_s
                           then b.window_start + make_interval(secs => p_window_s) else clock_timestamp() end;
    return b;
end $$;

-- Whether the counts say that it should open: so many failures in a row, or too large a share of the window's calls.
create function breaker_trips(
    b circuit_breakers, p_consecutive integer, p_rate double precision, p_window_s double precision, p_minimum integer
) returns text
language plpgsql volatile as $$
declare
    v_weight double precision := greatest(0, 1 - extract(epoch from clock_timestamp() - b.window_start) / p_window_s);
    v_calls double precision := b.window_calls + v_weight * b.before_calls;
    v_failures double precision := b.window_failures + v_weight * b.before_failures;
begin
    if b.consecutive >= p_consecutive then
        return b.consecutive || ' failures in a row';
    elsif v_calls >= p_minimum and v_failures >= p_rate * v_calls then
        return format('%s of %s calls failed within %s s', round(v_failures), round(v_calls), p_window_s);
    end if;
    return null;
end $$;

create function breaker_opened(b circuit_breakers, p_open_s double precision, p_reason text, p_class text) returns circuit_breakers
language plpgsql volatile as $$
begin
    b.opened_at := case b.state when 'closed' then clock_timestamp() else b.opened_at end;
    b.openings := b.openings + case b.state when 'closed' then 1 else 0 end;
    b.state := 'open';
    b.reason := coalesce(p_reason, b.reason);
    b.failure_class := coalesce(p_class, b.failure_class);
    b.open_until := clock_timestamp() + make_interval(secs => p_open_s);
    b.probe_by := null;
    b.probe_until := null;
    return b;
end $$;

create function breaker_closed(b circuit_breakers) returns circuit_breakers
language plpgsql volatile as $$
begin
    b.state := 'closed';
    b.reason := null;
    b.failure_class := null;
    b.consecutive := 0;
    b.window_calls := 0;
    b.window_failures := 0;
    b.before_calls := 0;
    b.before_failures := 0;
    b.failed_at := null;
    b.open_until := null;
    b.probe_by := null;
    b.probe_until := null;
    return b;
end $$;

-- What calls of one worker came to since it last said so; one element a scope:
--   calls, failures, in_a_row (failures after the last good call), good (there was a good call), reason (of the last failure)
--   trip_s   open at once for so long      cool_s   the other side asked to wait so long
--   probe    what its probe came to: 'good', 'bad', 'none' when the call ended without a say, 'unsent' when it was never sent
-- While it is open only the probe counts: calls that began before it opened end long afterwards.
create function record_outcomes(
    p_worker text, p_outcomes jsonb, p_consecutive integer, p_rate double precision, p_window_s double precision, p_minimum integer,
    p_open_s double precision
) returns setof breaker_standings
language plpgsql as $$
declare
    o record;
    b circuit_breakers;
    v_before circuit_breakers;
    v_trips text;
begin
    for o in
        select * from jsonb_to_recordset(p_outcomes) as x(
            scope text, calls integer, failures integer, in_a_row integer, good boolean, reason text,
            failure_class text, trip_s float8, cool_s float8, probe text
        ) order by scope
    loop
        if o.failures > 0 or o.trip_s is not null or o.cool_s is not null then
            insert into circuit_breakers (scope) values (o.scope) on conflict do nothing;
        end if;
        select * into b from circuit_breakers where scope = o.scope for update;
        continue when not found;
        v_before := b;
        b := breaker_window(b, p_window_s);
        b.window_calls := b.window_calls + o.calls;
        b.window_failures := b.window_failures + o.failures;
        b.consecutive := case when o.good then 0 else b.consecutive end + o.in_a_row;
        if o.failures > 0 then
            b.failed_at := clock_timestamp();
        end if;
        b.cooldown_until := greatest(b.cooldown_until, clock_timestamp() + make_interval(secs => o.cool_s));
        v_trips := breaker_trips(b, p_consecutive, p_rate, p_window_s, p_minimum);
        if o.probe = 'good' and b.state <> 'closed' then
            b := breaker_closed(b);
        elsif o.trip_s is not null then
            b := breaker_opened(b, o.trip_s, o.reason, o.failure_class);
        elsif o.probe is not null and b.state = 'half_open' and b.probe_by = p_worker then
            b := breaker_opened(b, case o.probe when 'unsent' then 0 else p_open_s end, o.reason, o.failure_class);
            b.probes := b.probes - case o.probe when 'unsent' then 1 else 0 end;
        elsif b.state = 'closed' and o.failures > 0 and v_trips is not null then
            b := breaker_opened(b, p_open_s, v_trips || coalesce(': ' || o.reason, ''), o.failure_class);
        end if;
        b.updated_at := clock_timestamp();
        update circuit_breakers set
            (state, reason, failure_class, consecutive, window_start, window_calls, window_failures, before_calls, before_failures,
             failed_at, opened_at, open_until, probe_by, probe_until, cooldown_until, openings, probes, updated_at)
          = (b.state, b.reason, b.failure_class, b.consecutive, b.window_start, b.window_calls, b.window_failures, b.before_calls,
             b.before_failures, b.failed_at, b.opened_at, b.open_until, b.probe_by, b.probe_until, b.cooldown_until, b.openings, b.probes,
             b.updated_at)
         where scope = o.scope;
        -- The others must hear of a change, of a wait, and of the first failure after a quiet time: from then on good calls count too.
        if b.state <> v_before.state or b.open_until is distinct from v_before.open_until
           or b.cooldown_until is distinct from v_before.cooldown_until
           or (o.failures > 0 and coalesce(v_before.failed_at < clock_timestamp() - make_interval(secs => p_window_s), true)) then
            perform pg_notify('holdfast_breakers', o.scope);
        end if;
    end loop;
    return query select s.* from breaker_standings s
                  where s.scope in (select e->>'scope' from jsonb_array_elements(p_outcomes) e);
end $$;

-- One worker wins the probe of all these scopes that are due, or of none; of several that ask at once exactly one. A claim that nobody
-- renews ends after p_lease_s. Returns those that were due; null when one of them is open and not due, or forced open.
create function claim_probe(p_worker text, p_scopes text[], p_lease_s double precision) returns text[]
language plpgsql as $$
declare
    b circuit_breakers;
    v_due text[] := '{}';
begin
    for b in select * from circuit_breakers where scope = any(p_scopes) order by scope for update
    loop
        if b.forced = 'open' then
            return null;
        elsif b.forced = 'closed' or b.state = 'closed' then
            continue;
        elsif (b.state = 'open' and b.open_until <= clock_timestamp())
              or (b.state = 'half_open' and b.probe_until <= clock_timestamp()) then
            v_due := v_due || b.scope;
        else
            return null;
        end if;
    end loop;
    update circuit_breakers set state = 'half_open', probe_by = p_worker, probes = probes + 1, updated_at = clock_timestamp(),
           probe_until = clock_timestamp() + make_interval(secs => p_lease_s)
     where scope = any(v_due);
    perform pg_notify('holdfast_breakers', due) from unnest(v_due) due;
    return v_due;
end $$;

-- What a person says: 'open', 'closed', or null to let the counts decide again. Closed by hand forgets what went before.
create function force_breaker(p_scope text, p_forced text, p_by text, p_reason text) returns setof breaker_standings
language plpgsql as $$
declare
    b circuit_breakers;
begin
    insert into circuit_breakers (scope) values (p_scope) on conflict do nothing;
    select * into b from circuit_breakers where scope = p_scope for update;
    if p_forced = 'closed' then
        b := breaker_closed(b);
        b.cooldown_until := null;
    end if;
    update circuit_breakers set
        (state, reason, failure_class, consecutive, window_calls, window_failures, before_calls, before_failures, failed_at, open_until,
         probe_by, probe_until, cooldown_until, forced, forced_by, forced_reason, updated_at)
      = (b.state, b.reason, b.failure_class, b.consecutive, b.window_calls, b.window_failures, b.before_calls, b.before_failures, b.failed_at,
         b.open_until, b.probe_by, b.probe_until, b.cooldown_until, p_forced, p_by, p_reason, clock_timestamp())
     where scope = p_scope;
    perform pg_notify('holdfast_breakers', p_scope);
    return query select s.* from breaker_standings s where s.scope = p_scope;
end $$;

create table worker_keys (
    worker    text not null,
    provider  text not null,
    key       text not null,
    source    text not null,
    problem   text,
    read_at   timestamptz,
    seen_at   timestamptz not null default now(),
    primary key (worker, provider, key)
);
comment on table worker_keys is 'which keys each worker has, by name and place; never the keys themselves';
comment on column worker_keys.problem is 'why the worker cannot use it; null when it can';
comment on column worker_keys.seen_at is 'when the worker last said so: one that is silent for long has ended';
