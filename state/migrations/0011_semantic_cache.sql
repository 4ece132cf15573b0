-- Answers that are found by what the last question means (docs/adr/0016), and answers that a tool's effect makes old.

comment on column model_calls.step is 'the step that it answers; below zero: the embedding of that step''s question, for the semantic cache';

-- What a worker makes when the semantic cache is first switched on: a PostgreSQL without pgvector goes without it. The table stands for
-- itself: the embedding of a question was paid for, and is good for whichever answer is filed under its key.
create function open_semantic_cache() returns void
language plpgsql as $$
declare
    v_version text;
begin
    perform pg_advisory_xact_lock(hashtextextended('holdfast_semantic_cache', 0));
    if to_regclass('cached_meanings') is not null then
        return;
    end if;
    create extension if not exists vector;
    select extversion into v_version from pg_extension where extname = 'vector';
    if string_to_array(v_version, '.')::integer[] < array[0, 8] then
        raise exception 'pgvector % is older than 0.8', v_version using errcode = 'feature_not_supported';
    end if;
    create table cached_meanings (
        key         text primary key,
        frame       text not null,
        space       text not null,
        dimensions  integer not null,
        embedding   vector not null,
        created_at  timestamptz not null default clock_timestamp()
    );
    comment on column cached_meanings.key is 'the key of the request in the response cache';
    comment on column cached_meanings.frame is 'the digest of all that must be the same beside the meaning: another frame''s answers are never looked at';
    comment on column cached_meanings.space is 'the embeddings model; vectors of two models say nothing of each other';
    create index cached_meanings_frame on cached_meanings (frame, space);
    create index cached_meanings_created on cached_meanings (created_at);
end $$;

-- Keeps the embedding of a question, written as pgvector reads it, and makes the index for its size when it is the first of it.
create function learn_meaning(p_key text, p_frame text, p_space text, p_embedding text) returns void
language plpgsql as $$
declare
    v_dimensions integer := vector_dims(p_embedding::vector);
    v_index text := 'cached_meanings_near_' || v_dimensions;
begin
    if v_dimensions <= 2000 and to_regclass(v_index) is null then
        perform pg_advisory_xact_lock(hashtextextended('holdfast_semantic_cache', 0));
        execute format('create index if not exists %I on cached_meanings using hnsw ((embedding::vector(%s)) vector_cosine_ops) where dimensions = %s',
                       v_index, v_dimensions, v_dimensions);
    end if;
    insert into cached_meanings as m (key, frame, space, dimensions, embedding)
    values (p_key, p_frame, p_space, v_dimensions, p_embedding::vector)
    on conflict (key) do update set frame = excluded.frame, space = excluded.space, dimensions = excluded.dimensions,
            embedding = excluded.embedding, created_at = excluded.created_at
        where (m.frame, m.space) is distinct from (excluded.frame, excluded.space);
end $$;

-- Gives the leader of a flight the answer of the nearest question of the same frame, when it is near enough; files it under the
-- leader's own key too, as an answer that only means the same, and ends the flight. `known` is false when the question has no embedding
-- yet. `nearest` is told also when it is not near enough. Only answers of models are looked at: from an answer that was found by
-- meaning nothing is found further, so that meanings do not drift.
create function find_meaning(
    p_key text, p_token text, p_tenant text, p_agent text, p_tags text[], p_frame text, p_space text, p_min double precision,
    out known boolean, out nearest double precision, out origin text, out similarity double precision, out response jsonb,
    out age_s double precision, out cost_usd numeric, out model text
)
language plpgsql as $$
#variable_conflict use_column
declare
    v_embedding text;
    v_dimensions integer;
    v_origin text;
    c cached_responses;
