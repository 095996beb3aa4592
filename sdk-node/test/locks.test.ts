import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Client,
  DeadlineExceededError,
  NotHeldError,
  prefix,
  SessionLostError,
  WouldBlockError,
} from 'folkmoot'
import { ETCD, FOLKMOOT, random, Store, until } from './support.js'

let store: Store
let etcd: Store
let client: Client
before(async () => {
  store = await Store.start(FOLKMOOT)
  etcd = await Store.start(ETCD)
  client = store.client()
})
after(async () => {
  await client.close()
  await store.remove()
  await etcd.remove()
})

const count = async (of: Client, keys: string) =>
  Number((await of.get(prefix(keys), { countOnly: true })).count)

test('a lock excludes others, in their order, and fences writes', async () => {
  for (const at of [store, etcd]) {
    const client = at.client()
    const [one, two] = [await client.session(), await client.session()]
    const guard = await one.mutex('l/a', { owner: 'one' }).lock()
    await assert.rejects(two.mutex('l/a').tryLock(), WouldBlockError)
    const late = await two
      .mutex('l/a')
      .lock({ timeoutMs: 50 })
      .catch((thrown: unknown) => thrown)
    assert.ok(late instanceof DeadlineExceededError, String(late))
    await until('the place in the line to be given up', async () => (await count(client, 'l/a/')) === 1)
    const waiting = two.mutex('l/a').lock()
    const [holder] = await until('the waiter', async () => {
      const contenders = await one.mutex('l/a').contenders()
      return contenders.length === 2 ? contenders : undefined
    })
    assert.equal(`${holder?.owner}`, 'one')
    assert.equal(holder?.revision, guard.token)
    assert.equal((await guard.txn().put('l/fenced', '1').commit()).succeeded, true)
    assert.equal(await guard.unlock(), true)
    assert.equal(await guard.unlock(), false)
    await assert.rejects(guard.txn().put('l/fenced', '2').commit(), NotHeldError)
    const next = await waiting
    assert.ok(next.token > guard.token)
    assert.equal(next.lostSignal.aborted, false)
    await next[Symbol.asyncDispose]()
    await one.close()
    await two.close()
    assert.equal(one.state, 'closed')
    await client.close()
  }
})

test('withLock releases however the work ends', async () => {
  const session = await client.session()
  const mutex = session.mutex('l/with')
  assert.equal(await mutex.withLock((guard) => guard.token > 0n), true)
  await assert.rejects(
    mutex.withLock(() => {
      throw new Error('oops')
    }),
    { message: 'oops' },
  )
  await (await mutex.tryLock()).unlock()
  await session.close()
})

test('an aborted call rejects with the reason, also when it was aborted before', async () => {
  const session = await client.session()
  const guard = await session.mutex('l/abort').lock()
  const controller = new AbortController()
  const waiting = session.mutex('l/abort').lock({ signal: controller.signal })
  controller.abort('no patience')
  await assert.rejects(waiting, (thrown) => thrown === 'no patience')
  await assert.rejects(
    session.mutex('l/abort').lock({ signal: controller.signal }),
    (thrown) => thrown === 'no patience',
  )
  await assert.rejects(client.get('k', { signal: AbortSignal.abort(new Error('before')) }), {
    message: 'before',
  })
  await guard.unlock()
  await until('no waiter to be left', async () => (await count(client, 'l/abort/')) === 0)
  await session.close()
})

/** How long a piece of work takes here, in milliseconds. */
async function usual(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now()
  for (let n = 0; n < 20; n++) await work()
  return (performance.now() - begun) / 20
}

/** Aborts at once, or after up to twice the usual time; timers are too coarse for a quick store. */
function abortSoon(controller: AbortController, chance: () => number, time: number): () => void {
  if (chance() < 0.5) {
    const next = setImmediate(() => controller.abort())
    return () => clearImmediate(next)
  }
  const timer = setTimeout(() => controller.abort(), 1 + chance() * 2 * time)
  return () => clearTimeout(timer)
}

test('cancel_leaks_nothing: 1,000 random aborts of a lock', async () => {
  const chance = random(11)
  const session = await client.session({ ttl: 5 })
  const time = await usual(async () => (await session.mutex('cancel/lock').lock()).unlock())
  let got = 0
  for (let round = 0; round < 1000; round++) {
    const controller = new AbortController()
    const wait = session.mutex('cancel/lock').lock({ signal: controller.signal })
    const keep = abortSoon(controller, chance, time)
    try {
      const guard = await wait
      got++
      await guard.unlock()
    } catch (thrown) {
      assert.equal((thrown as Error).name, 'AbortError')
    } finally {
      keep()
    }
  }
  assert.ok(got > 10 && got < 990, `both must have happened: got ${got} of 1000`)
  await until('no key to be left', async () => (await count(client, 'cancel/lock/')) === 0)
  await (await session.mutex('cancel/lock').lock({ timeoutMs: 5000 })).unlock()
  await session.close()
})

