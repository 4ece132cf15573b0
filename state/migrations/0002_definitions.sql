-- Agent definitions by content hash, never changed; which one is current; and where two workers did not agree.

create table definitions (
    definition_hash  text primary key,
    name             text not null,
    version          text not null,
    body             jsonb not null,
    created_at       timestamptz not null default now()
);

create table current_definitions (
    name             text primary key,
    definition_hash  text not null references definitions,
    registered_by    text not null,
    registered_at    timestamptz not null default now()
);

create table definition_conflicts (
    name             text not null,
    version          text not null,
    old_hash         text not null,
    new_hash         text not null,
    registered_by    text not null,
    seen_at          timestamptz not null default now(),
    primary key (name, version, old_hash, new_hash)
);
comment on table definition_conflicts is 'the same name and version was registered with other content: give the change a new version';
