-- Steps that cannot go on, as people search, read and settle them (docs/adr/0017).

create table dead_letters (
    run_id           text not null references runs on delete cascade,
    letter           integer not null,
    step             integer not null,
    tenant           text not null,
    agent            text not null,
    agent_version    text not null,
    definition_hash  text not null,
    model            text not null,
    limits           jsonb not null,
    user_id          text,
    failure_class    text not null,
    cause            text not null,
    chain            text[] not null default '{}',
    what             text not null,
    tool             text,
    call_id          text not null default '',
    model_step       integer not null default 0,
    input            jsonb not null default '{}',
    tried            jsonb not null default '[]',
    state            text not null default 'open' check (state in ('open', 'redriven', 'skipped', 'aborted', 'withdrawn')),
    parked_at        timestamptz not null,
    filed_at         timestamptz not null default clock_timestamp(),
    reported_at      timestamptz,
    settled_at       timestamptz,
    settled_by       text,
    reason           text not null default '',
    result           text not null default '',
    note             integer,
    primary key (run_id, letter)
);
comment on table dead_letters is 'rows are never deleted but with their run; a run that cannot go on again files a new one';
comment on column dead_letters.letter is 'its number within the run, given by the run: filed twice it is one; below 0: left behind at the run''s end';
comment on column dead_letters.limits is 'those that held when it was parked';
comment on column dead_letters.input is 'of a tool call its name and arguments, of a model call the last messages, cut';
comment on column dead_letters.tried is 'the attempts before it was parked, as the ledgers of model calls and effects have them';
comment on column dead_letters.reported_at is 'when people were last told that it is still open';
comment on column dead_letters.note is 'the number of the order, within the run, that settled it';
create index dead_letters_open on dead_letters (parked_at, run_id, letter) where state = 'open';
create index dead_letters_by_tenant on dead_letters (tenant, parked_at);
create index dead_letters_by_age on dead_letters (parked_at);

-- What a run has left behind at its end is settled by whatever is found out of it, whoever says so and wherever.
create function settle_left_behind() returns trigger language plpgsql as $$
begin
    update dead_letters l
       set state = 'skipped', settled_at = clock_timestamp(), settled_by = new.ruled_by, reason = new.reason
      from effects e
     where e.tenant = new.tenant and e.tool = new.tool and e.key = new.key
       and l.run_id = e.run_id and l.step = e.step and l.letter < 0 and l.state = 'open';
    return null;
end
$$;
create trigger effect_rulings_settle_letters after insert on effect_rulings for each row execute function settle_left_behind();