test('cancel_leaks_nothing: 1,000 random aborts of a campaign', async () => {
  const chance = random(12)
  const session = await client.session({ ttl: 5 })
  const time = await usual(async () => (await session.election('cancel/election').campaign('me')).resign())
  let won = 0
  for (let round = 0; round < 1000; round++) {
    const controller = new AbortController()
    const wait = session.election('cancel/election').campaign('me', { signal: controller.signal })
    const keep = abortSoon(controller, chance, time)
    try {
      const leadership = await wait
      won++
      await leadership.resign()
    } catch (thrown) {
      assert.equal((thrown as Error).name, 'AbortError')
    } finally {
      keep()
    }
  }
  assert.ok(won > 10 && won < 990, `both must have happened: won ${won} of 1000`)
  await until('no key to be left', async () => (await count(client, 'cancel/election/')) === 0)
  await session.close()
})

test('stall_keeps_lease: the event loop is blocked for two thirds of the time to live', async () => {
  const session = await client.session({ ttl: 5 })
  const guard = await session.mutex('stall').lock()
  const until = Date.now() + 3400
  while (Date.now() < until);
  guard.check()
  assert.ok(session.remainingMs > 2500, `${session.remainingMs}`)
  assert.equal((await guard.txn().put('stalled', '1').commit()).succeeded, true)
  await guard.unlock()
  await session.close()
})

test('gc_releases_guard', async () => {
  const session = await client.session()
  const warnings: string[] = []
  const listen = (warning: Error) => warnings.push(warning.message)
  process.on('warning', listen)
  await (async () => {
    await session.mutex('gc/lock').lock()
  })()
  await until('the guard to be collected', async () => {
    global.gc?.()
    return (await count(client, 'gc/lock/')) === 0
  })
  await until('the warning', () => warnings.some((text) => text.includes('the lock gc/lock')))
  process.off('warning', listen)
  await session.close()
})

test('the loss of a session is told to whoever holds something through it', async () => {
  const session = await client.session({ ttl: 5 })
  const states: string[] = []
  session.on('state', (state) => states.push(state))
  const guard = await session.mutex('lost/lock').lock()
  const leadership = await session.election('lost/election').campaign('me')
  const lost = new Promise<unknown>((done) => session.once('lost', done))
  await client.leases.revoke(session.lease)
  const why = await lost
  assert.ok(why instanceof SessionLostError, String(why))
  await until('the signals', () => guard.lostSignal.aborted && leadership.lostSignal.aborted)
  assert.equal(states.at(-1), 'lease-gone')
  assert.throws(() => guard.check(), SessionLostError)
  assert.throws(() => session.check(), SessionLostError)
  await assert.rejects(guard.txn().put('lost/x', '1').commit())
  await assert.rejects(session.mutex('lost/lock').lock(), SessionLostError)
})

test('a paused store suspends the session and a resumed one brings it back', async () => {
  const paused = await Store.start()
  const client = paused.client()
  const session = await client.session({ ttl: 30 })
  const states: string[] = []
  session.on('state', (state) => states.push(state))
  paused.pause()
  await until('the session to be suspended', () => session.state === 'suspended', 40_000)
  paused.resume()
  await until('it to be active again', () => session.state === 'active', 20_000)
  await until('the listener to have heard', () => states.join() === 'suspended,active')
  await session.close()
  await client.close()
  await paused.remove()
})

test('an election has one leader at a time and tells who it is', async () => {
  for (const at of [store, etcd]) {
    const client = at.client()
    const [one, two] = [await client.session(), await client.session()]
    assert.equal(await client.leader('e/a'), undefined)
    const events = await client.observe('e/a')
    assert.equal((await events.read())?.type, 'vacant')
    const first = await one.election('e/a').campaign('one')
    const elected = await events.read()
    assert.equal(elected?.type === 'elected' && `${elected.leader.value}`, 'one')
    assert.equal(elected?.leader?.token, first.token)
    await first.proclaim('one again')
    const updated = await events.read()
    assert.equal(updated?.type === 'updated' && `${updated.leader.value}`, 'one again')
    const waiting = two.election('e/a').campaign('two')
    await until('the second candidate', async () => (await count(client, 'e/a/')) === 2)
    assert.equal((await first.txn().put('e/fenced', '1').commit()).succeeded, true)
    assert.equal(await first.resign(), true)
    const second = await waiting
    assert.equal(`${(await two.election('e/a').leader())?.value}`, 'two')
    await assert.rejects(first.proclaim('too late'), { code: 'NOT_LEADER' })
    await second.resign()
    events.close()
    await one.close()
    await two.close()
    await client.close()
  }
})

test('callback_may_call_client: a listener uses the client and the session', async () => {
  const session = await client.session({ ttl: 5 })
  const answered = new Promise<string>((done, failed) => {
    session.once('lost', () => {
      client
        .put('callback', 'yes')
        .then(() => client.get('callback'))
        .then(({ kv }) => done(`${kv?.value}`), failed)
    })
  })
  await client.leases.revoke(session.lease)
  assert.equal(await answered, 'yes')
})

test('times to live out of range are refused by name', async () => {
  await assert.rejects(client.session({ ttl: 2 }), { code: 'INVALID_ARGUMENT' })
  const short = await client.session({ ttl: 2, allowShortTtl: true })
  assert.ok(short.ttl >= 2)
  await short.close()
  await assert.rejects(client.session({ ttl: -1 }), { name: 'RangeError', message: /ttl must be/ })
  await assert.rejects(client.session({ ttl: Number.NaN }), { name: 'RangeError', message: /ttl must be/ })
  await sleep(0)
})
