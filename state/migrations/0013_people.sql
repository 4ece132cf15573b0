-- What runs ask people, what people decided, and who is told of it (docs/adr/0020).

create table questions (
    run_id        text not null references runs on delete cascade,
    step          integer not null,
    asked         integer not null,
    call_id       text not null,
    kind          text not null check (kind in ('approval', 'question', 'result')),
    model_step    integer not null,
    tenant        text not null,
    agent         text not null,
    tool          text not null,
    user_id       text,
    arguments     text not null,
    version       integer not null default 1,
    why           text not null default '',
    context       text not null default '',
    result        text,
    reason        text not null default '',
    risk          text not null,
    named         text[] not null,
    allowed       text[] not null,
    quorum        integer not null,
    not_by_user   boolean not null,
    since         timestamptz not null,
    until         timestamptz,
    voting_since  timestamptz not null,
    reminders     integer not null default 0,
    escalated     boolean not null default false,
    state         text not null default 'open' check (state in ('open', 'settled', 'withdrawn')),
    settled_by    text,
    outcome       text,
    settled_at    timestamptz,
    primary key (run_id, step, asked)
);
comment on table questions is 'the inbox, and what became of it; the run itself is what decides';
comment on column questions.asked is 'how often the run has asked about this call: a redrive asks again';
comment on column questions.arguments is 'as the model wrote them, or a person after it: `version` says which';
comment on column questions.why is 'what the model said when it made the call';
comment on column questions.context is 'what the user said last before that';
comment on column questions.result is 'the head of a result that is held back';
comment on column questions.named is 'who may decide, as declared: people, and groups as @name';
comment on column questions.allowed is 'the same with groups resolved when it was asked; empty: everybody';
comment on column questions.voting_since is 'votes before it do not count: an escalation begins anew';
create index questions_open on questions (since) where state = 'open';

create table edited_arguments (
    run_id     text not null references runs on delete cascade,
    step       integer not null,
    call_id    text not null,
    version    integer not null,
    arguments  text not null,
    by         text not null,
    note       integer not null,
    at         timestamptz not null default clock_timestamp(),
    primary key (run_id, step, version),
    unique (run_id, step, note)
);
comment on table edited_arguments is 'arguments that a person gave a call, from version 2 on; 1 is the model''s, in the transcript. Step 0: the run''s input';
comment on column edited_arguments.note is 'the number of the order in the audit record: the same order twice is one version';

create table decisions (
    decision_id     bigint generated always as identity primary key,
    run_id          text not null,
    number          integer,
    tenant          text not null,
    at              timestamptz not null,
    recorded_at     timestamptz not null default clock_timestamp(),
    order_name      text not null,
    channel         text not null,
    by              text not null,
    call_id         text,
    step            integer,
    outcome         text not null,
    reason          text not null default '',
    given           text not null default '',
    version         integer,
    arguments_hash  text,
    closes          boolean not null default false,
    letter          integer,
    action          text not null default ''
);
comment on table decisions is 'the audit record: every order that a run was given, also refused ones, and every time-out; rows are only ever added, and outlive their run';
comment on column decisions.number is 'within the run; null for what the client refused because the run had ended';
comment on column decisions.at is 'when the run judged it, by the run''s clock';
comment on column decisions.given is 'the order as it was sent, redacted and cut';
comment on column decisions.arguments_hash is 'SHA-256 of the arguments that were decided on, in hex';
create unique index decisions_once on decisions (run_id, number) where number is not null;
create index decisions_by_run on decisions (run_id, at);

-- An audit record that can be changed proves nothing: whoever decided could take it back afterwards.
create function refuse_to_change_decisions() returns trigger language plpgsql as $$
begin
    raise exception 'decisions are only ever added';
end
$$;
create trigger decisions_append_only before update or delete or truncate on decisions
    for each statement execute function refuse_to_change_decisions();

create table notifications (
    notification_id  bigint generated always as identity primary key,
    key              text not null unique,
    kind             text not null,
    run_id           text not null,
    body             jsonb not null,
    state            text not null default 'waiting' check (state in ('waiting', 'delivered', 'given_up')),
    attempts         integer not null default 0,
    due_at           timestamptz not null default clock_timestamp(),
    problem          text,
    created_at       timestamptz not null default clock_timestamp(),
    ended_at         timestamptz
);
comment on table notifications is 'the outbox: written together with what it tells of, delivered by whichever worker claims it';
comment on column notifications.key is 'sent along, so that the receiver can tell a repetition';
comment on column notifications.due_at is 'when it is sent next; a claim moves it ahead, so that a dead worker''s comes back by itself';
create index notifications_due on notifications (due_at) where state = 'waiting';
create index notifications_ended on notifications (ended_at) where state <> 'waiting';
