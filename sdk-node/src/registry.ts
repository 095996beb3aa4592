/** The registry: services, their instances, and balancing over them. */

import { inspect } from 'node:util'
import * as native from '#native'
import { atOnce, type CallOptions, call } from './call.js'
import type { Bytes } from './check.js'
import * as check from './check.js'
import { abandoned } from './session.js'
import { opened, Stream, type StreamOptions } from './stream.js'

/** How an instance is. Only `up` ones, and `degraded` ones if there is nothing better, are picked. */
export type Health = 'starting' | 'up' | 'degraded' | 'draining' | 'down' | 'maintenance'
const HEALTHS: readonly Health[] = ['starting', 'up', 'degraded', 'draining', 'down', 'maintenance']

/** An instance of a service. */
export interface Instance {
  /** Its id within the service. */
  id: string
  service: string
  /** The namespace of the registry. */
  namespace: string
  host: string
  /** 0 for none. */
  port: number
  /** More ports by name. */
  ports: Record<string, number>
  /** Its share of the work; 0 takes none. */
  weight: number
  health: Health
  /** The version of its program. */
  version: string
  /** Where it runs. */
  zone: string
  /** Anything else. */
  attrs: Record<string, string>
  /** Tells one start of an instance from the next. */
  incarnation: string
  /** The time of its session, in seconds. */
  ttl: number
  /** `host:port`. */
  addr: string
}

/** What to register. */
export interface NewInstance {
  /** The service. */
  service: string
  /** Host or address at which others reach it. */
  host: string
  port?: number | undefined
  /** Its id within the service; made up if not said. */
  id?: string | undefined
  /** More ports by name. */
  ports?: Record<string, number> | undefined
  /** Its share of the work; 100 if not said. */
  weight?: number | undefined
  /** How it is; `up` if not said. */
  health?: Health | undefined
  version?: string | undefined
  zone?: string | undefined
  attrs?: Record<string, string> | undefined
}

/** How to register. */
export interface RegisterOptions extends CallOptions {
  /** How long it stays registered without contact to the store, in seconds. */
  ttl?: number | undefined
  /** What to do if somebody else is registered under the id: refuse, take its place, or take another id. */
  onConflict?: 'fail' | 'takeover' | 'suffix' | undefined
  /**
   * Asked every five seconds how the instance is. Three bad answers in a row, or answers that take more than
   * three seconds, change it for the worse, two good ones for the better; an error counts as `down`.
   */
  healthCheck?: (() => Health | Promise<Health>) | undefined
}

/** What changed among the instances of a service. */
export type ServiceEvent =
  | { type: 'snapshot'; instances: Instance[]; revision: bigint }
  | {
      type: 'delta'
      added: Instance[]
      updated: Instance[]
      removed: Instance[]
      revision: bigint
      /** The difference of two snapshots: what happened in between is not known. */
      resync: boolean
    }
  | { type: 'stale' }
  | { type: 'fresh' }

function serviceEvent(out: native.ServiceEvent): ServiceEvent {
  const of = (instances: native.Instance[]) => instances as Instance[]
  switch (out.kind) {
    case 'snapshot':
      return { type: 'snapshot', instances: of(out.instances), revision: out.revision }
    case 'delta': {
      const { revision, resync } = out
      return {
        type: 'delta',
        added: of(out.added),
        updated: of(out.updated),
        removed: of(out.removed),
        revision,
        resync,
      }
    }
    case 'fresh':
      return { type: 'fresh' }
    default:
      return { type: 'stale' }
  }
}

/** How a balancer chooses: in turn, by chance, the less loaded of two, or by a key. */
export type Policy = 'round-robin' | 'weighted-random' | 'p2c' | 'ring-hash'
const POLICIES: readonly Policy[] = ['round-robin', 'weighted-random', 'p2c', 'ring-hash']

function numbers(name: string, given: Record<string, number>): Record<string, number> {
  const entries = Object.entries(check.record(name, given))
  return Object.fromEntries(
    entries.map(([key, value]) => [key, check.whole(`${name}.${key}`, value, 0, 65535)]),
  )
}

function strings(name: string, given: Record<string, string>): Record<string, string> {
  const entries = Object.entries(check.record(name, given))
  return Object.fromEntries(entries.map(([key, value]) => [key, check.text(`${name}.${key}`, value)]))
}

/** The services of a namespace. */
export class Registry {
  readonly #native: native.Registry

  /** @internal */
  constructor(registry: native.Registry) {
    this.#native = registry
  }

