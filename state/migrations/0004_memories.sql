-- What agents keep between runs.

create table memories (
    memory_id   bigint generated always as identity primary key,
    tenant      text not null,
    scope       text not null,
    owner       text not null,
    run_id      text not null unique,
    text        text not null,
    created_at  timestamptz not null default now()
);
comment on column memories.owner is 'the user, the agent or the tenant, as scope says';
create index memories_newest on memories (tenant, scope, owner, memory_id desc);
