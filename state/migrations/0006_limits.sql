-- What all workers share of the limits: how far each is used, who waits, who holds. Why it is as it is: docs/adr/0012-limiter.md.
-- Moments are seconds since the epoch by this database's clock: they are counted with, not shown.

create table limit_buckets (
    name            text primary key,
    kind            smallint not null,
    limit_units     double precision not null default 0,
    period_s        double precision not null default 60,
    headroom        double precision not null default 0,
    effective       double precision not null default 0,
    tat             double precision not null default 0,
    idle_at         double precision not null default 0,
    seen_at         double precision not null default 0,
    blocked_until   double precision not null default 0,
    told_limit      double precision,
    told_remaining  double precision,
    told_at         double precision,
    used            double precision not null default 0,
    day             bigint not null default 0,
    largest         double precision not null default 0,
    largest_before  double precision not null default 0,
    epoch           bigint not null default 0,
    ahead           double precision[],
    ahead_through   bigint not null default 0,
    settled_ratio   double precision not null default 1,
    passing_share   double precision not null default 0,
    hold_s          double precision not null default 5
) with (fillfactor = 20);
comment on column limit_buckets.kind is '1 a rate (GCRA), 2 a count by the UTC day, 3 calls in the air';
comment on column limit_buckets.tat is 'when everything given out will have been worked off at the rate';
comment on column limit_buckets.idle_at is 'when it was last found empty, or more than its burst taken: what was taken before is not given back any more';
comment on column limit_buckets.ahead is 'seconds'' worth given out for later moments because another limit binds: a ring of 128 cells of 1/8 s';
comment on column limit_buckets.settled_ratio is 'used by reserved, a moving mean: what a wait is told by';
comment on column limit_buckets.passing_share is 'what calls more urgent than the normal ones took lately of what was given: the allowance for those to come';

create table limit_holds (
    bucket      text not null,
    worker      text not null,
    held        double precision not null,
    expires_at  double precision not null,
    primary key (bucket, worker)
) with (fillfactor = 50);

create table limit_tickets (
    ticket      text primary key,
    reserved    boolean not null,
    bucket      text not null,
    rank_at     double precision not null,
    asked_at    double precision not null,
    priority    smallint not null,
    label       text not null,
    expected_at double precision not null,
    told_s      double precision not null,
    latest_at   double precision not null,
    expires_at  double precision not null,
    buckets     text[],
    amounts     double precision[]
);
comment on table limit_tickets is 'who waits: for a slot that is reserved, or to ask again when one is near';
comment on column limit_tickets.bucket is 'the limit that binds';
comment on column limit_tickets.expected_at is 'by what was told last';
comment on column limit_tickets.latest_at is 'until when every wait that was told holds: more urgent calls pass only so far';
comment on column limit_tickets.amounts is 'what a reserved slot has taken of which bucket: who claims it may ask for other amounts by then';

create table limit_lines (
    bucket      text not null,
    ticket      text not null,
    rank_at     double precision not null,
    cost_s      double precision not null,
    free_at     double precision not null,
    latest_at   double precision not null,
    expires_at  double precision not null,
    binds       text not null,
    primary key (bucket, ticket)
) with (fillfactor = 50);
comment on table limit_lines is 'the tickets without a slot, in every limit that they need: who stands in front of whom';
comment on column limit_lines.binds is 'the limit that lets it wait, which may be another';
create index limit_lines_by_rank on limit_lines (bucket, rank_at);

create table limit_estimates (
    model             text primary key,
    input_factor      double precision not null default 1,
    output_tokens     double precision not null default 0,
    output_deviation  double precision not null default 0,
    samples           bigint not null default 0
);

-- Emptied by a crash of the server, and by nothing else: slots are given without a wait for the disk, and a crash loses the last of them.
create unlogged table limit_life (one boolean primary key default true check (one), since double precision not null);
insert into limit_life (since) values (0);
comment on column limit_life.since is 'the first batch after the last crash; what was written before may lack the last that was given';

create function limit_now() returns double precision
language sql as $$ select extract(epoch from clock_timestamp())::double precision $$;
comment on function limit_now is 'the clock of all limits; a test puts another in its place';

create function ensure_limits(p_names text[], p_kinds integer[]) returns void
language sql as $$
    insert into limit_buckets (name, kind)
    select n, k from unnest(p_names, p_kinds) u(n, k) order by n collate "C"
    on conflict do nothing
$$;

-- The earliest moment from p_from on at which a cost fits, before and between what is given out ahead already.
create function limit_after(p_from double precision, p_tat double precision, p_tau double precision, p_cost double precision,
                            p_ahead double precision[], p_cell bigint) returns double precision