begin
    select m.embedding::text, m.dimensions into v_embedding, v_dimensions
      from cached_meanings m where m.key = p_key and m.frame = p_frame and m.space = p_space;
    known := found;
    if not known then
        return;
    end if;
    perform set_config('hnsw.iterative_scan', 'strict_order', true);
    execute format($q$
        select m.key, 1 - (m.embedding::vector(%1$s) <=> $1::vector(%1$s))
          from cached_meanings m join cached_responses c using (key)
         where m.dimensions = %1$s and m.frame = $2 and m.space = $3 and c.kind = 'exact' and c.expires_at > clock_timestamp()
         order by m.embedding::vector(%1$s) <=> $1::vector(%1$s) limit 1
        $q$, v_dimensions) into v_origin, nearest using v_embedding, p_frame, p_space;
    if v_origin is null or v_origin = p_key or nearest is null or nearest = 'NaN' or nearest < p_min then
        return;
    end if;
    -- The flight before the answer, as everybody does who takes both; one that an invalidation has called off is not found.
    perform 1 from cache_flights f where f.key = p_key and f.token = p_token for update;
    if not found then
        return;
    end if;
    select * into c from cached_responses o where o.key = v_origin and o.kind = 'exact' and o.expires_at > clock_timestamp() for key share;
    if not found then
        return;
    end if;
    delete from cache_flights f where f.key = p_key;
    delete from cached_responses o where o.origin = p_key;
    insert into cached_responses (key, tenant, agent, model, tags, kind, origin, similarity, response, cost_usd, created_at, expires_at)
    values (p_key, p_tenant, p_agent, c.model, p_tags, 'semantic', c.key, nearest, c.response, c.cost_usd, c.created_at, c.expires_at)
    on conflict (key) do update
        set tenant = excluded.tenant, agent = excluded.agent, model = excluded.model, tags = excluded.tags, kind = excluded.kind,
            origin = excluded.origin, similarity = excluded.similarity, response = excluded.response, cost_usd = excluded.cost_usd, hits = 0,
            created_at = excluded.created_at, expires_at = excluded.expires_at;
    perform pg_notify('holdfast_cache', p_key);
    origin := c.key;
    similarity := nearest;
    response := c.response;
    age_s := extract(epoch from clock_timestamp() - c.created_at);
    cost_usd := c.cost_usd;
    model := c.model;
end $$;

-- Forgets embeddings that no answer has needed for so long. Returns how many.
create function sweep_meanings(p_older_than_s double precision) returns bigint
language plpgsql as $$
declare
    v_gone bigint;
begin
    with gone as (
        delete from cached_meanings m
         where m.created_at < clock_timestamp() - make_interval(secs => p_older_than_s)
           and not exists (select from cached_responses c where c.key = m.key)
        returning 1
    )
    select count(*) into v_gone from gone;
    return v_gone;
end $$;

alter table effects add column invalidates text[] not null default '{}';
comment on column effects.invalidates is 'the tags of the cached answers that the effect makes old, as the call fills them in';

-- Together with the end of an effect, however it ends: by the tool, its check, or a person's word. An effect that may have happened makes
-- answers old too: what nobody knows the outcome of, and what is called idempotent and has failed, perhaps half done.
create function invalidate_by_effect() returns trigger
language plpgsql as $$
begin
    perform invalidate_tags_of(new.tenant, new.invalidates);
    return null;
end $$;
create trigger effects_invalidate after update of state on effects
    for each row
    when (new.invalidates <> '{}' and new.state is distinct from old.state
          and (new.state in ('succeeded', 'unknown') or (new.state = 'failed' and new.effect = 'idempotent')))
    execute function invalidate_by_effect();

-- Throws away a tenant's answers with one of the tags, and those that it shares with others, and calls off the flights of both.
create function invalidate_tags_of(p_tenant text, p_tags text[]) returns void
language plpgsql as $$
begin
    delete from cache_flights where key in (
        select f.key from cache_flights f where f.tags && p_tags and (f.tenant is null or f.tenant = p_tenant) order by f.key for update);
    delete from cached_responses where key in (
        select c.key from cached_responses c where c.tags && p_tags and (c.tenant is null or c.tenant = p_tenant) order by c.key for update);
    perform pg_notify('holdfast_cache', '');
end $$;
