import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import {
  all,
  type Client,
  CompactedError,
  Compare,
  ConflictError,
  FolkmootError,
  from,
  prefix,
  range,
} from 'folkmoot'
import { ETCD, FOLKMOOT, Store } from './support.js'

for (const program of [FOLKMOOT, ETCD]) {
  describe(program.endsWith('etcd') ? 'etcd' : 'folkmoot', () => {
    let store: Store
    let client: Client
    before(async () => {
      store = await Store.start(program)
      client = store.client()
    })
    after(async () => {
      await client.close()
      await store.remove()
    })

    test('keys are put, read and deleted', async () => {
      const first = await client.put('kv/a', 'one')
      const second = await client.put('kv/a', Buffer.from([0, 255]), { prev: true })
      assert.equal(second.prev?.value.toString(), 'one')
      assert.equal(second.header.revision, first.header.revision + 1n)
      const { kv, count } = await client.get('kv/a')
      assert.deepEqual([...(kv?.value ?? [])], [0, 255])
      assert.equal(kv?.version, 2n)
      assert.equal(kv?.createRevision, first.header.revision)
      assert.equal(count, 1n)
      const past = await client.get('kv/a', { revision: first.header.revision })
      assert.equal(past.kv?.value.toString(), 'one')
      const gone = await client.delete('kv/a', { prev: true })
      assert.equal(gone.deleted, 1n)
      assert.equal(gone.prev[0]?.version, 2n)
      assert.equal((await client.get('kv/a')).kv, undefined)
    })

    test('sets of keys are read in the order and number asked for', async () => {
      for (const key of ['s/a', 's/b', 's/c']) await client.put(key, `value of ${key}`)
      const names = async (keys: Parameters<Client['get']>[0], options = {}) =>
        (await client.get(keys, options)).kvs.map((kv) => kv.key.toString())
      assert.deepEqual(await names(prefix('s/')), ['s/a', 's/b', 's/c'])
      assert.deepEqual(await names(range('s/a', 's/c')), ['s/a', 's/b'])
      assert.deepEqual(await names(from('s/b')), ['s/b', 's/c'])
      assert.deepEqual(await names(prefix('s/'), { descending: true, limit: 2 }), ['s/c', 's/b'])
      assert.deepEqual(await names(prefix('s/'), { sortBy: 'create' }), ['s/a', 's/b', 's/c'])
      const few = await client.get(prefix('s/'), { limit: 1, keysOnly: true, serializable: true })
      assert.equal(few.more, true)
      assert.equal(few.count, 3n)
      assert.equal(few.kv?.value.length, 0)
      assert.equal((await client.get(all(), { countOnly: true })).kvs.length, 0)
      assert.equal((await client.delete(prefix('s/'))).deleted, 3n)
    })

    test('a transaction does one of its two branches', async () => {
      const create = () =>
        client
          .txn()
          .when(Compare.absent('t/a'))
          .put('t/a', '1')
          .otherwise((ops) => ops.get('t/a'))
          .commit()
      assert.equal((await create()).succeeded, true)
      const second = await create()
      assert.equal(second.succeeded, false)
      const [read] = second.responses
      assert.equal(read?.op === 'get' && read.kv?.value.toString(), '1')
      const nested = await client
        .txn()
        .when(Compare.value('t/a', '=', '1'), Compare.version('t/a', '<', 2n), Compare.exists('t/a'))
        .txn(
          client
            .txn()
            .when(Compare.modRevision('t/a', '!=', 0))
            .put('t/b', '2'),
        )
        .delete('t/a', { prev: true })
        .commit()
      const [within, deleted] = nested.responses
      assert.equal(within?.op === 'txn' && within.succeeded, true)
      assert.equal(deleted?.op === 'delete' && deleted.deleted, 1n)
      assert.equal((await client.get('t/b')).kv?.value.toString(), '2')
    })

    test('a namespace is in front of every key and of none that come back', async () => {
      const team = client.namespace('team/')
      await team.put('k', 'v')
      assert.equal((await client.get('team/k')).kv?.value.toString(), 'v')
      assert.equal((await team.get(all())).kv?.key.toString(), 'k')
    })

    test('leases end with their keys', async () => {
      const lease = await client.leases.grant(30)
      await client.put('l/a', '1', { lease: lease.id })
      const left = await client.leases.timeToLive(lease.id, { keys: true })
      assert.equal(left?.granted, 30)
      assert.deepEqual(left?.keys.map(String), ['l/a'])
      assert.ok((await client.leases.list()).includes(lease.id))
      assert.equal((await client.leases.renew(lease.id)).ttl, 30)
      assert.equal(await client.leases.revoke(lease.id), true)
      assert.equal(await client.leases.revoke(lease.id), false)
      assert.equal(await client.leases.timeToLive(lease.id), undefined)
      assert.equal((await client.get('l/a')).kv, undefined)
      await assert.rejects(client.leases.renew(lease.id), { code: 'LEASE_NOT_FOUND' })
    })

    test('what was compacted cannot be read', async () => {
      const { header } = await client.put('c/a', '1')
      const last = await client.put('c/a', '2')
      await client.compact(last.header.revision)
      const error = await client.get('c/a', { revision: header.revision }).catch((thrown: unknown) => thrown)
      assert.ok(error instanceof CompactedError, String(error))
      assert.equal(error.code, 'COMPACTED')
      assert.equal(error.retryable, false)
      assert.ok(error instanceof FolkmootError && error instanceof Error)
    })

    test('members and their status are told', async () => {
      const [member] = await client.cluster.members()
      assert.equal(member?.name, 'one')
      const status = await client.maintenance.status(store.endpoint)
      assert.equal(status.leader, member?.id)
      assert.equal(status.header.clusterId, client.clusterId)
      assert.ok((await client.maintenance.hashKv(store.endpoint)).hash > 0)
      assert.deepEqual(await client.maintenance.alarms(), [])
      await assert.rejects(client.cluster.remove(1n), { code: 'NOT_FOUND' })
      let bytes = 0
      for await (const piece of await client.maintenance.snapshot(store.endpoint)) bytes += piece.length
      assert.ok(bytes > 1000, `${bytes}`)
    })

    test('a put of too many operations and one with an empty key are refused by name', async () => {
      await assert.rejects(client.put('', 'x'), { code: 'INVALID_ARGUMENT', maybeApplied: false })
      const txn = client.txn()
      for (let n = 0; n < 129; n++) txn.put(`many/${n}`, 'x')
      await assert.rejects(txn.commit(), { code: 'TOO_MANY_OPS' })
    })
  })
}

test('errors have their place in the tree', () => {
  assert.ok(ConflictError.prototype instanceof FolkmootError)
})
