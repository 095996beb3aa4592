// The actor of the conformance scenarios for Node: single operations as conformance/README.md lists them,
// one JSON object a line. All comparing and waiting is in the interpreter.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { all, Client, Compare, FolkmootError, prefix } from 'folkmoot'
import { settings, show } from './show.mjs'

const { version } = createRequire(import.meta.url)('../package.json')

/** Anything but an error of the client: never what a scenario waits for. */
class Fault extends Error {}

let client
let session
let folder
const open = new Map()

const text = (value) => value ?? ''
const number = (value) => Number(value ?? 0)
const keysOf = (args) =>
  args.prefix === undefined ? text(args.key) : args.prefix === '' ? all() : prefix(args.prefix)
const leaseOf = (value) => BigInt(`0x${value}`)

function opened(args, ...kinds) {
  const it = open.get(args.handle)
  if (it === undefined) throw new Fault(`nothing is open handle=${args.handle}`)
  if (kinds.length > 0 && !kinds.includes(it.kind)) throw new Fault(`it is no ${kinds.join(' or ')}`)
  return it
}

function taken(args, ...kinds) {
  const it = opened(args, ...kinds)
  open.delete(args.handle)
  return it
}

function needSession() {
  if (session === undefined) throw new Fault('the actor has no session')
  return session
}

/** The states of the session, as a stream: the present one first. */
function states() {
  const queue = []
  let bell = () => {}
  const named = (state) => (['active', 'suspended', 'closed'].includes(state) ? state : 'lost')
  const push = (state) => {
    if (queue.at(-1) !== named(state)) queue.push(named(state))
    bell()
  }
  push(needSession().state)
  session.on('state', push)
  return {
    kind: 'stream',
    show: (state) => ({ state }),
    close: () => session.off('state', push),
    read: async ({ signal }) => {
      while (queue.length === 0) {
        await new Promise((resolve, reject) => {
          bell = resolve
          signal.addEventListener('abort', () => reject(signal.reason), { once: true })
        })
      }
      return queue.shift()
    },
  }
}

const stream = (it, show) => ({ kind: 'stream', show, read: (o) => it.read(o), close: () => it.close() })

