// The Node client `etcd3` against one endpoint: node_client.js HOST:PORT PREFIX
'use strict';

const assert = require('node:assert');
const { Etcd3 } = require('etcd3');

const [endpoint, prefix] = process.argv.slice(2);
const patience = 10_000;
const client = new Etcd3({ hosts: `http://${endpoint}` });
const key = (name) => prefix + name;

/** Resolves with the first value that is not undefined, or fails when the time is up. */
async function until(what, probe) {
  const deadline = Date.now() + patience;
  for (;;) {
    const value = await probe();
    if (value !== undefined) return value;
    if (Date.now() > deadline) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const checks = {
  async 'put and get'() {
    await client.put(key('a')).value('one');
    assert.strictEqual(await client.get(key('a')).string(), 'one');
    assert.strictEqual(await client.get(key('absent')).string(), null);
    const before = await client.put(key('a')).value('two').getPrevious();
    assert.strictEqual(before.value.toString(), 'one');
  },

  async 'binary values'() {
    const value = Buffer.from([0, 255, 0, 1]);
    await client.put(key('binary')).value(value);
    assert.deepStrictEqual(await client.get(key('binary')).buffer(), value);
  },

  async 'prefix list'() {
    for (const i of [1, 2, 3]) await client.put(key(`list/${i}`)).value(`v${i}`);
    const all = await client.getAll().prefix(key('list/')).strings();
    assert.deepStrictEqual(all, { [key('list/1')]: 'v1', [key('list/2')]: 'v2', [key('list/3')]: 'v3' });
    const down = await client.getAll().prefix(key('list/')).sort('Key', 'Descend').limit(2).keys();
    assert.deepStrictEqual(down, [key('list/3'), key('list/2')]);
    assert.strictEqual(await client.getAll().prefix(key('list/')).count(), 3);
  },

  async 'delete'() {
    assert.strictEqual((await client.delete().key(key('list/1'))).deleted, '1');
    assert.strictEqual((await client.delete().prefix(key('list/'))).deleted, '2');
    assert.strictEqual((await client.delete().key(key('list/1'))).deleted, '0');
  },

  async 'compare and swap'() {
    await client.put(key('swap')).value('old');
    const swap = (from, to) =>
      client.if(key('swap'), 'Value', '==', from).then(client.put(key('swap')).value(to)).else(client.get(key('swap'))).commit();
    assert.strictEqual((await swap('old', 'new')).succeeded, true);
    const lost = await swap('old', 'newer');
    assert.strictEqual(lost.succeeded, false);
    assert.strictEqual(lost.responses[0].response_range.kvs[0].value.toString(), 'new');
    const created = await client.if(key('fresh'), 'Create', '==', 0).then(client.put(key('fresh')).value('x')).commit();
    assert.strictEqual(created.succeeded, true);
  },

  async 'watch history and live'() {
    const first = await client.put(key('watched')).value('1');
    await client.put(key('watched')).value('2');
    const watcher = await client.watch().key(key('watched')).startRevision(first.header.revision).create();
    const seen = [];
    watcher.on('put', (kv) => seen.push(`put ${kv.value}`));
    watcher.on('delete', () => seen.push('delete'));
    await client.put(key('watched')).value('3');
    await client.delete().key(key('watched'));
    await until('four events', () => (seen.length >= 4 ? true : undefined));
    assert.deepStrictEqual(seen, ['put 1', 'put 2', 'put 3', 'delete']);
    await watcher.cancel();
  },

  async 'watch a prefix with previous values'() {
    const watcher = await client.watch().prefix(key('pre/')).withPreviousKV().create();
    const seen = [];
    watcher.on('put', (kv, previous) => seen.push([kv.key.toString(), kv.value.toString(), previous ? previous.value.toString() : null]));
    await client.put(key('pre/a')).value('1');
    await client.put(key('pre/a')).value('2');
    await until('two events', () => (seen.length >= 2 ? true : undefined));
    assert.deepStrictEqual(seen, [[key('pre/a'), '1', null], [key('pre/a'), '2', '1']]);
    await watcher.cancel();
  },

  async 'compaction'() {
    const first = await client.put(key('old')).value('1');
    const second = await client.put(key('old')).value('2');
    await client.kv.compact({ revision: second.header.revision, physical: true });
    await assert.rejects(client.get(key('old')).revision(first.header.revision).string(), /required revision has been compacted/);
    assert.strictEqual(await client.get(key('old')).string(), '2');
  },

  async 'lease with keepalive'() {
    // The client renews it by itself every ttl / 3 seconds.
    const lease = client.lease(2);
    await lease.put(key('leased')).value('x');
    let renewed = 0;
    lease.on('keepaliveSucceeded', () => (renewed += 1));
    await until('three renewals', () => (renewed >= 3 ? true : undefined));
    assert.strictEqual(await client.get(key('leased')).string(), 'x');
    await lease.revoke();
    assert.strictEqual(await client.get(key('leased')).string(), null);
  },

  async 'lease expiry'() {
    const lease = client.lease(1, { autoKeepAlive: false });
    await lease.put(key('short')).value('x');
    await until('expiry', async () => ((await client.get(key('short')).string()) === null ? true : undefined));
    lease.release();
  },

  async 'lock'() {
    const first = client.lock(key('mutex'));
    await first.acquire();
    await assert.rejects(client.lock(key('mutex')).acquire(), /lock/i);
    await first.release();
    const result = await client.lock(key('mutex')).do(async () => 'held');
    assert.strictEqual(result, 'held');
  },

  async 'election'() {
    const election = client.election(key('vote'), 60);
    const campaign = election.campaign('me');
    await new Promise((resolve, reject) => campaign.on('elected', resolve).on('error', reject));
    assert.strictEqual(await election.leader(), 'me');
    await campaign.proclaim('still me');
    assert.strictEqual(await election.leader(), 'still me');
    await campaign.resign();
    assert.strictEqual(await election.leader(), undefined);
  },

  async 'namespaces'() {
    const inside = client.namespace(key('ns/'));
    await inside.put('k').value('v');
    assert.deepStrictEqual(await inside.getAll().strings(), { k: 'v' });
    assert.strictEqual(await client.get(key('ns/k')).string(), 'v');
  },

  async 'status and members'() {
    const status = await client.maintenance.status();
    assert.ok(Number(status.dbSize) > 0 && status.version);
    const { members } = await client.cluster.memberList({});
    assert.strictEqual(members.length, 1);
    assert.strictEqual(members[0].ID, status.leader);
  },
};

async function main() {
  let failed = false;
  for (const [name, check] of Object.entries(checks)) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('took too long')), 2 * patience);
    });
    try {
      await Promise.race([check(), late]);
      console.log(`ok ${name}`);
    } catch (error) {
      failed = true;
      console.log(`FAILED ${name}: ${String(error.message || error).replace(/\s+/g, ' ')}`);
    } finally {
      clearTimeout(timer);
    }
  }
  await client.delete().prefix(prefix).exec().catch(() => {});
  client.close();
  console.log('done');
  process.exit(failed ? 1 : 0);
}

main();
