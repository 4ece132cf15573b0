-- Answers that are given again without asking a model, and who is asking one right now.

create table cached_responses (
    key            text primary key,
    tenant         text,
    agent          text not null,
    model          text not null,
    tags           text[] not null default '{}',
    kind           text not null default 'exact' check (kind in ('exact', 'semantic')),
    origin         text references cached_responses on delete cascade,
    similarity     double precision,
    response       jsonb not null,
    cost_usd       numeric not null,
    hits           bigint not null default 0,
    created_at     timestamptz not null,
    expires_at     timestamptz not null
);
comment on column cached_responses.key is 'SHA-256 of the canonical request with its scope, in hex; the request itself is not kept';
comment on column cached_responses.tenant is 'whose answer it is; null: shared by all tenants';
comment on column cached_responses.response is 'a ModelResponse without its usage, cleaned like a transcript';
comment on column cached_responses.cost_usd is 'what the model took for it, and every hit saves';
comment on column cached_responses.origin is 'on an answer to a request that only means the same (kind semantic): whose answer it is';
comment on column cached_responses.similarity is 'beside the origin: how near the two requests'' meanings are, 1 being the same';
create index cached_responses_created on cached_responses (created_at);
create index cached_responses_origin on cached_responses (origin) where origin is not null;
create index cached_responses_tags on cached_responses using gin (tags);

create table cache_flights (
    key          text primary key,
    tenant       text,
    agent        text not null,
    tags         text[] not null default '{}',
    token        text not null,
    worker       text not null,
    lease_until  timestamptz not null,
    started_at   timestamptz not null default clock_timestamp()
);
comment on table cache_flights is 'single flight: the one caller over all workers that asks a model for this key, while its lease lasts';

create table cache_counts (
    day        date not null,
    agent      text not null,
    exact      bigint not null default 0,
    semantic   bigint not null default 0,
    stale      bigint not null default 0,
    missed     bigint not null default 0,
    saved_usd  numeric not null default 0,
    primary key (day, agent)
);
comment on table cache_counts is 'what came of looking, by UTC day; workers add to it every few seconds';

-- Finds the answer, or takes the lead, or tells that another one has it; in one round trip.
--   hit    response, kind, age_s, cost_usd, model; origin and similarity where it only means the same
--   lead   the caller holds the flight under its token, and asks the model
--   busy   somebody alive does: lease_s is what is left of its lease
create function look_cached(
    p_key text, p_tenant text, p_agent text, p_tags text[], p_token text, p_worker text, p_lease_s double precision,
    out outcome text, out response jsonb, out kind text, out age_s double precision, out cost_usd numeric, out model text,
    out lease_s double precision, out origin text, out similarity double precision
)
language plpgsql as $$
#variable_conflict use_column
begin
    select 'hit', c.response, c.kind, extract(epoch from clock_timestamp() - c.created_at), c.cost_usd, c.model, c.origin, c.similarity
      into outcome, response, kind, age_s, cost_usd, model, origin, similarity
      from cached_responses c where c.key = p_key and c.expires_at > clock_timestamp();
    if found then
        return;
    end if;
    select extract(epoch from f.lease_until - clock_timestamp()) into lease_s
      from cache_flights f where f.key = p_key and f.lease_until > clock_timestamp();
    if found then
        outcome := 'busy';
        return;
    end if;
    insert into cache_flights as f (key, tenant, agent, tags, token, worker, lease_until)
    values (p_key, p_tenant, p_agent, p_tags, p_token, p_worker, clock_timestamp() + make_interval(secs => p_lease_s))
    on conflict (key) do update
        set tenant = excluded.tenant, agent = excluded.agent, tags = excluded.tags, token = excluded.token, worker = excluded.worker,
            lease_until = excluded.lease_until, started_at = clock_timestamp()
        where f.lease_until <= clock_timestamp();
    if not found then
        outcome := 'busy';
        lease_s := p_lease_s;
        return;
    end if;
    -- Between the first look and the flight an earlier leader may have landed.
    select 'hit', c.response, c.kind, extract(epoch from clock_timestamp() - c.created_at), c.cost_usd, c.model, c.origin, c.similarity
      into outcome, response, kind, age_s, cost_usd, model, origin, similarity
      from cached_responses c where c.key = p_key and c.expires_at > clock_timestamp();
    if found then
        delete from cache_flights f where f.key = p_key and f.token = p_token;
        return;
    end if;
    outcome := 'lead';
