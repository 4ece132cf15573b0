-- What is old is forgotten, a bounded part at a time. What a run that may still go on could need is kept, however old it is.

create table retention_marks (
    what     text primary key,
    through  bigint not null
);
comment on table retention_marks is 'how far a round has come, so that what must be kept is not looked at again and again';
create index budget_periods_by_start on budget_periods (starts_at);

-- The run and all that stand below it.
create function family_of(p_root text) returns text[]
language sql stable as $$
    with recursive family as (
        select run_id from runs where run_id = p_root
        union all select r.run_id from family f join runs r on r.parent_run_id = f.run_id
    )
    select array_agg(run_id) from family
$$;

-- Deletes the next calls that began before a moment, of families that have begun none since and wait for nobody: a run that goes on
-- walks its recorded calls again when it is redriven or reborn. Begins anew when it has come to the young ones.
create function forget_calls(p_before timestamptz, p_limit integer) returns bigint
language plpgsql as $$
declare
    v_calls bigint[];
    v_root text;
    v_family text[];
    v_gone bigint;
    v_all bigint := 0;
begin
    select array_agg(c.call_id) into v_calls from (
        select m.call_id, bool_and(m.started_at < p_before) over (order by m.call_id) as due from model_calls m
         where m.call_id > coalesce((select through from retention_marks where what = 'calls'), 0) order by m.call_id limit p_limit) c
     where c.due;
    insert into retention_marks as k values ('calls', coalesce(v_calls[cardinality(v_calls)], 0))
    on conflict (what) do update set through = excluded.through;
    for v_root in
        select distinct coalesce(r.ancestors[1], r.run_id) from model_calls m join runs r on r.run_id = m.run_id where m.call_id = any(v_calls)
    loop
        v_family := family_of(v_root);
        continue when exists (select from model_calls m where m.run_id = any(v_family) and (m.started_at >= p_before or m.state = 'in_flight'))
            or exists (select from questions q where q.run_id = any(v_family) and q.state = 'open')
            or exists (select from dead_letters d where d.run_id = any(v_family) and d.state = 'open');
        delete from model_calls m where m.call_id = any(v_calls) and m.run_id = any(v_family);
        get diagnostics v_gone = row_count;
        v_all := v_all + v_gone;
    end loop;
    return v_all;
end $$;

-- One round: how many rows of each kind are gone; null when another worker is at it. Everything but the books goes by p_notes_days.
create function forget_old(p_books_days integer, p_notes_days integer, p_limit integer) returns jsonb
language plpgsql as $$
declare
    v_books timestamptz := clock_timestamp() - make_interval(days => p_books_days);
    v_notes timestamptz := clock_timestamp() - make_interval(days => p_notes_days);
    v_idle double precision := limit_now() - p_notes_days * 86400.0;
    v_gone bigint;
    v_told jsonb := '{}';
begin
    if not pg_try_advisory_xact_lock(hashtextextended('holdfast_retention', 0)) then
        return null;
    end if;
    v_told := jsonb_build_object('calls', forget_calls(v_books, p_limit));
    delete from budget_periods where period_id in (
        select period_id from budget_periods where starts_at < v_books and reserved_calls = 0 and reserved_usd = 0 and reserved_tokens = 0
         order by starts_at limit p_limit for update skip locked);
    get diagnostics v_gone = row_count;
    v_told := v_told || jsonb_build_object('budget_periods', v_gone);
    delete from batches where batch_id in (
        select batch_id from batches b where state = 'ended' and ended_at < v_books
           and not exists (select from batch_requests q where q.batch_id = b.batch_id) limit p_limit for update skip locked);
    get diagnostics v_gone = row_count;
    v_told := v_told || jsonb_build_object('batches', v_gone);
    delete from cache_counts where day < v_books::date;
    get diagnostics v_gone = row_count;
    v_told := v_told || jsonb_build_object('cache_counts', v_gone);
    delete from alerts where (kind, subject, period) in (
        select kind, subject, period from alerts where raised_at < v_notes order by raised_at limit p_limit);
    get diagnostics v_gone = row_count;
    v_told := v_told || jsonb_build_object('alerts', v_gone);
    delete from cached_responses where key in (
        select key from cached_responses where expires_at < v_notes order by expires_at limit p_limit for update skip locked);
    get diagnostics v_gone = row_count;
    v_told := v_told || jsonb_build_object('cached_responses', v_gone);
    delete from worker_keys where seen_at < v_notes;
    get diagnostics v_gone = row_count;
    v_told := v_told || jsonb_build_object('worker_keys', v_gone);
    delete from budget_waits where until < v_notes;
    get diagnostics v_gone = row_count;
    v_told := v_told || jsonb_build_object('budget_waits', v_gone);
    -- Who asks for a limit whose row is gone makes it anew; one that was idle for so long is as good as new.
    delete from limit_holds where expires_at < v_idle;
    delete from limit_buckets where name in (
        select name from limit_buckets b where seen_at < v_idle and blocked_until < limit_now() and tat < limit_now()
           and not exists (select from limit_holds h where h.bucket = b.name) and not exists (select from limit_tickets t where t.bucket = b.name)
         order by name limit p_limit for update skip locked);
    get diagnostics v_gone = row_count;
    return v_told || jsonb_build_object('limits', v_gone);
end $$;