language plpgsql immutable as $$
declare
    s double precision := p_from;
    v double precision;
    e double precision;
    p double precision;
    bad double precision;
    added boolean;
    k bigint;
begin
    for round in 1 .. 260 loop
        v := p_tat;
        added := false;
        bad := 0;
        for n in 1 .. 128 loop
            k := p_cell + n;
            e := k / 8.0;
            if not added and (s < e or k = p_cell + 128) then
                v := greatest(v, s - greatest(0, p_cost - p_tau)) + p_cost;
                added := true;
                bad := greatest(0, v - p_tau - s);
                exit when bad > 1e-6;
            end if;
            p := p_ahead[k % 128 + 1];
            if p > 0 then
                -- More than the burst counts from its cell's end: nobody may come within a period of it, wherever in the cell it is.
                v := greatest(v, e + case when p > p_tau then 0.125 - p + p_tau else 0 end) + p;
                if added and v - p_tau - e - 0.125 > 1e-6 then
                    -- Whoever goes before it stands in its way: after it, then.
                    bad := e - s;
                    exit;
                end if;
            end if;
        end loop;
        if bad <= 1e-6 then
            return s;
        end if;
        s := s + bad;
    end loop;
    return p_from + 16;
end $$;

-- When what stands in front is worked off, beside what is given out ahead of that moment.
create function limit_until(p_from double precision, p_ahead double precision[], p_cell bigint) returns double precision
language plpgsql immutable as $$
declare
    s double precision := p_from;
begin
    for n in 1 .. 127 loop
        exit when (p_cell + n) / 8.0 >= s;
        s := s + p_ahead[(p_cell + n) % 128 + 1];
    end loop;
    return s;
end $$;

-- Where a call has to stand so that what was told to others holds: behind the last of its line that it would make later than it was told.
-- Null: nowhere. Whoever would be served after p_until is too far back to be worth the wait.
create function limit_held_back(p_bucket text, p_ticket text, p_rank double precision, p_from double precision, p_cost double precision,
                                p_ratio double precision, p_until double precision, p_now double precision) returns double precision
language sql stable as $$
    select max(w.rank_at)
      from (select t.rank_at, t.latest_at, p_from + p_ratio * (sum(t.cost_s) over (order by t.rank_at, t.ticket) - t.cost_s) as served_at
              from limit_lines t where t.bucket = p_bucket and t.expires_at > p_now and t.ticket <> p_ticket) w
     where w.rank_at > p_rank and w.served_at < p_until and w.served_at + p_cost > w.latest_at
$$;

-- Seconds' worth that stands before a rank: of those whom one of p_mine lets wait, and of others who are served before p_before.
create function limit_in_front(p_bucket text, p_ticket text, p_rank double precision, p_mine text[], p_before double precision,
                               p_now double precision) returns double precision
language sql stable as $$
    select coalesce(sum(t.cost_s), 0) from limit_lines t
     where t.bucket = p_bucket and t.rank_at < p_rank and t.expires_at > p_now and t.ticket <> p_ticket
       and (t.binds = any(p_mine) or t.free_at < p_before)
$$;

