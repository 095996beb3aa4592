import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { type Client, RegistryError } from 'folkmoot'
import { ETCD, FOLKMOOT, Store, until } from './support.js'

let stores: Store[]
let client: Client
before(async () => {
  stores = [await Store.start(FOLKMOOT), await Store.start(ETCD)]
  client = (stores[0] as Store).client()
})
after(async () => {
  await client.close()
  for (const store of stores) await store.remove()
})

test('instances are registered, found, followed, drained and taken out', async () => {
  for (const store of stores) {
    const client = store.client()
    const registry = client.registry('prod')
    const events = await registry.subscribe('users')
    const first = await events.read()
    assert.deepEqual(first?.type === 'snapshot' && first.instances, [])
    const registration = await registry.register({
      service: 'users',
      host: '10.0.0.1',
      port: 8080,
      id: 'a',
      ports: { metrics: 9090 },
      zone: 'eu-1a',
      attrs: { colour: 'green' },
    })
    assert.equal(registration.id, 'a')
    const added = await events.read()
    const [instance] = added?.type === 'delta' ? added.added : []
    assert.equal(instance?.addr, '10.0.0.1:8080')
    assert.deepEqual(instance?.ports, { metrics: 9090 })
    assert.deepEqual(instance?.attrs, { colour: 'green' })
    assert.deepEqual((await registry.resolve('users')).length, 1)
    await assert.rejects(registry.register({ service: 'users', host: 'h', id: 'a' }), {
      code: 'ALREADY_REGISTERED',
    })
    const draining = registration.drain(200)
    const changed = await events.read()
    assert.equal(changed?.type === 'delta' && changed.updated[0]?.health, 'draining')
    await draining
    await registration.deregister()
    const removed = await events.read()
    assert.equal(removed?.type === 'delta' && removed.removed[0]?.id, 'a')
    events.close()
    await client.close()
  }
})

test('a balancer picks what is up and says when there is nothing', async () => {
  const registry = client.registry('lb')
  const balancer = await registry.balancer('web', { policy: 'round-robin' })
  assert.throws(() => balancer.pick(), RegistryError)
  const registrations = [
    await registry.register({ service: 'web', host: 'h', port: 1 }),
    await registry.register({ service: 'web', host: 'h', port: 2 }),
  ]
  await until('both to be known', () => balancer.instances().length === 2)
  const picked = new Map<string, number>()
  for (let n = 0; n < 20; n++) {
    const pick = balancer.pick()
    picked.set(pick.addr, (picked.get(pick.addr) ?? 0) + 1)
    pick.ok()
  }
  assert.deepEqual([...picked.entries()].sort(), [
    ['h:1', 10],
    ['h:2', 10],
  ])
  registrations[0]?.setHealth('down')
  await until('the one to be left out', () =>
    Array.from({ length: 5 }, () => balancer.pick()).every((pick) => pick.url === 'http://h:2'),
  )
  const ring = await registry.balancer('web', { policy: 'ring-hash' })
  assert.equal(ring.pick('user-1').addr, ring.pick('user-1').addr)
  for (const registration of registrations) await registration.deregister()
})

test('a health check is asked and its answer is told to others', async () => {
  const registry = client.registry('health')
  let asked = 0
  const registration = await registry.register(
    { service: 'sick', host: 'h', port: 1, health: 'starting' },
    {
      healthCheck: async () => {
        asked++
        // It may use the client itself.
        await client.get('health/any')
        return 'up' as const
      },
    },
  )
  await until('it to be up', async () => (await registry.resolve('sick'))[0]?.health === 'up', 30_000)
  assert.ok(asked >= 1)
  await registration.deregister()
})

test('a health check that throws or answers nonsense counts as down, and is complained about once', async () => {
  const registry = client.registry('broken')
  const warnings: string[] = []
  const hear = (warning: Error & { code?: string }) => {
    if (warning.code === 'FOLKMOOT_HEALTH_CHECK') warnings.push(warning.message)
  }
  process.on('warning', hear)
  let asked = 0
  const registration = await registry.register(
    { service: 'sick', host: 'h', port: 1 },
    {
      healthCheck: () => {
        asked++
        if (asked === 1) throw new Error('out of order')
        return 'splendid' as 'up'
      },
    },
  )
  await until('it to be down', async () => (await registry.resolve('sick'))[0]?.health === 'down', 30_000)
  await until('it to be asked again', () => asked > 1, 30_000)
  await registration.deregister()
  process.off('warning', hear)
  assert.equal(warnings.length, 1)
  assert.match(warnings[0] ?? '', /service sick threw Error: out of order/)
})

test('a registration comes back when its lease is taken away', async () => {
  const registry = client.registry('again')
  const registration = await registry.register({ service: 's', host: 'h', port: 1, id: 'x' }, { ttl: 5 })
  const events = registration.events()
  for (const lease of await client.leases.list()) await client.leases.revoke(lease)
  const event = await events.read()
  assert.equal(event?.type === 'reregistered' && event.epoch >= 1, true)
  assert.equal((await registry.resolve('s')).length, 1)
  events.close()
  await registration.deregister()
})

test('foreign values among the instances do no harm', async () => {
  const registry = client.registry('foreign')
  const registration = await registry.register({ service: 's', host: 'h', port: 1, id: 'mine' })
  const [key] = (await client.get('', { countOnly: false }).catch(() => ({ kvs: [] }))).kvs
  assert.equal(key, undefined)
  const { kvs } = await client.get((await import('folkmoot')).all())
  const mine = kvs.map((kv) => `${kv.key}`).find((name) => name.endsWith('/mine'))
  assert.ok(mine, 'the registration has a key')
  await client.put(mine.replace(/mine$/, 'foreign'), 'no json at all \xff')
  const found = await registry.resolve('s')
  assert.deepEqual(
    found.map((instance) => instance.id),
    ['mine'],
  )
  await registration.deregister()
})
