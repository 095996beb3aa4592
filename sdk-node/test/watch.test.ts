import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Client, ClosedError, CompactedError, prefix } from 'folkmoot'
import { random, Store, until } from './support.js'

let store: Store
let client: Client
before(async () => {
  store = await Store.start()
  client = store.client()
})
after(async () => {
  await client.close()
  await store.remove()
})

test('changes come once, in order, whole revisions', async () => {
  const watch = await client.watch(prefix('w/'), { prev: true })
  await client.put('w/a', '1')
  await client.txn().put('w/a', '2').put('w/b', '3').commit()
  await client.delete('w/a')
  const batches = [await watch.read(), await watch.read(), await watch.read()]
  assert.deepEqual(
    batches.map((batch) =>
      batch?.events.map(({ type, kv, prev }) => [type, `${kv.key}`, `${prev?.value ?? ''}`]),
    ),
    [
      [['put', 'w/a', '']],
      [
        ['put', 'w/a', '1'],
        ['put', 'w/b', ''],
      ],
      [['delete', 'w/a', '2']],
    ],
  )
  watch.close()
  assert.equal(await watch.read(), undefined)
})

test('300 events are delivered in order to a reader with random timeouts', async () => {
  const watch = await client.watch('w/many')
  const writing = (async () => {
    for (let n = 0; n < 300; n++) await client.put('w/many', `${n}`)
  })()
  const chance = random(7)
  const got: number[] = []
  let given_up = 0
  while (got.length < 300) {
    const timer = new AbortController()
    const timeout = setTimeout(() => timer.abort(new Error('too late')), chance() * 3)
    try {
      const batch = await watch.read({ signal: timer.signal })
      for (const event of batch?.events ?? []) got.push(Number(event.kv.value))
    } catch (thrown) {
      assert.equal((thrown as Error).message, 'too late')
      given_up++
    } finally {
      clearTimeout(timeout)
    }
  }
  await writing
  assert.deepEqual(
    got,
    Array.from({ length: 300 }, (_, n) => n),
  )
  assert.ok(given_up > 0, 'some reads must have been given up')
  watch.close()
})

test('for await reads it and break ends it', async () => {
  const streams = client.watchStreamCount
  const watch = await client.watch('w/loop')
  await client.put('w/loop', '1')
  for await (const batch of watch) {
    assert.equal(batch.events.length, 1)
    break
  }
  assert.deepEqual(await watch.next(), { done: true, value: undefined })
  await until('the stream at the server to end', () => client.watchStreamCount <= streams)
})

test('a reader that waits gets the end when the stream is closed', async () => {
  const watch = await client.watch('w/nothing')
  const waiting = watch.next()
  await sleep(10)
  await watch.return()
  assert.deepEqual(await waiting, { done: true, value: undefined })
})

test('readers at the same time each get an event, in their order', async () => {
  const watch = await client.watch('w/two')
  const readers = [watch.read(), watch.read(), watch.read()]
  for (const value of ['1', '2', '3']) await client.put('w/two', value)
  const got = (await Promise.all(readers)).map((batch) => `${batch?.events[0]?.kv.value}`)
  assert.deepEqual(got, ['1', '2', '3'])
  watch.close()
})

test('a signal given at the opening ends the watch with its reason', async () => {
  const controller = new AbortController()
  const watch = await client.watch('w/signal', { signal: controller.signal })
  const waiting = watch.next()
  controller.abort(new Error('enough'))
  await assert.rejects(waiting, { message: 'enough' })
  await assert.rejects(client.watch('w/signal', { signal: controller.signal }), { message: 'enough' })
})

test('a watch of what was compacted says so', async () => {
  const first = await client.put('w/c', '1')
  const second = await client.put('w/c', '2')
  await client.compact(second.header.revision)
  const watch = await client.watch('w/c', { fromRevision: first.header.revision })
  const error = await watch.next().catch((thrown: unknown) => thrown)
  assert.ok(error instanceof CompactedError, String(error))
  assert.equal(error.compactRevision, second.header.revision)
  assert.deepEqual(await watch.next(), { done: true, value: undefined })
})

test('a watch goes on when the server restarts', async () => {
  const watch = await client.watch(prefix('w/restart/'))
  await client.put('w/restart/a', '1')
  assert.equal(`${(await watch.read())?.events[0]?.kv.value}`, '1')
  await store.down()
  await store.up()
  await until('the store to take a write', () =>
    client.put('w/restart/b', '2').then(
      () => true,
      () => false,
    ),
  )
  assert.equal(`${(await watch.read())?.events[0]?.kv.value}`, '2')
  watch.close()
})

test('streams end and calls are refused when their client is closed', async () => {
  const other = store.client()
  const watch = await other.watch('w/closed')
  const waiting = watch.next()
  await other.close()
  const outcome = await waiting.catch((thrown: unknown) => thrown)
  assert.ok(outcome instanceof ClosedError || (outcome as { done?: boolean }).done, String(outcome))
  await assert.rejects(other.get('k'), ClosedError)
})