-- One batch of one worker: settle, hear what providers told, and give slots; every limit of an alternative, or none of them.
-- Buckets are locked in the order of their names (p_names is sorted so), read into arrays, and written once. Null: a bucket is missing.
create function take_limits(
    p_worker text, p_names text[], p_limits double precision[], p_periods double precision[], p_headrooms double precision[],
    p_held double precision[], s_bucket integer[], s_reserved double precision[], s_used double precision[], s_at double precision[],
    n_bucket integer[], n_limit double precision[], n_remaining double precision[], c_bucket integer[], c_wait double precision[],
    a_ticket text[], a_form integer[],
    f_count integer[], f_priority integer[], f_horizon double precision[], f_passed double precision[], f_end integer[],
    alt_label text[], alt_penalty double precision[], alt_end integer[], d_bucket integer[], d_amount double precision[],
    p_near_s double precision, p_promise_s double precision,
    out at double precision, out got integer[], out slots double precision[], out expected double precision[], out binding integer[],
    out told double precision[], out charged double precision[]
)
language plpgsql as $$
#variable_conflict use_variable
declare
    nb integer := cardinality(p_names);
    na integer := cardinality(a_ticket);
    zeros double precision[] := array_fill(0::double precision, array[nb]);
    kind integer[] := array_fill(0, array[nb]);
    tat double precision[] := zeros;
    idle double precision[] := zeros;
    seen double precision[] := zeros;
    blocked double precision[] := zeros;
    told_limit double precision[] := array_fill(null::double precision, array[nb]);
    told_at double precision[] := zeros;
    old_limit double precision[] := zeros;
    old_effective double precision[] := zeros;
    eff double precision[] := zeros;
    usable double precision[] := zeros;
    unit double precision[] := zeros;
    tau double precision[] := zeros;
    used double precision[] := zeros;
    big double precision[] := zeros;
    big_before double precision[] := zeros;
    epochs bigint[] := array_fill(0::bigint, array[nb]);
    days bigint[] := array_fill(0::bigint, array[nb]);
    ratio double precision[] := zeros;
    hold double precision[] := zeros;
    others double precision[] := zeros;
    held double precision[] := p_held;
    waiting boolean[] := array_fill(false, array[nb]);
    watched boolean := false;
    has_ahead boolean[] := array_fill(false, array[nb]);
    ahead_dirty boolean[] := array_fill(false, array[nb]);
    ahead double precision[];
    through bigint[] := array_fill(0::bigint, array[nb]);
    share double precision[] := zeros;
    t_asked double precision[];
    t_rank double precision[];
    t_latest double precision[];
    t_slot double precision[];
    t_told double precision[];
    t_bind integer[];
    t_label text[];
    tickets boolean := false;
    simple boolean;
    sums double precision[];
    most double precision[];
    mine text[];
    from_ double precision[] := array_fill(0::double precision, array[cardinality(d_bucket)]);
    front double precision[] := array_fill(0::double precision, array[cardinality(d_bucket)]);
    f integer;
    first integer;
    latest double precision;
    allowed double precision;
    horizon double precision;
    idle_ boolean;
    best_rank double precision;
    cost double precision[] := array_fill(0::double precision, array[cardinality(d_bucket)]);
    own double precision[] := array_fill(0::double precision, array[cardinality(d_bucket)]);
    now_s double precision;
    life double precision;
    durable boolean := cardinality(c_bucket) > 0;
    t_buckets text[];
    t_amounts double precision[];
    taken double precision;
    cell bigint;
    today bigint;
    r record;
    i integer := 0;
    j integer;
    a integer;
    d integer;
    k bigint;
    c double precision;
    m double precision;
    x double precision;
    s double precision;
    e double precision;
    slot double precision;
    est double precision;
    bind integer;
    open_from double precision;
    full_ boolean;
    rank_ double precision;
    asked double precision;
    best integer;
    best_slot double precision;
    best_est double precision;
    best_score double precision;
    best_bind integer;
    best_full boolean;