/** Waits for the abortion of `lost`, whose reason is the answer. */
function reasonOf(lost, signal) {
  return new Promise((resolve, reject) => {
    const told = () => resolve(show.error(lost.reason))
    if (lost.aborted) return told()
    lost.addEventListener('abort', told, { once: true })
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

function compare(one) {
  const make = {
    value: Compare.value,
    create_revision: Compare.createRevision,
    mod_revision: Compare.modRevision,
    version: Compare.version,
  }[one.target]
  if (make === undefined) throw new Fault(`nothing is compared by ${one.target}`)
  return make(keysOf(one), one.is, one.target === 'value' ? text(one.to) : number(one.to))
}

function operation(ops, one) {
  if (one.put) return ops.put(text(one.put.key), text(one.put.value))
  if (one.get) return ops.get(keysOf(one.get))
  if (one.delete) return ops.delete(keysOf(one.delete))
  throw new Fault('a transaction puts, gets and deletes')
}

// Operations that open something: what is kept, and the answer.

const opens = {
  'mutex.lock': async (args, signal) => {
    const mutex = needSession().mutex(text(args.name), {
      owner: text(args.owner),
      lockDelayMs: number(args.lock_delay) * 1000,
    })
    const guard = await mutex.lock({ signal })
    return [{ kind: 'lock', guard }, show.token(guard.fencingToken)]
  },
  'mutex.try_lock': async (args, signal) => {
    const guard = await needSession()
      .mutex(text(args.name), { owner: text(args.owner) })
      .tryLock({ signal })
    return [{ kind: 'lock', guard }, show.token(guard.fencingToken)]
  },
  'election.campaign': async (args, signal) => {
    const guard = await needSession().election(text(args.name)).campaign(text(args.value), { signal })
    return [{ kind: 'lead', guard }, show.token(guard.fencingToken)]
  },
  'election.observe': async (args) => [stream(await client.observe(text(args.name)), show.leaderEvent), {}],
  'session.states': async () => [states(), {}],
  'watch.open': async (args) => {
    const fromRevision = args.from ?? (args.after === undefined ? undefined : args.after + 1)
    const watch = await client.watch(keysOf(args), { fromRevision, prev: args.prev })
    return [stream(watch, show.batch), {}]
  },
  'registry.register': async (args, signal) => {
    const at = text(args.addr).lastIndexOf(':')
    const registration = await registry(args).register(
      {
        service: text(args.service),
        id: text(args.id),
        host: text(args.addr).slice(0, at),
        port: Number(text(args.addr).slice(at + 1)),
        zone: text(args.zone),
        weight: args.weight ?? 100,
      },
      { ttl: args.ttl ?? 15, onConflict: args.on_conflict || 'fail', signal },
    )
    const events = stream(registration.events(), show.registrationEvent)
    return [{ ...events, kind: 'registration', registration }, { id: registration.id }]
  },
  'registry.subscribe': async (args) => [
    stream(await registry(args).subscribe(text(args.service)), show.serviceEvent),
    {},
  ],
  'registry.balancer': async (args) => {
    const policy = (args.policy || 'round_robin').replace('_', '-')
    return [{ kind: 'balancer', balancer: await registry(args).balancer(text(args.service), { policy }) }, {}]
  },
  'config.open': async (args, signal) => {
    const reader = await client.config(text(args.namespace)).typed(settings, {
      extends: args.extends ?? [],
      initialTimeoutMs: (args.initial_timeout ?? 5) * 1000,
      cacheDir: args.cache ? folder : undefined,
      validate: args.validate
        ? (_old, { limits }) => {
            if (limits.min > limits.max) throw new Error('min is above max')
          }
        : undefined,
      signal,
    })
    const events = stream(reader.watch(), show.configEvent)
    const close = () => {
      events.close()
      reader.close()
    }
    return [{ ...events, kind: 'config', reader, close }, {}]
  },
}

const registry = (args) => client.registry(text(args.namespace), { zone: text(args.zone) })

const operations = {
  hello: async (args) => {
    const options = { endpoints: args.endpoints }
    if (args.user) options.auth = { user: args.user, password: text(args.password) }
    client = args.lazy ? Client.create(options) : await Client.connect(options)
    folder = args.folder
    if (args.ttl !== undefined && args.ttl !== null) {
      session = await client.session({ ttl: args.ttl, allowShortTtl: true })
    }
    return { language: 'node', version }
  },
  bye: async () => {
    for (const it of open.values()) await it.registration?.deregister()
    open.clear()
    await session?.close()
    await client.close()
    return {}
  },
  'kv.put': async (args, signal) => {
    const lease = args.lease === 'session' ? needSession() : args.lease ? leaseOf(args.lease) : undefined
    const { header, prev } = await client.put(text(args.key), text(args.value), {
      lease,
      prev: args.prev,
      signal,
    })
    return { revision: Number(header.revision), prev: show.kv(prev) ?? null }
  },
  'kv.get': async (args, signal) => {
    const { limit, revision, serializable } = args
    const got = await client.get(keysOf(args), { limit, revision, serializable, signal })
    return {
      revision: Number(got.header.revision),
      count: Number(got.count),
      more: got.more,
      kvs: got.kvs.map(show.kv),
    }
  },
  'kv.delete': async (args, signal) => {
    const { deleted, header } = await client.delete(keysOf(args), { signal })
    return { deleted: Number(deleted), revision: Number(header.revision) }
  },
  'kv.txn': async (args, signal) => {
    const txn = client.txn().when(...(args.if ?? []).map(compare))
    for (const one of args.then ?? []) operation(txn, one)
    txn.otherwise((ops) => {
      for (const one of args.else ?? []) operation(ops, one)
    })
    const { succeeded, header, responses } = await txn.commit({ signal })
    return { succeeded, revision: Number(header.revision), responses: responses.map(show.response) }
  },
  'kv.fill': async (args) => {
    const revisions = []
    for (let n = 0; n < (args.count ?? 1); n++) {
      try {
        const { header } = await client.put(`${text(args.prefix)}${`${n}`.padStart(5, '0')}`, `${n}`)
        revisions.push(Number(header.revision))
      } catch (thrown) {
        if (!args.under_faults) throw thrown
      }
    }
    return { count: revisions.length, last: revisions.at(-1) ?? null, revisions }
  },
  'lease.grant': async (args) => {
    const { id, ttl } = await client.leases.grant(args.ttl)
    return { id: id.toString(16), ttl }
  },
  'lease.revoke': async (args) => ({ existed: await client.leases.revoke(leaseOf(args.lease)) }),
  'session.check': async () => needSession().check() ?? {},
  'session.lost': (_args, signal) => reasonOf(needSession().lostSignal, signal),
  'session.close': async () => (await needSession().close()) ?? {},
  'session.lease': async () => ({ id: needSession().lease.toString(16) }),
  'mutex.contenders': async (args, signal) => {
    const line = await needSession().mutex(text(args.name)).contenders({ signal })
    return line.map(({ owner, revision }) => ({ owner: `${owner}`, token: Number(revision) }))
  },
  'mutex.unlock': async (args) => ({ held: await taken(args, 'lock').guard.unlock() }),
  'election.resign': async (args) => ({ held: await taken(args, 'lead').guard.resign() }),
  'election.proclaim': async (args, signal) =>
    (await opened(args, 'lead').guard.proclaim(text(args.value), { signal })) ?? {},
  'election.leader': async (args, signal) => {
    const leader = await client.leader(text(args.name), { signal })
    return leader ? show.leader(leader) : null
  },
  'guard.put': async (args, signal) => {
    const txn = opened(args, 'lock', 'lead').guard.txn().put(text(args.key), text(args.value))
    return { revision: Number((await txn.commit({ signal })).header.revision) }
  },
  'guard.check': async (args) => opened(args, 'lock', 'lead').guard.check() ?? {},
  'guard.lost': (args, signal) => reasonOf(opened(args, 'lock', 'lead').guard.lostSignal, signal),
  'guard.drop': async (args) => {
    const { guard } = taken(args, 'lock', 'lead')
    // The nearest thing to going out of scope: nobody waits for it.
    void guard[Symbol.asyncDispose]()
    return {}
  },
  'registry.resolve': async (args, signal) =>
    show.instances(await registry(args).resolve(text(args.service), { signal })),
  'registration.health': async (args) =>
    opened(args, 'registration').registration.setHealth(text(args.health).toLowerCase()) ?? {},
  'registration.drain': async (args, signal) =>
    (await opened(args, 'registration').registration.drain((args.grace ?? 5) * 1000, { signal })) ?? {},
  'registration.deregister': async (args) =>
    (await taken(args, 'registration').registration.deregister()) ?? {},
  'balancer.instances': async (args) => show.instances(opened(args, 'balancer').balancer.instances()),
  'balancer.pick': async (args) => {
    const counts = {}
    for (let n = 0; n < (args.times ?? 1); n++) {
      const pick = opened(args, 'balancer').balancer.pick(text(args.key))
      const { id } = pick.instance
      if (args.failing === id) pick.fail()
      else pick.ok()
      counts[id] = (counts[id] ?? 0) + 1
    }
    return { counts }
  },
  'config.get': async (args, signal) => {
    const item = await client.config(text(args.namespace)).get(text(args.path), { signal })
    return item === undefined ? null : `${item}`
  },
  'config.publish': async (args, signal) => {
    const basedOn = args.based_on ?? undefined
    const revision = await client.config(text(args.namespace)).publish(args.items ?? {}, { basedOn, signal })
    return { revision: Number(revision) }
  },
  'config.current': async (args) => opened(args, 'config').reader.current,
  'stream.next': async (args, signal) => {
    const it = opened(args, 'stream', 'registration', 'config')
    const item = await it.read({ signal })
    if (item === undefined) {
      throw Object.assign(Object.create(FolkmootError.prototype), {
        code: 'CLOSED',
        retryable: false,
        maybeApplied: false,
      })
    }
    return it.show(item)
  },
  'stream.close': async (args) => taken(args, 'stream', 'registration', 'config').close() ?? {},
}

const running = new Map()

async function run({ id, op, args = {}, save }) {
  const controller = new AbortController()
  running.set(id, controller)
  const answer = { id }
  try {
    if (opens[op]) {
      const [it, result] = await opens[op](args, controller.signal)
      open.set(save ?? op, it)
      answer.result = result
    } else if (operations[op]) {
      answer.result = await operations[op](args, controller.signal)
    } else {
      throw new Fault(`there is no operation ${op}`)
    }
  } catch (thrown) {
    if (controller.signal.aborted && thrown === controller.signal.reason) answer.cancelled = true
    else if (thrown instanceof FolkmootError) answer.error = show.error(thrown)
    else answer.fault = `${thrown?.stack ?? thrown}`
  }
  running.delete(id)
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line)
  if (asked.cancel !== undefined) running.get(asked.cancel)?.abort()
  else void run(asked)
}
// Nobody is there any more, as after a crash: what is open ends with the process.
process.exit(0)