end $$;

-- Files the leader's answer and ends its flight; false when the flight is another's by now, or was called off by an invalidation:
-- then the answer is as old as what was thrown away, and is not kept.
create function keep_response(
    p_key text, p_token text, p_tenant text, p_agent text, p_model text, p_tags text[], p_response jsonb, p_cost numeric,
    p_ttl_s double precision
) returns boolean
language plpgsql as $$
begin
    delete from cache_flights where key = p_key and token = p_token;
    if not found then
        return false;
    end if;
    delete from cached_responses where origin = p_key;
    insert into cached_responses (key, tenant, agent, model, tags, response, cost_usd, created_at, expires_at)
    values (p_key, p_tenant, p_agent, p_model, p_tags, p_response, p_cost, clock_timestamp(),
            clock_timestamp() + make_interval(secs => p_ttl_s))
    on conflict (key) do update
        set tenant = excluded.tenant, agent = excluded.agent, model = excluded.model, tags = excluded.tags, kind = 'exact', origin = null,
            similarity = null, response = excluded.response, cost_usd = excluded.cost_usd, hits = 0, created_at = excluded.created_at,
            expires_at = excluded.expires_at;
    perform pg_notify('holdfast_cache', p_key);
    return true;
end $$;

-- Ends the leader's flight without an answer: whoever waits for it may take the lead.
create function give_up_flight(p_key text, p_token text) returns void
language plpgsql as $$
begin
    delete from cache_flights where key = p_key and token = p_token;
    if found then
        perform pg_notify('holdfast_cache', p_key);
    end if;
end $$;

-- Throws answers away, and calls off the flights that would bring them back; every condition that is given must hold.
-- Returns how many answers. Rows are locked flights first, each in the order of their keys, so that two never wait for each other.
create function invalidate_cached(p_tenant text, p_agent text, p_key text, p_tags text[]) returns bigint
language plpgsql as $$
declare
    v_gone bigint;
begin
    delete from cache_flights where key in (
        select f.key from cache_flights f
         where (p_tenant is null or f.tenant = p_tenant) and (p_agent is null or f.agent = p_agent) and (p_key is null or f.key = p_key)
           and (p_tags is null or f.tags && p_tags)
         order by f.key for update);
    with gone as (
        delete from cached_responses where key in (
            select c.key from cached_responses c
             where (p_tenant is null or c.tenant = p_tenant) and (p_agent is null or c.agent = p_agent) and (p_key is null or c.key = p_key)
               and (p_tags is null or c.tags && p_tags)
             order by c.key for update)
        returning 1
    )
    select count(*) into v_gone from gone;
    perform pg_notify('holdfast_cache', '');
    return v_gone;
end $$;

-- Makes room: what is too old even for when nothing else is to be had, then the oldest over the number. Returns how many.
create function sweep_cached(p_max_entries bigint, p_stale_s double precision) returns bigint
language plpgsql as $$
declare
    v_old bigint;
    v_over bigint;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('holdfast_cache_sweep', 0)) then
        return 0;
    end if;
    delete from cache_flights where lease_until < clock_timestamp() - interval '1 hour';
    with gone as (
        delete from cached_responses where expires_at < clock_timestamp() and created_at < clock_timestamp() - make_interval(secs => p_stale_s)
        returning 1
    )
    select count(*) into v_old from gone;
    with gone as (
        delete from cached_responses
         where key in (select key from cached_responses order by created_at desc offset p_max_entries)
        returning 1
    )
    select count(*) into v_over from gone;
    return v_old + v_over;
end $$;