begin
    for r in select * from limit_buckets where name = any(p_names) order by name collate "C" for update loop
        i := i + 1;
        exit when r.name <> p_names[i];
        kind[i] := r.kind;
        tat[i] := r.tat;
        idle[i] := r.idle_at;
        seen[i] := r.seen_at;
        blocked[i] := r.blocked_until;
        told_limit[i] := r.told_limit;
        told_at[i] := r.told_at;
        old_limit[i] := r.limit_units;
        old_effective[i] := r.effective;
        used[i] := r.used;
        days[i] := r.day;
        big[i] := r.largest;
        big_before[i] := r.largest_before;
        epochs[i] := r.epoch;
        ratio[i] := r.settled_ratio;
        share[i] := r.passing_share;
        hold[i] := r.hold_s;
        through[i] := r.ahead_through;
        watched := watched or r.kind = 3 or r.told_at is not null;
        if r.ahead is not null then
            if ahead is null then
                ahead := array_fill(0::double precision, array[nb * 128]);
            end if;
            has_ahead[i] := true;
            for n in 1 .. 128 loop
                ahead[(i - 1) * 128 + n] := r.ahead[n];
            end loop;
        end if;
    end loop;
    if i <> nb or (nb > 0 and r.name <> p_names[nb]) then
        return;
    end if;
    -- After the locks: whoever waited for them must not see an older moment than who held them.
    now_s := limit_now();
    at := now_s;
    select since into life from limit_life;
    if not found then
        insert into limit_life (since) values (now_s) on conflict do nothing;
        life := now_s;
    elsif life > now_s then
        life := 0;
    end if;
    cell := floor(now_s * 8);
    today := floor(now_s / 86400);
    if watched then
        for j in 1 .. nb loop
            -- A provider's word holds for ten minutes, and not over a change of ours.
            if told_limit[j] is not null and (old_limit[j] <> p_limits[j] or abs(now_s - told_at[j]) > 600) then
                told_limit[j] := null;
                update limit_buckets set told_limit = null, told_remaining = null, told_at = null where name = p_names[j];
            end if;
        end loop;
    end if;
    if cardinality(n_bucket) > 0 then
        for n in 1 .. cardinality(n_bucket) loop
            if n_limit[n] is not null then
                told_limit[n_bucket[n]] := n_limit[n];
            end if;
        end loop;
    end if;
    for j in 1 .. nb loop
        if seen[j] > now_s + 0.001 then
            -- The clock went back: everything counted with goes back with it.
            x := seen[j] - now_s;
            tat[j] := tat[j] - x;
            idle[j] := idle[j] - x;
            blocked[j] := blocked[j] - x;
            if has_ahead[j] then
                for n in 1 .. 128 loop
                    tat[j] := tat[j] + ahead[(j - 1) * 128 + n];
                    ahead[(j - 1) * 128 + n] := 0;
                end loop;
                has_ahead[j] := false;
                ahead_dirty[j] := true;
            end if;
        end if;
        tat[j] := least(tat[j], now_s + 3 * p_periods[j] + 60);
        blocked[j] := least(blocked[j], now_s + 86400);
        eff[j] := least(p_limits[j], coalesce(told_limit[j], p_limits[j]));
        if kind[j] = 1 then
            usable[j] := eff[j] * (1 - p_headrooms[j]);
            unit[j] := p_periods[j] / usable[j];
            -- Cells of 1/8 s are the grain of what is given ahead: so much of the headroom is theirs.
            tau[j] := greatest(0, eff[j] * p_headrooms[j] - usable[j] * 0.125 / p_periods[j]) * unit[j];
            if old_effective[j] > 0 and old_effective[j] <> eff[j] and tat[j] > now_s then
                tat[j] := now_s + (tat[j] - now_s) * old_effective[j] / eff[j];
            end if;
            k := floor(now_s / (p_periods[j] + 16));
            if k <> epochs[j] then
                big_before[j] := case when k = epochs[j] + 1 then big[j] else 0 end;
                big[j] := 0;
                epochs[j] := k;
            end if;
            if has_ahead[j] then
                ahead_dirty[j] := true;
                has_ahead[j] := false;
                for n in greatest(through[j] + 1 - cell, -127)::integer .. 0 loop
                    k := cell + n;
                    x := ahead[(j - 1) * 128 + k % 128 + 1];
                    if x > 0 then
                        if tat[j] < k / 8.0 then
                            idle[j] := k / 8.0;
                            tat[j] := (k + 1) / 8.0;
                        end if;
                        tat[j] := tat[j] + x;
                        ahead[(j - 1) * 128 + k % 128 + 1] := 0;
                    end if;
                end loop;
                for n in 1 .. 128 loop
                    if ahead[(j - 1) * 128 + n] > 0 then
                        has_ahead[j] := true;
                        exit;
                    end if;
                end loop;
            end if;
            through[j] := cell;
            if seen[j] < life then
                -- At worst the crash lost slots up to in-process waits ahead, and the whole burst.
                tat[j] := greatest(tat[j], life + p_near_s + tau[j]);
            end if;
        elsif kind[j] = 2 then
            usable[j] := eff[j] * (1 - p_headrooms[j]);
            if days[j] <> today then
                days[j] := today;
                used[j] := 0;
            end if;
        else
            usable[j] := floor(eff[j]);
            if seen[j] < life then
                -- Until every worker has told again what it holds.
                blocked[j] := greatest(blocked[j], life + 3);
            end if;
        end if;
    end loop;
    if watched or cardinality(n_bucket) > 0 then
        for r in select h.bucket, sum(h.held) as held from limit_holds h
                  where h.bucket = any(p_names) and h.worker <> p_worker and h.expires_at > now_s group by 1 loop
            others[array_position(p_names, r.bucket)] := r.held;
        end loop;
    end if;
    for n in 1 .. cardinality(s_bucket) loop
        j := s_bucket[n];
        if kind[j] = 1 then
            x := (s_reserved[n] - s_used[n]) * unit[j];
            if x < 0 then
                durable := true;
                tat[j] := greatest(tat[j], now_s) - x;
            elsif x > 0 and s_at[n] > now_s and has_ahead[j] and ahead[(j - 1) * 128 + floor(s_at[n] * 8)::bigint % 128 + 1] >= x then
                -- Given back before its slot, out of what is given ahead: now it took nothing.
                k := (j - 1) * 128 + floor(s_at[n] * 8)::bigint % 128 + 1;
                ahead[k] := ahead[k] - x;
                ahead_dirty[j] := true;
            elsif x > 0 and tat[j] > now_s and idle[j] <= s_at[n] then
                tat[j] := greatest(tat[j] - x, now_s);
            end if;
            if s_reserved[n] > 0 and s_used[n] > 0 then
                ratio[j] := ratio[j] * 0.97 + 0.03 * least(2, s_used[n] / s_reserved[n]);
            end if;
        elsif kind[j] = 2 then
            durable := true;
            if floor(s_at[n] / 86400) = today then
                used[j] := greatest(0, used[j] + s_used[n] - s_reserved[n]);
            end if;
        elsif s_at[n] > 0 then
            hold[j] := hold[j] * 0.9 + 0.1 * greatest(0.05, now_s - s_at[n]);
        end if;
    end loop;
    for n in 1 .. cardinality(n_bucket) loop
        j := n_bucket[n];
        if kind[j] = 1 and n_remaining[n] is not null then
            -- Never more than the provider says is left, less what it has not seen yet.
            x := greatest(0, n_remaining[n] - others[j] - held[j]);
            tat[j] := greatest(tat[j], now_s + tau[j] - x * unit[j]);
        end if;
    end loop;
    if cardinality(n_bucket) > 0 then
        update limit_buckets b set told_limit = coalesce(u.l, b.told_limit), told_remaining = u.rest, told_at = now_s
          from unnest(n_bucket, n_limit, n_remaining) u(b, l, rest) where b.name = p_names[u.b];
    end if;
    for n in 1 .. cardinality(c_bucket) loop
        j := c_bucket[n];
        blocked[j] := greatest(blocked[j], now_s + least(c_wait[n], 86400));
        -- No burst when it opens again: nobody knows what the provider still holds against us.
        tat[j] := greatest(tat[j], least(blocked[j] + tau[j], now_s + 3 * p_periods[j] + 60));
    end loop;
    simple := na > 0 and not exists (select from limit_lines where bucket = any(p_names))
              and not exists (select from limit_tickets where ticket = any(a_ticket));
    if simple then
        -- The usual case: nobody waits, and everything fits at once. All are given the first alternative now, summed up.
        sums := zeros;
        most := zeros;
        for f in 1 .. cardinality(f_end) loop
            first := coalesce(f_end[f - 1], 0) + 1;
            for a in first + 1 .. f_end[f] loop
                simple := simple and alt_penalty[a] >= alt_penalty[first];
            end loop;
            for d in coalesce(alt_end[first - 1], 0) + 1 .. alt_end[first] loop
                j := d_bucket[d];
                sums[j] := sums[j] + d_amount[d] * f_count[f];
                most[j] := greatest(most[j], d_amount[d]);
            end loop;
        end loop;
        for j in 1 .. nb loop
            exit when not simple;
            simple := sums[j] = 0 or blocked[j] <= now_s and case kind[j]
                when 1 then not has_ahead[j] and greatest(most[j], big[j], big_before[j]) <= eff[j] - usable[j]
                            and greatest(tat[j] - now_s, 0) + sums[j] * unit[j] <= tau[j]
                when 2 then used[j] + sums[j] <= usable[j]
                else others[j] + held[j] + sums[j] <= usable[j] end;
        end loop;
    end if;
    if simple then
        for j in 1 .. nb loop
            if sums[j] > 0 then
                if kind[j] = 1 then
                    if tat[j] < now_s then
                        idle[j] := now_s;
                        tat[j] := now_s;
                    end if;
                    tat[j] := tat[j] + sums[j] * unit[j];
                    big[j] := greatest(big[j], most[j]);
                    share[j] := share[j] * power(0.97, least(na, 100));
                elsif kind[j] = 2 then
                    durable := true;
                    used[j] := used[j] + sums[j];
                end if;
                if kind[j] = 3 or told_limit[j] is not null then
                    held[j] := held[j] + sums[j];
                end if;
            end if;
        end loop;
        got := array_fill(1, array[na]);
        if cardinality(f_end) > 1 then
            for i in 1 .. na loop
                got[i] := coalesce(f_end[a_form[i] - 1], 0) + 1;
            end loop;
        end if;
        na := 0;
    elsif na > 0 then
        got := array_fill(0, array[na]);
        binding := got;
        slots := array_fill(0::double precision, array[na]);
        expected := slots;
        told := array_fill(null::double precision, array[na]);
        t_asked := told;
        t_rank := told;
        t_latest := told;
        t_slot := told;
        t_told := told;
        t_bind := got;
        t_label := array_fill(null::text, array[na]);
        for r in select u.n, t.* from unnest(a_ticket) with ordinality u(ticket, n) join limit_tickets t on t.ticket = u.ticket loop
            tickets := true;
            if r.expires_at > now_s then
                t_asked[r.n] := r.asked_at;
                t_rank[r.n] := r.rank_at;
                t_latest[r.n] := r.latest_at;
            end if;
            t_told[r.n] := r.told_s;
            t_bind[r.n] := coalesce(array_position(p_names, r.bucket), 0);
            t_label[r.n] := r.label;
            if r.reserved then
                t_slot[r.n] := r.expected_at;
            end if;
        end loop;
        for r in select distinct t.bucket from limit_lines t where t.bucket = any(p_names) loop
            waiting[array_position(p_names, r.bucket)] := true;
        end loop;
    end if;
    for i in 1 .. na loop
        f := a_form[i];
        best := 0;
        horizon := now_s + least(f_horizon[f], 15);
        -- Those of one batch stand in their order.
        asked := coalesce(t_asked[i], now_s + i * 1e-6);
        for a in coalesce(f_end[f - 1], 0) + 1 .. f_end[f] loop
            first := coalesce(alt_end[a - 1], 0) + 1;
            slot := now_s;
            full_ := false;
            open_from := 0;
            x := 0;
            for d in first .. alt_end[a] loop
                j := d_bucket[d];
                if kind[j] = 1 then
                    m := greatest(d_amount[d], big[j], big_before[j]);
                    c := d_amount[d] * unit[j];
                    if m > eff[j] - usable[j] then
                        c := least(p_periods[j], greatest(c, d_amount[d] * p_periods[j] / greatest(eff[j] - m, 1e-9)));
                    end if;
                    s := greatest(now_s, greatest(tat[j], now_s) + c - tau[j]);
                    from_[d] := s;
                    if has_ahead[j] then
                        s := limit_after(s, tat[j], tau[j], c, ahead[(j - 1) * 128 + 1 : j * 128], cell);
                    end if;
                elsif kind[j] = 2 then
                    c := 0;
                    s := case when used[j] + d_amount[d] <= usable[j] then now_s else (today + 1) * 86400.0 end;
                else
                    c := d_amount[d] * hold[j] / greatest(1, usable[j]);
                    s := now_s;
                    if others[j] + held[j] + d_amount[d] > usable[j] then
                        full_ := true;
                        s := now_s + greatest(c, 0.05);
                    end if;
                end if;
                cost[d] := c;
                own[d] := greatest(s, blocked[j]);
                front[d] := 0;
                open_from := greatest(open_from, blocked[j]);
                slot := greatest(slot, own[d]);
                x := x + waiting[j]::integer;
            end loop;
            rank_ := asked + f_passed[f];
            if t_slot[i] is not null and t_label[i] = alt_label[a] and not full_ and t_slot[i] > now_s - 2 and t_slot[i] >= open_from then
                -- Its reserved slot, taken once: everything but calls in the air was charged then.
                best := -a;
                best_slot := greatest(now_s, t_slot[i]);
                best_bind := t_bind[i];
                exit;
            end if;
            if x > 0 then
                select array_agg(p_names[n]) into mine from unnest(d_bucket[first : alt_end[a]]) n;
                for d in first .. alt_end[a] loop
                    j := d_bucket[d];
                    if waiting[j] then
                        s := own[d];
                        if has_ahead[j] then
                            select greatest(s, from_[d] + sum(n)) into s from unnest(ahead[(j - 1) * 128 + 1 : j * 128]) n;
                        end if;
                        rank_ := greatest(rank_, limit_held_back(p_names[j], a_ticket[i], rank_, s, cost[d],
                                                                 case when kind[j] = 1 then ratio[j] else 1 end, asked + p_promise_s, now_s) + 1e-6);
                    end if;
                end loop;
                rank_ := least(rank_, t_rank[i]);
                -- Twice: whoever waits for a limit that is not of this call stands before it only if it is served before it.
                for n in 1 .. 2 loop
                    est := now_s;
                    for d in first .. alt_end[a] loop
                        j := d_bucket[d];
                        est := greatest(est, own[d] + front[d]);
                    end loop;
                    for d in first .. alt_end[a] loop
                        j := d_bucket[d];
                        if waiting[j] then
                            front[d] := limit_in_front(p_names[j], a_ticket[i], rank_, mine, est, now_s)
                                        * case when kind[j] = 1 then ratio[j] else 1 end;
                        end if;
                    end loop;
                end loop;
            end if;
            est := now_s;
            bind := 0;
            for d in first .. alt_end[a] loop
                j := d_bucket[d];
                s := own[d];
                if front[d] > 0 and has_ahead[j] then
                    s := greatest(s, limit_until(greatest(from_[d], blocked[j]) + front[d], ahead[(j - 1) * 128 + 1 : j * 128], cell));
                else
                    s := s + front[d];
                end if;
                if s > est then
                    est := s;
                    bind := j;
                end if;
            end loop;
            if best = 0 or est + alt_penalty[a] < best_score then
                best := a;
                best_slot := slot;
                best_est := est;
                best_score := est + alt_penalty[a];
                best_bind := bind;
                best_rank := rank_;
                best_full := full_;
            end if;
        end loop;
        binding[i] := best_bind;
        if best > 0 then
            first := coalesce(alt_end[best - 1], 0) + 1;
            -- Its own place in the line, not the nearest moment: that is for those in front. But nothing is left idle.
            idle_ := best_slot <= now_s and (best_bind = 0 or tat[best_bind] <= now_s);
            slot := case when idle_ then best_slot else greatest(best_slot, best_est) end;
            x := 0;
            while not best_full and slot <= horizon and x < slot loop
                -- At that very moment there has to be room in every limit, beside what is given out ahead.
                x := slot;
                for d in first .. alt_end[best] loop
                    j := d_bucket[d];
                    if kind[j] = 1 and has_ahead[j] and slot > own[d] then
                        s := limit_after(slot, tat[j], tau[j], cost[d], ahead[(j - 1) * 128 + 1 : j * 128], cell);
                        if s > slot then
                            slot := s;
                            best_bind := j;
                        end if;
                    end if;
                end loop;
            end loop;
            best_est := greatest(best_est, slot);
            best_slot := slot;
        end if;
        if best < 0 or (not best_full and best_slot <= horizon) then
            got[i] := best;
            slots[i] := best_slot;
            expected[i] := best_slot;
            durable := durable or best_slot > now_s + p_near_s;
            if best < 0 then
                select t.buckets, t.amounts into t_buckets, t_amounts from limit_tickets t where t.ticket = a_ticket[i];
            end if;
            for d in coalesce(alt_end[abs(best) - 1], 0) + 1 .. alt_end[abs(best)] loop
                j := d_bucket[d];
                taken := d_amount[d];
                if best < 0 then
                    if kind[j] <> 3 then
                        taken := coalesce(t_amounts[array_position(t_buckets, p_names[j])], 0);
                    end if;
                    charged := charged || taken;
                end if;
                if (kind[j] = 3 or told_limit[j] is not null) and best_slot <= now_s + p_near_s then
                    held[j] := held[j] + taken;
                end if;
                if best < 0 then
                    continue;
                end if;
                if kind[j] = 2 then
                    durable := true;
                    used[j] := used[j] + taken;
                elsif kind[j] = 1 then
                    durable := durable or taken > eff[j] - usable[j];
                    big[j] := greatest(big[j], taken);
                    share[j] := share[j] + 0.03 * ((f_priority[f] < 2)::integer - share[j]);
                    if best_slot > (case when cost[d] > tau[j] then from_[d] + 1e-6 else own[d] + 0.125 end) then
                        if ahead is null then
                            ahead := array_fill(0::double precision, array[nb * 128]);
                        end if;
                        k := (j - 1) * 128 + floor(best_slot * 8)::bigint % 128 + 1;
                        ahead[k] := ahead[k] + cost[d];
                        has_ahead[j] := true;
                        ahead_dirty[j] := true;
                    else
                        if tat[j] < now_s then
                            idle[j] := now_s;
                            tat[j] := now_s;
                        end if;
                        tat[j] := tat[j] + cost[d];
                    end if;
                    if taken > eff[j] - usable[j] then
                        -- Whoever may come a period after it must not come sooner for what others, or it, give back.
                        idle[j] := greatest(idle[j], best_slot + 0.001);
                    end if;
                end if;
            end loop;
            told[i] := t_told[i];
            if best_slot <= now_s + p_near_s then
                if tickets then
                    delete from limit_tickets where ticket = a_ticket[i];
                end if;
            elsif best > 0 then
                told[i] := coalesce(told[i], best_slot - now_s);
                select array_agg(p_names[d_bucket[n]]), array_agg(d_amount[n]) into t_buckets, t_amounts
                  from generate_series(first, alt_end[best]) n;
                insert into limit_tickets values (a_ticket[i], true, p_names[best_bind], best_rank, asked, f_priority[f], alt_label[best],
                                                  best_slot, told[i], best_slot, best_slot + 5, t_buckets, t_amounts)
                on conflict (ticket) do update set reserved = true, bucket = excluded.bucket, label = excluded.label,
                       expected_at = excluded.expected_at, told_s = excluded.told_s, expires_at = excluded.expires_at,
                       buckets = excluded.buckets, amounts = excluded.amounts;
            end if;
            if tickets then
                delete from limit_lines where ticket = a_ticket[i];
            end if;
        else
            -- Told with an allowance for more urgent calls to come, by what such calls took lately: from a tenth on they are held back.
            x := greatest(best_est - now_s, 0.05);
            c := case when f_priority[f] >= 2 and best_bind > 0 then least(share[best_bind], 0.9) else 0 end;
            allowed := least(x * c / (1 - c), greatest(0.1 * x, 1));
            expected[i] := now_s + x + allowed;
            told[i] := coalesce(t_told[i], x + allowed);
            latest := case when f_priority[f] > 2 then 'infinity'
                           else least(t_latest[i], expected[i] + greatest(1.5, 0.08 * (x + allowed))) end;
            insert into limit_tickets values (a_ticket[i], false, p_names[best_bind], best_rank, asked, f_priority[f], alt_label[best],
                                              expected[i], told[i], latest, expected[i] + 15 + x * 0.1)
            on conflict (ticket) do update set reserved = false, bucket = excluded.bucket, rank_at = excluded.rank_at,
                   asked_at = excluded.asked_at, priority = excluded.priority, label = excluded.label, expected_at = excluded.expected_at,
                   latest_at = excluded.latest_at, expires_at = excluded.expires_at, told_s = excluded.told_s;
            if t_label[i] <> alt_label[best] then
                delete from limit_lines where ticket = a_ticket[i];
            end if;
            insert into limit_lines
            select p_names[d_bucket[n]], a_ticket[i], best_rank, cost[n], best_est, latest, expected[i] + 15 + x * 0.1, p_names[best_bind]
              from generate_series(first, alt_end[best]) n where cost[n] > 0
            on conflict (bucket, ticket) do update set rank_at = excluded.rank_at, cost_s = excluded.cost_s, free_at = excluded.free_at,
                   latest_at = excluded.latest_at, expires_at = excluded.expires_at, binds = excluded.binds;
            for d in first .. alt_end[best] loop
                waiting[d_bucket[d]] := waiting[d_bucket[d]] or cost[d] > 0;
            end loop;
        end if;
    end loop;
    for j in 1 .. nb loop
        update limit_buckets
           set limit_units = p_limits[j], period_s = p_periods[j], headroom = p_headrooms[j], effective = eff[j], tat = tat[j],
               idle_at = idle[j], seen_at = now_s, blocked_until = blocked[j], used = used[j], day = days[j], largest = big[j],
               largest_before = big_before[j], epoch = epochs[j], ahead_through = through[j], settled_ratio = ratio[j],
               passing_share = share[j], hold_s = hold[j]
         where name = p_names[j];
        if ahead_dirty[j] then
            update limit_buckets set ahead = case when has_ahead[j] then ahead[(j - 1) * 128 + 1 : j * 128] end where name = p_names[j];
        end if;
        if kind[j] = 3 or told_limit[j] is not null then
            insert into limit_holds values (p_names[j], p_worker, held[j], now_s + 10)
            on conflict (bucket, worker) do update set held = excluded.held, expires_at = excluded.expires_at;
        end if;
    end loop;
    if not durable then
        -- What a crash loses of near slots is known and held back after it (limit_life): nobody waits for the disk.
        perform set_config('synchronous_commit', 'off', true);
    end if;
