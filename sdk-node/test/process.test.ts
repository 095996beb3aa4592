import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { after, before, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { Client, FolkmootError, prefix, UnavailableError } from 'folkmoot'
import { Store, until } from './support.js'

let store: Store
before(async () => {
  store = await Store.start()
})
after(() => store.remove())

interface Ended {
  code: number | null
  out: string
  ms: number
}

/** Runs a program, as CommonJS or as a module, and tells how it ended. */
function run(program: string, type: 'commonjs' | 'module' = 'module'): Promise<Ended> {
  const started = Date.now()
  const child = spawn(process.execPath, [`--input-type=${type}`, '--expose-gc', '-'], {
    cwd: __dirname,
    env: { ...process.env, ENDPOINT: store.endpoint },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let out = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (out += text))
  child.stdin.end(program)
  return new Promise((done) => child.once('close', (code) => done({ code, out, ms: Date.now() - started })))
}

const EVERYTHING = `
  const client = await Client.connect({ endpoints: process.env.ENDPOINT })
  const session = await client.session({ ttl: 60 })
  session.on('state', () => {})
  const guard = await session.mutex('exits' + process.pid).lock()
  guard.lostSignal.addEventListener('abort', () => {})
  await client.registry('exits').register({ service: 's', host: 'h' }, { healthCheck: () => 'up' })
  await client.registry('exits').balancer('s')
  await client.config('exits').set('a', '1')
  const reader = await client.config('exits').typed((value) => value)
  const watch = await client.watch('nothing', { ref: false })
  watch.next()
  reader.watch({ ref: false }).next()
`

test('process_exits: a program that is done ends by itself, whatever is open', async () => {
  const { code, out, ms } = await run(`import { Client } from 'folkmoot'\n${EVERYTHING}\nconsole.log('done')`)
  assert.equal(out, 'done\n')
  assert.equal(code, 0)
  assert.ok(ms < 10_000, `${ms} ms`)
})

test('no_loop_needed_to_close: process.exit in the midst of calls ends at once', async () => {
  const { code, out } = await run(`import { Client } from 'folkmoot'\n${EVERYTHING}
    client.watch('nothing').then((watch) => watch.next())
    session.mutex('exits' + process.pid).lock()
    setTimeout(() => { session.close(); process.exit(7) }, 50)`)
  assert.equal(code, 7, out)
})

test('a stream that is waited for keeps the process alive until it has something', async () => {
  const { code, out } = await run(`import { Client } from 'folkmoot'
    const client = await Client.connect({ endpoints: process.env.ENDPOINT })
    const watch = await client.watch('kept')
    const waiting = watch.next()
    setTimeout(() => client.put('kept', 'alive'), 100).unref()
    await client.get('x')
    setTimeout(() => {}, 200)
    console.log(String((await waiting).value.events[0].kv.value))
    await client.close()`)
  assert.equal(out, 'alive\n')
  assert.equal(code, 0)
})

test('a listener that throws holds up no other, however it was added', async () => {
  const { code, out } = await run(`import { Client } from 'folkmoot'
    const client = await Client.connect({ endpoints: process.env.ENDPOINT })
    const session = await client.session({ ttl: 5 })
    process.on('uncaughtException', (error) => console.log(error.message))
    // Listeners alone do not keep a process alive.
    const alive = setInterval(() => {}, 1000)
    const lost = new Promise((done) => session.prependListener('lost', done))
    session.addListener('state', () => { throw new Error('thrown') })
    await client.leases.revoke(session.lease)
    console.log((await lost).code)
    clearInterval(alive)
    await client.close()`)
  assert.deepEqual(out.trim().split('\n').sort(), ['SESSION_LOST', 'thrown'])
  assert.equal(code, 0)
})

test('both module systems get the same classes', async () => {
  const { code, out } = await run(
    `const { Client, FolkmootError } = require('folkmoot')
     import('folkmoot').then(async (module) => {
       console.log(module.Client === Client, module.FolkmootError === FolkmootError)
       const client = await Client.connect({ endpoints: process.env.ENDPOINT })
       await client.put('cjs', '1')
       await client.close()
     })`,
    'commonjs',
  )
  assert.equal(out, 'true true\n')
  assert.equal(code, 0)
})

test('threads_ok: worker threads use clients of their own and may be terminated at any time', async () => {
  const program = `
    const { Client } = require('folkmoot')
    const { parentPort, workerData } = require('node:worker_threads')
    ;(async () => {
      const client = await Client.connect({ endpoints: workerData.endpoint })
      const session = await client.session({ ttl: 5 })
      globalThis.guard = await session.mutex('worker/' + workerData.number).lock()
      session.on('state', () => {})
      const watch = await client.watch('worker')
      watch.next()
      session.mutex('worker/' + workerData.number).lock().catch(() => {})
      parentPort.postMessage(globalThis.guard.token)
    })()`
  for (let round = 0; round < 3; round++) {
    const workers = [0, 1, 2].map((number) => {
      const worker = new Worker(program, { eval: true, workerData: { endpoint: store.endpoint, number } })
      // Listened to from the start: it may be done before the one before it.
      const token = new Promise<bigint>((done, failed) => worker.once('message', done).once('error', failed))
      return { worker, token }
    })
    for (const { worker, token } of workers) {
      assert.ok((await token) > 0n)
      await worker.terminate()
    }
  }
  const client = store.client()
  assert.equal((await client.get('k')).kv, undefined)
  await until(
    'the locks of the workers to be given back',
    async () => (await client.get(prefix('worker/'))).kv === undefined,
  )
  await client.close()
})

test('a store that cannot be reached is named, and soon', async () => {
  const error = await Client.connect({ endpoints: '127.0.0.1:1', requestTimeoutMs: 1000 }).catch(
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof FolkmootError, String(error))
  assert.ok(error instanceof UnavailableError || error.code === 'DEADLINE_EXCEEDED', error.code)
  assert.match(error.message, /127\.0\.0\.1:1|refused/)
})

test('types_are_strict: wrong types are refused by name', async () => {
  const client = store.client()
  const type = (message: RegExp) => ({ name: 'TypeError', message })
  const rangeError = (message: RegExp) => ({ name: 'RangeError', message })
  // @ts-expect-error a key is no number
  await assert.rejects(client.get(1), type(/key must be a string, Buffer or Uint8Array; got number/))
  // @ts-expect-error a value is needed
  await assert.rejects(client.put('k'), type(/value must be .* got undefined/))
  // @ts-expect-error a limit is a number
  await assert.rejects(client.get('k', { limit: '1' }), type(/limit must be a number; got string/))
  await assert.rejects(client.get('k', { limit: 1.5 }), rangeError(/limit must be an integer/))
  // @ts-expect-error there is no such option
  await assert.rejects(client.get('k', { limits: 1 }), type(/no option limits/))
  await assert.rejects(client.get('k', { revision: 2n ** 63n }), rangeError(/revision must fit into 64 bits/))
  await assert.rejects(client.get('k', { revision: 2 ** 60 }), rangeError(/revision must be a safe integer/))
  // @ts-expect-error sorted by what?
  await assert.rejects(client.get('k', { sortBy: 'size' }), rangeError(/sortBy must be one of key/))
  // @ts-expect-error no signal
  await assert.rejects(client.get('k', { signal: 5 }), type(/signal must be an AbortSignal/))
  // @ts-expect-error endpoints are text
  assert.throws(() => Client.create({ endpoints: 2379 }), type(/endpoints must be a string or an array/))
  // @ts-expect-error options are needed
  assert.throws(() => Client.create(), type(/options must be an object; got undefined/))
  const half = { user: 'u' } as { user: string; password: string }
  assert.throws(() => Client.create({ endpoints: 'x', auth: half }), type(/auth.password must be a string/))
  // @ts-expect-error verification is skipped or not
  assert.throws(() => Client.create({ endpoints: 'x', tls: { skipVerify: 1 } }), type(/skipVerify must be/))
  const both = { ca: '/no/such/file', skipVerify: true }
  assert.throws(() => Client.create({ endpoints: 'x', tls: both }), { code: 'INVALID_ARGUMENT' })
  Client.create({ endpoints: 'x', tls: { skipVerify: true } }).close()
  assert.throws(() => Client.create({ endpoints: '' }), { code: 'INVALID_ARGUMENT' })
  assert.throws(() => client.leases.revoke(2n ** 64n), rangeError(/id must fit/))
  // @ts-expect-error a member's id is a bigint
  assert.throws(() => client.cluster.remove(1), type(/id must be a bigint/))
  // @ts-expect-error a parser is needed
  await assert.rejects(client.config('c').typed(5), type(/parser must be a function/))
  const registry = client.registry('r')
  // @ts-expect-error a host is needed
  await assert.rejects(registry.register({ service: 's' }), type(/host must be a string/))
  await assert.rejects(
    registry.register({ service: 's', host: 'h', port: 70000 }),
    rangeError(/port must be/),
  )
  const session = await client.session()
  // @ts-expect-error a name is text
  assert.throws(() => session.mutex(1), type(/name must be a string/))
  await assert.rejects(session.mutex('m').lock({ timeoutMs: -1 }), rangeError(/timeoutMs must be a time/))
  await session.close()
  await client.close()
})
