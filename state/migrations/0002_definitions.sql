-- Agent definitions by content hash, never changed; which one is current; and where two workers did not agree.

create table definitions (
    definition_hash  text primary key,
    name             text not null,
    version          text not null,
    body             json not null,
    created_at       timestamptz not null default now()
);

comment on column definitions.body is 'json, not jsonb: the order of a schema''s properties is the order in which a model fills them';

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
