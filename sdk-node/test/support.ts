import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'folkmoot'

export const FOLKMOOT =
  process.env['FOLKMOOT_BINARY'] ?? join(homedir(), '.cache/folkmoot/target/dist/folkmoot')
export const ETCD = process.env['ETCD_BINARY'] ?? '/usr/bin/etcd'

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const address = server.address()
  await new Promise((done) => server.close(done))
  return typeof address === 'object' && address ? address.port : 0
}

/** A store of one member, in a process of its own. */
export class Store {
  #process: ChildProcess | undefined
  #dir = mkdtempSync(join(tmpdir(), 'folkmoot-node-'))
  endpoint = ''
  #arguments: string[] = []

  private constructor(readonly program: string) {}

  static async start(program = FOLKMOOT): Promise<Store> {
    if (!existsSync(program)) throw new Error(`${program} is not there; set FOLKMOOT_BINARY or ETCD_BINARY`)
    const store = new Store(program)
    const [client, peer] = [await freePort(), await freePort()]
    store.endpoint = `127.0.0.1:${client}`
    const name = ['--name', 'one', '--data-dir', join(store.#dir, 'data')]
    const clients = `http://127.0.0.1:${client}`
    const peers = `http://127.0.0.1:${peer}`
    store.#arguments = [
      ...(program.endsWith('etcd') ? [] : ['serve']),
      ...name,
      ...['--listen-client-urls', clients, '--advertise-client-urls', clients],
      ...['--listen-peer-urls', peers, '--initial-advertise-peer-urls', peers],
      ...['--initial-cluster', `one=${peers}`],
    ]
    await store.up()
    return store
  }

  async up(): Promise<void> {
    this.#process = spawn(this.program, this.#arguments, { stdio: 'ignore' })
    const deadline = Date.now() + 30_000
    for (;;) {
      const client = Client.create({ endpoints: this.endpoint, requestTimeoutMs: 500 })
      try {
        await client.get('up')
        return
      } catch (thrown) {
        if (Date.now() > deadline) throw thrown
        await sleep(50)
      } finally {
        await client.close()
      }
    }
  }

  async down(): Promise<void> {
    const running = this.#process
    this.#process = undefined
    if (running === undefined || running.exitCode !== null) return
    const ended = new Promise((done) => running.once('exit', done))
    running.kill('SIGKILL')
    await ended
  }

  /** The process stands still, or goes on. */
  pause(): void {
    this.#process?.kill('SIGSTOP')
  }
  resume(): void {
    this.#process?.kill('SIGCONT')
  }

  client(): Client {
    return Client.create({ endpoints: this.endpoint })
  }

  async remove(): Promise<void> {
    this.resume()
    await this.down()
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

/** Waits until the probe gives something true. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  within = 20_000,
): Promise<T> {
  const deadline = Date.now() + within
  for (;;) {
    const found = await probe()
    if (found) return found
    if (Date.now() > deadline) throw new Error(`waited too long for ${what}`)
    await sleep(20)
  }
}

/** Numbers that look random and are the same in every run. */
export function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state * 1664525 + 1013904223) >>> 0
    return state / 2 ** 32
  }
}
