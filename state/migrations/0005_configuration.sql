-- Configuration with its history, which worker has taken over which version of it, and alerts that were given.

create table configuration_versions (
    version         bigint primary key,
    document        jsonb not null,
    author          text not null,
    reason          text not null,
    rolled_back_to  bigint references configuration_versions,
    created_at      timestamptz not null default clock_timestamp()
);
comment on column configuration_versions.document is 'part of an InferenceSettings, only what is set; laid over what a worker''s files say';
comment on column configuration_versions.rolled_back_to is 'the older version whose document this one repeats';

create function refuse_to_rewrite() returns trigger language plpgsql as $$
begin
    raise exception 'versions of the configuration are only ever added';
end
$$;

create trigger configuration_versions_append_only before update or delete or truncate on configuration_versions
    for each statement execute function refuse_to_rewrite();

create function change_configuration(
    p_expected bigint, p_document jsonb, p_author text, p_reason text, p_rolled_back_to bigint,
    out changed boolean, out current_version bigint, out current_author text
) language plpgsql as $$
-- Adds a version after the expected one and announces it; when there is a later one already it only says which, and whose.
begin
    perform pg_advisory_xact_lock(hashtextextended('holdfast_configuration', 0));
    select version, author into current_version, current_author from configuration_versions order by version desc limit 1;
    current_version := coalesce(current_version, 0);
    changed := current_version = p_expected;
    if changed then
        current_version := current_version + 1;
        current_author := p_author;
        insert into configuration_versions (version, document, author, reason, rolled_back_to)
        values (current_version, p_document, p_author, p_reason, p_rolled_back_to);
        perform pg_notify('holdfast_configuration', current_version::text);
    end if;
end
$$;

create table configuration_workers (
    worker          text primary key,
    version         bigint not null,
    applied_at      timestamptz not null,
    seen_at         timestamptz not null,
    refused         bigint,
    problem         text,
    file_settings   jsonb not null
);
comment on column configuration_workers.version is 'what the worker works with; 0: its files alone';
comment on column configuration_workers.refused is 'the later version that it cannot use, because of `problem`';
comment on column configuration_workers.file_settings is 'what its files say, without secrets: what a change is checked against';

create table alerts (
    kind       text not null,
    subject    text not null,
    period     text not null,
    raised_by  text not null,
    raised_at  timestamptz not null default clock_timestamp(),
    primary key (kind, subject, period)
);
comment on table alerts is 'each is given once over all workers: whoever inserts the row gives it';
create index alerts_by_time on alerts (raised_at);
