/** Sessions, locks and elections. */

import { EventEmitter } from 'node:events'
import type * as native from '#native'
import { atOnce, type CallOptions, call } from './call.js'
import type { Bytes } from './check.js'
import * as check from './check.js'
import { errorOf, type FolkmootError } from './errors.js'
import { fencedTxn, type Txn } from './kv.js'
import { opened, type Stream, type StreamOptions } from './stream.js'

/**
 * How a session is: `active`; `suspended` while the store has not been heard for a while; or over, because
 * no keepalive was acknowledged in time (`expired`), the store says that the lease is gone (`lease-gone`),
 * the store was replaced or restored (`cluster-reset`), or its owner closed it (`closed`).
 */
export type SessionState = 'active' | 'suspended' | 'expired' | 'lease-gone' | 'cluster-reset' | 'closed'

const LOST: readonly string[] = ['expired', 'lease-gone', 'cluster-reset']

/** Proves to others that a holder is the latest. */
export interface FencingToken {
  /** The cluster; after a restore numbers may begin again, under another one. */
  clusterId: bigint
  /** The number; it grows with every holder. */
  revision: bigint
  /** The key that proves it. */
  key: Buffer
}

/** How to contend for a lock. */
export interface MutexOptions {
  /** What this contender says about itself. */
  owner?: Bytes | undefined
  /** How long to wait after a holder that was lost rather than unlocked, in milliseconds. */
  lockDelayMs?: number | undefined
}

/** How long to wait. */
export interface WaitOptions extends CallOptions {
  /** At most so long, in milliseconds; then the call rejects with `DEADLINE_EXCEEDED`. */
  timeoutMs?: number | undefined
}

/** @internal */
export const abandoned = new FinalizationRegistry<string>((what) => {
  process.emitWarning(
    `${what} was forgotten and garbage collected; it has been given back. Give it back yourself.`,
    {
      type: 'FolkmootWarning',
      code: 'FOLKMOOT_ABANDONED',
    },
  )
})

/** Events of a session. */
export interface SessionEvents {
  /** It is in another state now. */
  state: [state: SessionState]
  /** It is over for another reason than its owner's wish; with a `SESSION_LOST` error. */
  lost: [why: FolkmootError]
}

/**
 * A lease that is kept alive in the background, on threads of its own: a busy event loop does not lose it.
 * Locks, leaderships and leased keys live as long as their session. Emits `state` and `lost`.
 */
export class Session extends EventEmitter<SessionEvents> implements AsyncDisposable {
  readonly #native: native.Session
  #followed = false
  #lost: AbortController | undefined

