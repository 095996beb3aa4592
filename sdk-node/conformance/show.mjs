// The client's values as the scenarios see them.

export const show = {
  error: (error) => ({
    code: error.code,
    retryable: error.retryable,
    maybe_applied: error.maybeApplied,
    text: error.message,
  }),
  kv: (kv) =>
    kv && {
      key: `${kv.key}`,
      value: `${kv.value}`,
      create_revision: Number(kv.createRevision),
      mod_revision: Number(kv.modRevision),
      version: Number(kv.version),
      leased: kv.lease !== 0n,
    },
  batch: ({ revision, events }) => ({
    revision: Number(revision),
    events: events.map(({ type, kv, prev }) => ({
      event: type,
      key: `${kv.key}`,
      value: `${kv.value}`,
      prev: show.kv(prev) ?? null,
    })),
  }),
  token: ({ revision, key }) => ({ token: Number(revision), key: `${key}` }),
  leader: (leader) => ({ value: `${leader.value}`, token: Number(leader.token), key: `${leader.key}` }),
  leaderEvent: ({ type, leader }) =>
    leader ? { event: type, leader: show.leader(leader) } : { event: type },
  instances: (instances) =>
    instances.map(({ id, addr, health, weight, zone }) => ({
      id,
      addr,
      health: health.toUpperCase(),
      weight,
      zone,
    })),
  serviceEvent: (event) => {
    if (event.type === 'snapshot') return { event: 'snapshot', instances: show.instances(event.instances) }
    if (event.type !== 'delta') return { event: event.type }
    const [added, updated, removed] = [event.added, event.updated, event.removed].map(show.instances)
    return { event: 'delta', added, updated, removed, revision: Number(event.revision), resync: event.resync }
  },
  registrationEvent: (event) =>
    event.type === 'conflict' ? { event: 'conflict' } : { event: 'reregistered', epoch: event.epoch },
  configEvent: (event) =>
    event.type === 'rejected'
      ? { event: 'rejected', code: event.error.code }
      : {
          event: 'changed',
          new: event.value,
          changed_paths: event.changedPaths,
          source: event.source === 'live' ? 'live' : 'disk_cache',
        },
  response: (one) => {
    if (one.op === 'get') return { get: one.kvs.map(show.kv) }
    if (one.op === 'delete') return { deleted: Number(one.deleted) }
    return { [one.op]: {} }
  },
}

/** What every configuration of the scenarios is read as. */
export function settings(value) {
  const typed = (name, given, kind, otherwise) => {
    if (given === undefined) return otherwise
    const good = kind === 'integer' ? Number.isInteger(given) : typeof given === kind
    if (!good) throw new TypeError(`${name} must be of type ${kind}`)
    return given
  }
  const limits = typed('limits', value.limits, 'object', {})
  const tags = value.tags ?? []
  if (!Array.isArray(tags)) throw new TypeError('tags must be a list')
  return {
    name: typed('name', value.name, 'string', ''),
    limits: {
      min: typed('min', limits.min, 'integer', 0),
      max: typed('max', limits.max, 'integer', 0),
    },
    tags: tags.map((tag) => typed('tag', tag, 'string')),
  }
}
