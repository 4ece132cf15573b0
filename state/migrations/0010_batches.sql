-- Model calls by the providers' Batch APIs: requests are gathered, handed in together, looked at, and answered within a day.

create table batches (
    batch_id          text primary key,
    provider          text not null,
    key               text not null,
    model             text not null,
    state             text not null default 'sending' check (state in ('sending', 'sent', 'ended')),
    provider_batch_id text,
    holder            text not null,
    lease_until       timestamptz not null,
    troubles          integer not null default 0,
    made_at           timestamptz not null default clock_timestamp(),
    sent_at           timestamptz,
    looked_at         timestamptz,
    ended_at          timestamptz
);
comment on table batches is 'what is handed in at once; `sending` until the provider''s id of it is known';
comment on column batches.holder is 'who may hand it in or look at it until `lease_until`';
comment on column batches.troubles is 'looks in a row at which the provider did not know the batch';
create index batches_open on batches (made_at) where state <> 'ended';
create index batches_by_provider on batches (provider, made_at);

create table batch_requests (
    call_id    bigint primary key references model_calls on delete cascade,
    provider   text not null,
    key        text not null,
    model      text not null,
    state      text not null default 'gathered' check (state in ('gathered', 'sent', 'answered', 'failed', 'left')),
    batch_id   text references batches on delete set null,
    tries      integer not null default 0,
    goes_on    boolean not null default false,
    call       text,
    not_before timestamptz not null default '-infinity',
    made_at    timestamptz not null default clock_timestamp()
);
comment on column batch_requests.state is '`sent`: in a batch; `left`: its run was cancelled and waits for nothing';
comment on column batch_requests.tries is 'batches that it was in';
comment on column batch_requests.not_before is 'when it may be handed in again, after the provider took no batch in';
comment on column batch_requests.goes_on is 'it failed in the batch, and its step is made as an ordinary call';
comment on column batch_requests.call is 'a GatheredCall as JSON, in the order of its keys; null when it has ended';
create index batch_requests_gathered on batch_requests (provider, key, model, call_id) where state = 'gathered';
create index batch_requests_by_batch on batch_requests (batch_id) where batch_id is not null;
create index batch_requests_open on batch_requests (made_at) where state in ('gathered', 'sent');

-- The open request of a step, if it has one. A call that was begun for a batch and never put among the gathered is given back:
-- its worker died in between, and nothing was sent.
create function open_batch_request(p_run text, p_step integer, out call_id bigint, out provider text)
language plpgsql as $$
#variable_conflict use_column
declare
    r runs := lock_books(p_run);
    v_begun bigint;
begin
    select q.call_id, q.provider into call_id, provider
      from model_calls m join batch_requests q on q.call_id = m.call_id
     where m.run_id = p_run and m.step = p_step and m.state = 'in_flight' and q.state in ('gathered', 'sent');
    if found then
        return;
    end if;
    for v_begun in
        select m.call_id from model_calls m
         where m.run_id = p_run and m.step = p_step and m.state = 'in_flight' and m.batch
           and not exists (select from batch_requests q where q.call_id = m.call_id)
    loop
        perform fail_model_call(v_begun, 'transient', 'its worker ended before it was put into a batch');
    end loop;
end $$;

-- Makes a batch of what is gathered for the same model and key, the given request first; gives its id, or null when somebody else
-- has taken the request into one, or it is too early to try again. One at a time for a model and key.
create function gather_batch(p_call bigint, p_holder text, p_lease_s float, p_requests integer, p_bytes bigint) returns text
language plpgsql as $$
declare
    q batch_requests;
    v_batch text := 'hf-' || left(replace(gen_random_uuid()::text, '-', ''), 24);
begin
    select * into q from batch_requests where call_id = p_call;
    perform pg_advisory_xact_lock(hashtextextended(concat_ws(E'\n', 'holdfast batch', q.provider, q.key, q.model), 0));
    perform 1 from batch_requests b join model_calls m on m.call_id = b.call_id
      where b.call_id = p_call and b.state = 'gathered' and b.not_before <= clock_timestamp() and m.state = 'in_flight' for update of b;
    if not found then
        return null;
    end if;
    insert into batches (batch_id, provider, key, model, holder, lease_until)
    values (v_batch, q.provider, q.key, q.model, p_holder, clock_timestamp() + make_interval(secs => p_lease_s));
    update batch_requests b set state = 'sent', batch_id = v_batch, tries = tries + 1
      from (select g.call_id, row_number() over line as place, sum(octet_length(g.call)) over line as bytes
              from batch_requests g join model_calls m on m.call_id = g.call_id
             where g.state = 'gathered' and g.not_before <= clock_timestamp() and m.state = 'in_flight' and (g.provider, g.key, g.model) = (q.provider, q.key, q.model)
            window line as (order by g.call_id <> p_call, g.call_id)) as waiting
     where b.call_id = waiting.call_id and b.state = 'gathered' and waiting.place <= p_requests
       and (waiting.bytes <= p_bytes or waiting.place = 1);
    return v_batch;
end $$;

-- Ends a request that brought no answer. Where it may have been billed, what was reserved is charged.
create function fail_batch_request(p_call bigint, p_class text, p_failure text, p_unknown boolean, p_goes_on boolean) returns void
language plpgsql as $$
begin
    if p_unknown then
        perform charge_unknown(p_call, p_class, p_failure);
    else
        perform fail_model_call(p_call, p_class, p_failure);
    end if;
    update batch_requests set state = case state when 'left' then 'left' else 'failed' end, goes_on = p_goes_on, call = null
     where call_id = p_call and state in ('gathered', 'sent', 'left');
end $$;

-- Takes the request of a cancelled run out. One that is in a batch may be answered and billed, so it is charged as reserved until
-- somebody reads its late answer. Gives the provider's id of a batch in which nobody else waits any more.
create function leave_batch(p_call bigint, out provider text, out key text, out provider_batch_id text)
language plpgsql as $$
#variable_conflict use_column
declare
    r runs := lock_books((select m.run_id from model_calls m where m.call_id = p_call));
    q batch_requests;
begin
    select * into q from batch_requests b where b.call_id = p_call for update;
    if q.state = 'gathered' then
        perform fail_model_call(p_call, 'caller', 'the run was cancelled before its batch was handed in');
        update batch_requests b set state = 'left', call = null where b.call_id = p_call;
    elsif q.state = 'sent' then
        perform charge_unknown(p_call, 'caller', 'the run was cancelled while its batch was worked on');
        update batch_requests b set state = 'left' where b.call_id = p_call;
        select b.provider, b.key, b.provider_batch_id into provider, key, provider_batch_id from batches b
         where b.batch_id = q.batch_id and b.state = 'sent'
           and not exists (select from batch_requests o where o.batch_id = b.batch_id and o.state = 'sent');
    end if;
end $$;