  /** @internal */
  constructor(session: native.Session) {
    super()
    this.#native = session
    // Whichever way a listener comes.
    super.on('newListener' as never, (() => this.#follow()) as never)
  }

  override on<K extends keyof SessionEvents>(name: K, listener: (...args: SessionEvents[K]) => void): this {
    this.#follow()
    return super.on(name, listener as never)
  }
  override once<K extends keyof SessionEvents>(name: K, listener: (...args: SessionEvents[K]) => void): this {
    this.#follow()
    return super.once(name, listener as never)
  }

  /** The id of its lease. */
  get lease(): bigint {
    return atOnce(() => this.#native.lease())
  }
  /** How long it survives without contact to the store, in seconds. */
  get ttl(): number {
    return atOnce(() => this.#native.ttlMs()) / 1000
  }
  /** How it is, as far as was noticed. */
  get state(): SessionState {
    return atOnce(() => this.#native.state()) as SessionState
  }
  /** What is surely left if no keepalive is acknowledged from now on, in milliseconds. */
  get remainingMs(): number {
    return atOnce(() => this.#native.remainingMs())
  }
  /** Throws if it is over, without asking the store. */
  check(): void {
    atOnce(() => this.#native.check())
  }
  /** Aborted when the session is lost, with the error as its reason. */
  get lostSignal(): AbortSignal {
    if (this.#lost === undefined) {
      this.#lost = new AbortController()
      this.#follow()
    }
    return this.#lost.signal
  }

  /** Tells listeners; neither the session nor the process is kept alive by it. */
  #follow(): void {
    if (this.#followed) return
    this.#followed = true
    const states = atOnce(() => this.#native.watchState())
    const self = new WeakRef<Session>(this)
    const first = this.state
    let last: string = first
    const step = () => {
      const session = self.deref()
      if (session === undefined) return states.stop()
      try {
        for (let state = states.take(); state != null; state = states.take()) {
          const now = state
          if (now !== last || LOST.includes(now)) {
            last = now
            session.#changed(now as SessionState)
          }
        }
      } finally {
        // What a listener throws is the program's affair; the next state is told all the same.
        if (!states.done()) states.readyWeak(step)
      }
    }
    queueMicrotask(step)
  }

  #changed(state: SessionState): void {
    let why: FolkmootError | undefined
    if (LOST.includes(state)) {
      why = errorOf('')
      try {
        this.check()
      } catch (thrown) {
        why = thrown as FolkmootError
      }
      // What is held through it learns of it first.
      this.#lost?.abort(why)
    }
    try {
      this.emit('state', state)
    } finally {
      if (why !== undefined) this.emit('lost', why)
    }
  }

  /** The lock of this name. */
  mutex(name: string, options?: MutexOptions): Mutex {
    check.known('options of mutex', options, ['owner', 'lockDelayMs'])
    const owner = check.maybe(options?.owner, (owner) => check.bytes('owner', owner)) ?? Buffer.alloc(0)
    const delay = check.maybe(options?.lockDelayMs, (delay) => check.millis('lockDelayMs', delay)) ?? 0
    const label = check.text('name', name)
    return new Mutex(
      atOnce(() => this.#native.mutex(label, owner, delay)),
      label,
    )
  }
  /** The election of this name. */
  election(name: string): Election {
    const label = check.text('name', name)
    return new Election(
      atOnce(() => this.#native.election(label)),
      label,
    )
  }

  /** Stops renewing and leaves the lease to its time. */
  detach(): void {
    atOnce(() => this.#native.detach())
  }
  /** Ends the session and all that is held through it; waits for the store for five seconds at most. */
  close(): Promise<void> {
    return call(undefined, () => this.#native.end())
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Somebody who holds a lock or waits for it. */
export interface Contender {
  key: Buffer
  /** What it says about itself. */
  owner: Buffer
  /** The lease of its session. */
  lease: bigint
  /** Its place; the first one's is its token. */
  revision: bigint
}

/** A lock by name; first come, first served. */
export class Mutex {
  readonly #native: native.Mutex
  /** Its name. */
  readonly name: string

  /** @internal */
  constructor(mutex: native.Mutex, name: string) {
    this.#native = mutex
    this.name = name
  }

  /** Waits for the lock; giving up leaves nothing behind. */
  async lock(options?: WaitOptions): Promise<LockGuard> {
    check.known('options of lock', options, ['timeoutMs', 'signal'])
    const timeout = check.maybe(options?.timeoutMs, (timeout) => check.millis('timeoutMs', timeout))
    return new LockGuard(await call(options, (cancel) => this.#native.lock(timeout, cancel)), this.name)
  }
  /** Takes the lock if nobody has it or waits for it; rejects with `WOULD_BLOCK` otherwise. */
  async tryLock(options?: CallOptions): Promise<LockGuard> {
    return new LockGuard(await call(options, (cancel) => this.#native.tryLock(cancel)), this.name)
  }
  /** The holder and those who wait, in their order. */
  contenders(options?: CallOptions): Promise<Contender[]> {
    return call(options, (cancel) => this.#native.contenders(cancel))
  }
  /** Runs `work` while the lock is held, and releases it however `work` ends. */
  async withLock<T>(work: (guard: LockGuard) => Promise<T> | T, options?: WaitOptions): Promise<T> {
    check.callable('work', work)
    const guard = await this.lock(options)
    try {
      return await work(guard)
    } finally {
      await guard.unlock()
    }
  }
}

interface NativeHeld {
  token(): FencingToken
  check(): void
  commit(txn: native.TxnIn, cancel?: number | undefined | null): Promise<native.TxnOut>
  onLost(callback: (text: string) => void): void
}

/** What locks and leaderships have in common. */
export abstract class Held {
  readonly #held: NativeHeld
  readonly #token: FencingToken
  #lost: AbortController | undefined

  /** @internal */
  constructor(held: NativeHeld, what: string) {
    this.#held = held
    this.#token = held.token()
    abandoned.register(this, what, this)
  }

  /** The fencing token's number: send it along, and let the resource refuse smaller ones. */
  get token(): bigint {
    return this.#token.revision
  }
  /** The whole fencing token. */
  get fencingToken(): FencingToken {
    return this.#token
  }
  /** Throws if it is not held any more as far as is known here, without asking the store. */
  check(): void {
    atOnce(() => this.#held.check())
  }
  /** A transaction that is applied only while this is held. */
  txn(): Txn {
    return fencedTxn(this.#held)
  }
  /**
   * Aborted when this is lost, with the error as its reason; not when it is given back. Keep this object as
   * long as you use the signal: forgetting it gives it back.
   */
  get lostSignal(): AbortSignal {
    if (this.#lost === undefined) {
      const lost = new AbortController()
      this.#lost = lost
      atOnce(() => this.#held.onLost((text) => lost.abort(errorOf(text))))
    }
    return this.#lost.signal
  }
  /** @internal */
  protected over(): void {
    abandoned.unregister(this)
  }
}

/** A lock that is held. Release it with `await using`, or by {@link LockGuard.unlock}. */
export class LockGuard extends Held implements AsyncDisposable {
  readonly #native: native.Guard

  /** @internal */
  constructor(guard: native.Guard, name: string) {
    super(guard, `the lock ${name}`)
    this.#native = guard
  }
  /** Releases the lock. Answers whether it was still held; the second time it was not. */
  unlock(): Promise<boolean> {
    this.over()
    return call(undefined, () => this.#native.unlock())
  }
  /** Keeps the lock until the session ends, whatever happens to this object. */
  detach(): void {
    this.over()
    atOnce(() => this.#native.detach())
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.unlock()
  }
}

/** Who leads. */
export interface Leader {
  key: Buffer
  /** What it proclaims. */
  value: Buffer
  /** Its fencing token. */
  token: bigint
  /** When it proclaimed that. */
  revision: bigint
}

/** A change of who leads. */
export type LeaderEvent =
  | { type: 'elected'; leader: Leader; revision: bigint }
  | { type: 'updated'; leader: Leader; revision: bigint }
  | { type: 'vacant'; leader: undefined; revision: bigint }

/** @internal */
export function leaderEvent(out: native.LeaderEvent): LeaderEvent {
  const { kind, leader, revision } = out
  if (leader === undefined || leader === null) return { type: 'vacant', leader: undefined, revision }
  return { type: kind === 'updated' ? 'updated' : 'elected', leader, revision }
}

/** An election by name. */
export class Election {
  readonly #native: native.Election
  /** Its name. */
  readonly name: string

  /** @internal */
  constructor(election: native.Election, name: string) {
    this.#native = election
    this.name = name
  }

  /** Waits to be elected, proclaiming `value`; giving up withdraws the candidacy. */
  async campaign(value: Bytes, options?: WaitOptions): Promise<Leadership> {
    check.known('options of campaign', options, ['timeoutMs', 'signal'])
    const proclaimed = check.bytes('value', value)
    const timeout = check.maybe(options?.timeoutMs, (timeout) => check.millis('timeoutMs', timeout))
    const won = await call(options, (cancel) => this.#native.campaign(proclaimed, timeout, cancel))
    return new Leadership(won, this.name)
  }
  /** Who leads. */
  async leader(options?: CallOptions): Promise<Leader | undefined> {
    return (await call(options, (cancel) => this.#native.leader(cancel))) ?? undefined
  }
  /** The present leader at first, or that there is none, then each change. */
  observe(options?: StreamOptions): Promise<Stream<LeaderEvent>> {
    return opened(options, (cancel) => this.#native.observe(cancel), leaderEvent)
  }
  /** Runs `work` while leading, and resigns however `work` ends. */
  async lead<T>(
    value: Bytes,
    work: (leadership: Leadership) => Promise<T> | T,
    options?: WaitOptions,
  ): Promise<T> {
    check.callable('work', work)
    const leadership = await this.campaign(value, options)
    try {
      return await work(leadership)
    } finally {
      await leadership.resign()
    }
  }
}

/** A leadership that is held. Resign with `await using`, or by {@link Leadership.resign}. */
export class Leadership extends Held implements AsyncDisposable {
  readonly #native: native.Leadership

  /** @internal */
  constructor(leadership: native.Leadership, name: string) {
    super(leadership, `the leadership ${name}`)
    this.#native = leadership
  }
  /** Proclaims something else, without giving up the place. */
  async proclaim(value: Bytes, options?: CallOptions): Promise<void> {
    const proclaimed = check.bytes('value', value)
    await call(options, (cancel) => this.#native.proclaim(proclaimed, cancel))
  }
  /** Resigns. Answers whether the leadership was still held; the second time it was not. */
  resign(): Promise<boolean> {
    this.over()
    return call(undefined, () => this.#native.resign())
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.resign()
  }
}
