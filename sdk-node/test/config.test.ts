import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { type Client, ConfigError, ConflictError } from 'folkmoot'
import { ETCD, FOLKMOOT, Store } from './support.js'

interface Gateway {
  timeout_ms: number
}

function gateway(value: unknown): Gateway {
  const { timeout_ms } = value as Partial<Gateway>
  if (typeof timeout_ms !== 'number') throw new Error('timeout_ms must be a number')
  return { timeout_ms }
}

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

test('typed configuration follows the store and keeps the last good value', async () => {
  for (const at of [store, etcd]) {
    const client = at.client()
    const config = client.config('gateway')
    await config.set('timeout_ms', '500')
    const reader = await config.typed(gateway, {
      validate: async (_old, next) => {
        await client.get('validators may use the client')
        if (next.timeout_ms > 1000) throw new Error('too patient')
      },
    })
    assert.deepEqual(reader.current, { timeout_ms: 500 })
    assert.equal(reader.current, reader.current)
    assert.equal(reader.state.source, 'live')
    const events = reader.watch()
    const first = await events.read()
    assert.equal(first?.type === 'changed' && first.value.timeout_ms, 500)
    await config.set('timeout_ms', '600')
    const second = await events.read()
    assert.equal(second?.type === 'changed' && second.value.timeout_ms, 600)
    assert.equal(second?.type === 'changed' && second.old?.timeout_ms, 500)
    assert.deepEqual(second?.type === 'changed' && second.changedPaths, ['timeout_ms'])
    for (const [bad, why] of [
      ['5000', /too patient/],
      ['"long"', /must be a number/],
    ] as const) {
      await config.set('timeout_ms', bad)
      const refused = await events.read()
      assert.equal(refused?.type, 'rejected')
      assert.ok(refused?.type === 'rejected' && refused.error instanceof ConfigError)
      assert.match(refused?.type === 'rejected' ? refused.error.message : '', why)
      assert.equal(reader.current.timeout_ms, 600)
    }
    await config.set('timeout_ms', '700')
    const third = await events.read()
    assert.equal(third?.type === 'changed' && third.value.timeout_ms, 700)
    events.close()
    reader.close()
    await client.close()
  }
})

test('a namespace is laid over others', async () => {
  await client.config('base').publish({ timeout_ms: '1', other: '2' })
  await client.config('over').publish({ timeout_ms: '10' })
  const reader = await client
    .config('over')
    .typed((value) => value as Record<string, number>, { extends: ['base'] })
  assert.deepEqual(reader.current, { timeout_ms: 10, other: 2 })
  reader.close()
})

test('a schema with a method parse is taken as it is', async () => {
  await client.config('schema').set('timeout_ms', '5')
  const schema = { parse: (value: unknown) => gateway(value).timeout_ms }
  const reader = await client.config('schema').typed(schema)
  assert.equal(reader.current, 5)
  reader.close()
})

test('publications are refused when somebody was faster', async () => {
  const config = client.config('race')
  const first = await config.set('a', '1')
  await config.set('a', '2')
  await assert.rejects(config.set('a', '3', { basedOn: first }), ConflictError)
  const { items, revision } = await config.items()
  assert.deepEqual(
    items.map(({ path, value }) => [path, `${value}`]),
    [['a', '2']],
  )
  await config.publish({ a: null, b: 'x' }, { basedOn: revision })
  assert.equal(await config.get('a'), undefined)
  assert.equal(`${await config.get('b')}`, 'x')
})

test('without the store it starts from the disk, and is live again afterwards', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'folkmoot-cache-'))
  const other = await Store.start()
  const client = other.client()
  await client.config('cached').set('timeout_ms', '42')
  const warm = await client.config('cached').typed(gateway, { cacheDir: dir })
  warm.close()
  await other.down()
  const cold = other.client()
  const reader = await cold.config('cached').typed(gateway, { cacheDir: dir, initialTimeoutMs: 300 })
  assert.equal(reader.state.source, 'disk-cache')
  assert.equal(reader.current.timeout_ms, 42)
  const events = reader.watch()
  assert.equal((await events.read())?.type, 'changed')
  await other.up()
  await client.config('cached').set('timeout_ms', '43')
  for await (const event of events) {
    if (event.type === 'changed' && event.source === 'live' && event.value.timeout_ms === 43) break
  }
  assert.equal(reader.state.source, 'live')
  reader.close()
  await client.close()
  await cold.close()
  await other.remove()
  rmSync(dir, { recursive: true, force: true })
})

test('a configuration that is bad from the start is refused with the reason', async () => {
  await client.config('bad').set('timeout_ms', '"x"')
  await assert.rejects(client.config('bad').typed(gateway), (thrown) => {
    assert.ok(thrown instanceof ConfigError, String(thrown))
    assert.match(thrown.message, /timeout_ms must be a number/)
    return true
  })
  await assert.rejects(
    client.config('big').set('a', 'x'.repeat(2 << 20)),
    (thrown: Error & { code?: string }) => {
      assert.ok(thrown.code && thrown.code !== 'INTERNAL', String(thrown))
      return true
    },
  )
})