  /**
   * Registers an instance and keeps it registered, also over losses of its session, until it is
   * deregistered.
   */
  async register(instance: NewInstance, options?: RegisterOptions): Promise<Registration> {
    check.record('instance', instance)
    check.known('instance', instance, [
      'service',
      'host',
      'port',
      'id',
      'ports',
      'weight',
      'health',
      'version',
      'zone',
      'attrs',
    ])
    check.known('options of register', options, ['ttl', 'onConflict', 'healthCheck', 'signal'])
    const given: native.RegisterIn = {
      service: check.text('service', instance.service),
      host: check.text('host', instance.host),
      port: check.whole('port', instance.port ?? 0, 0, 65535),
      id: check.text('id', instance.id ?? ''),
      ports: numbers('ports', instance.ports ?? {}),
      weight: check.whole('weight', instance.weight ?? 100, 0, 0xffff_ffff),
      health: check.oneOf('health', instance.health ?? 'up', HEALTHS),
      version: check.text('version', instance.version ?? ''),
      zone: check.text('zone', instance.zone ?? ''),
      attrs: strings('attrs', instance.attrs ?? {}),
      ttlMs: check.maybe(options?.ttl, (ttl) => check.ttl('ttl', ttl)),
      conflict: check.oneOf('onConflict', options?.onConflict ?? 'fail', ['fail', 'takeover', 'suffix']),
    }
    const ask = check.maybe(options?.healthCheck, (healthCheck) => {
      check.callable('healthCheck', healthCheck)
      const asked: Asked = {
        healthCheck,
        warned: false,
        who: `a health check of the service ${given.service}`,
      }
      return (question: number) => void answer(question, asked)
    })
    const registered = await call(options, (cancel) => this.#native.register(given, ask, cancel))
    return new Registration(registered, given.service)
  }
  /** The instances of a service, now. */
  async resolve(service: string, options?: CallOptions): Promise<Instance[]> {
    const name = check.text('service', service)
    return (await call(options, (cancel) => this.#native.resolve(name, cancel))) as Instance[]
  }
  /** All instances of a service at first, then each change. */
  subscribe(service: string, options?: StreamOptions): Promise<Stream<ServiceEvent>> {
    const name = check.text('service', service)
    return opened(options, (cancel) => this.#native.subscribe(name, cancel), serviceEvent)
  }
  /** Picks instances of a service. */
  async balancer(
    service: string,
    options?: CallOptions & { policy?: Policy | undefined },
  ): Promise<Balancer> {
    check.known('options of balancer', options, ['policy', 'signal'])
    const name = check.text('service', service)
    const policy = check.oneOf('policy', options?.policy ?? 'round-robin', POLICIES)
    return new Balancer(await call(options, (cancel) => this.#native.balancer(name, policy, cancel)))
  }
}

interface Asked {
  healthCheck: () => Health | Promise<Health>
  /** Whether its last answer was none, so that it is not complained about again and again. */
  warned: boolean
  who: string
}

async function answer(question: number, asked: Asked): Promise<void> {
  let health: Health = 'down'
  let trouble: string | undefined
  try {
    const said = await asked.healthCheck()
    if (HEALTHS.includes(said)) health = said
    else trouble = `answered ${inspect(said)}, which is none of ${HEALTHS.join(', ')}`
  } catch (thrown) {
    trouble = `threw ${inspect(thrown)}`
  }
  native.answerProbe(question, health)
  if (trouble !== undefined && !asked.warned) {
    process.emitWarning(`${asked.who} ${trouble}; it counts as down.`, {
      type: 'FolkmootWarning',
      code: 'FOLKMOOT_HEALTH_CHECK',
    })
  }
  asked.warned = trouble !== undefined
}

/** What happened to a registration: it was registered again, or somebody else took its id. */
export type RegistrationEvent = { type: 'reregistered'; epoch: number } | { type: 'conflict' }

/** An instance that is registered. Take it out with `await using`, or by {@link Registration.deregister}. */
export class Registration implements AsyncDisposable {
  readonly #native: native.Registration

  /** @internal */
  constructor(registration: native.Registration, service: string) {
    this.#native = registration
    abandoned.register(this, `a registration of the service ${service}`, this)
  }
  /** Its id within the service. */
  get id(): string {
    return atOnce(() => this.#native.id())
  }
  /** Says how it is. */
  setHealth(health: Health): void {
    const said = check.oneOf('health', health, HEALTHS)
    atOnce(() => this.#native.setHealth(said))
  }
  /** What happens to it. */
  events(options?: StreamOptions): Stream<RegistrationEvent> {
    const event = (out: native.RegistrationEvent): RegistrationEvent =>
      out.kind === 'conflict' ? { type: 'conflict' } : { type: 'reregistered', epoch: out.epoch }
    return new Stream(
      atOnce(() => this.#native.events()),
      event,
      options,
    )
  }
  /** Says that it takes nothing new, and waits so long that clients can notice. */
  async drain(graceMs: number, options?: CallOptions): Promise<void> {
    const grace = check.millis('graceMs', graceMs)
    await call(options, (cancel) => this.#native.drain(grace, cancel))
  }
  /** Takes it out of the registry. */
  deregister(): Promise<void> {
    abandoned.unregister(this)
    return call(undefined, () => this.#native.deregister())
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.deregister()
  }
}

/** Picks instances of a service; while the store is not heard it goes on with the last known ones. */
export class Balancer {
  readonly #native: native.Balancer

  /** @internal */
  constructor(balancer: native.Balancer) {
    this.#native = balancer
  }
  /** Picks an instance; `key` is for `ring-hash`. Throws `NO_INSTANCES` if there is none. */
  pick(key?: Bytes): Pick {
    const by = check.maybe(key, (key) => check.bytes('key', key))
    return new Pick(atOnce(() => this.#native.pick(by)))
  }
  /** The last known instances. */
  instances(): Instance[] {
    return atOnce(() => this.#native.instances()) as Instance[]
  }
}

/** An instance that was picked for one call. Say how the call went, so that bad ones are avoided. */
export class Pick {
  readonly #native: native.Pick
  /** The instance. */
  readonly instance: Instance

  /** @internal */
  constructor(pick: native.Pick) {
    this.#native = pick
    this.instance = atOnce(() => pick.instance()) as Instance
  }
  /** `host:port`. */
  get addr(): string {
    return this.instance.addr
  }
  /** `http://host:port`. */
  get url(): string {
    return `http://${this.instance.addr}`
  }
  /** The call went well; the time since the pick is counted unless it is said. */
  ok(latencyMs?: number): void {
    this.#finish(true, latencyMs)
  }
  /** The call failed because of the instance. */
  fail(latencyMs?: number): void {
    this.#finish(false, latencyMs)
  }
  #finish(success: boolean, latencyMs: number | undefined): void {
    const latency = check.maybe(latencyMs, (latency) => check.millis('latencyMs', latency))
    atOnce(() => this.#native.finish(success, latency))
  }
}