end $$;

-- A worker's sign of life: what it holds, and what it learned; clears what nobody comes back for. Gives what all have learned.
create function renew_limits(
    p_worker text, p_names text[], p_held double precision[],
    p_models text[], p_factors double precision[], p_outputs double precision[], p_deviations double precision[], p_samples bigint[]
) returns setof limit_estimates
language plpgsql as $$
declare
    now_s double precision := limit_now();
begin
    insert into limit_holds
    select n, p_worker, h, now_s + 10 from unnest(p_names, p_held) u(n, h) order by n
    on conflict (bucket, worker) do update set held = excluded.held, expires_at = excluded.expires_at;
    delete from limit_holds where worker = p_worker and bucket <> all(p_names);
    delete from limit_tickets where expires_at < now_s;
    delete from limit_lines where expires_at < now_s;
    insert into limit_estimates as e (model, input_factor, output_tokens, output_deviation, samples)
    select m, f, o, v, n from unnest(p_models, p_factors, p_outputs, p_deviations, p_samples) u(m, f, o, v, n) order by m
    on conflict (model) do update
       -- The newer samples weigh by their number, at most as much as all before together.
       set input_factor = e.input_factor + (excluded.input_factor - e.input_factor) * excluded.samples / (excluded.samples + least(e.samples, 50)),
           output_tokens = e.output_tokens + (excluded.output_tokens - e.output_tokens) * excluded.samples / (excluded.samples + least(e.samples, 50)),
           output_deviation = e.output_deviation
               + (excluded.output_deviation - e.output_deviation) * excluded.samples / (excluded.samples + least(e.samples, 50)),
           samples = e.samples + excluded.samples;
    return query select * from limit_estimates;
end $$;
