/** The client. */

import * as native from '#native'
import { Auth, Cluster, Leases, Maintenance } from './admin.js'
import { atOnce, type CallOptions, call, kind } from './call.js'
import type { Bytes, Int64 } from './check.js'
import * as check from './check.js'
import { Config } from './config.js'
import * as kv from './kv.js'
import { Registry } from './registry.js'
import { type Leader, type LeaderEvent, leaderEvent, Session } from './session.js'
import { opened, type Stream, type StreamOptions } from './stream.js'

/**
 * How connections are encrypted; each file may be given as its PEM text instead. Files are read when the
 * client is made, and again when they have changed and a connection is made.
 */
export interface TlsOptions {
  /** File of the authorities to trust; the system's if neither this nor `caPem` is given. */
  ca?: string | undefined
  caPem?: Bytes | undefined
  /** File of the certificate to show, with `key`. */
  cert?: string | undefined
  certPem?: Bytes | undefined
  key?: string | undefined
  keyPem?: Bytes | undefined
  /** The name to expect in the members' certificates instead of the endpoint's host. */
  serverName?: string | undefined
  /**
   * Trust anybody, whatever the certificate says; instead of `ca`. **Dangerous:** it encrypts, but anybody
   * can be in the middle, read everything and change it. For tests.
   */
  skipVerify?: boolean | undefined
}

/** Where the store is and how to reach it. */
export interface ClientOptions {
  /** `host:port`, `http://…`, `https://…` or `dns:///host:port`; one text may hold several, with commas between. */
  endpoints: string | string[]
  /** User name and password. */
  auth?: { user: string; password: string } | undefined
  tls?: TlsOptions | undefined
  /** In front of every key. */
  namespace?: Bytes | undefined
  /** How long one attempt to connect may take, in milliseconds. */
  connectTimeoutMs?: number | undefined
  /** How long a call may take that does not wait by design, in milliseconds. */
  requestTimeoutMs?: number | undefined
  /**
   * How often the members are asked who the members are, in milliseconds, 1000 at least; those that are new
   * are added to the endpoints. Not done if not said.
   */
  autoSyncMs?: number | undefined
}

/** How to watch. */
export interface WatchOptions extends StreamOptions {
  /** From this revision on, itself included; from now on if not said. */
  fromRevision?: Int64 | undefined
  /** Asks what the keys were before. */
  prev?: boolean | undefined
  /** Leaves puts out. */
  noPuts?: boolean | undefined
  /** Leaves deletions out. */
  noDeletes?: boolean | undefined
  /** Also delivers empty batches when the store says how far it is. */
  progress?: boolean | undefined
  /** Ends with `OVERFLOW` when the reader is too slow, instead of waiting for it. */
  failWhenFull?: boolean | undefined
  /** How many batches, and how many bytes, wait for the reader at most. */
  buffer?: { batches: number; bytes: number } | undefined
}

/** How to open a session. */
export interface SessionOptions extends CallOptions {
  /** How long it survives without contact to the store, in seconds; 15 if not said. */
  ttl?: number | undefined
  /** Allows less than five seconds. */
  allowShortTtl?: boolean | undefined
}

function tlsIn(options: TlsOptions): native.TlsIn {
  check.known('tls', options, ['ca', 'caPem', 'cert', 'certPem', 'key', 'keyPem', 'serverName', 'skipVerify'])
  return {
    caFile: check.maybe(options.ca, (file) => check.text('tls.ca', file)),
    caPem: check.maybe(options.caPem, (pem) => check.bytes('tls.caPem', pem)),
    certFile: check.maybe(options.cert, (file) => check.text('tls.cert', file)),
    certPem: check.maybe(options.certPem, (pem) => check.bytes('tls.certPem', pem)),
    keyFile: check.maybe(options.key, (file) => check.text('tls.key', file)),
    keyPem: check.maybe(options.keyPem, (pem) => check.bytes('tls.keyPem', pem)),
    serverName: check.maybe(options.serverName, (name) => check.text('tls.serverName', name)),
    skipVerify: check.maybe(options.skipVerify, (skip) => check.truth('tls.skipVerify', skip)),
  }
}

function connectIn(options: ClientOptions): native.ConnectIn {
  check.record('options', options)
  check.known('options', options, [
    'endpoints',
    'auth',
    'tls',
    'namespace',
    'connectTimeoutMs',
    'requestTimeoutMs',
    'autoSyncMs',
    'signal',
  ])
  const { endpoints, auth } = options
  if (typeof endpoints !== 'string' && !Array.isArray(endpoints)) {
    throw new TypeError(`endpoints must be a string or an array of strings; got ${kind(endpoints)}`)
  }
  check.maybe(auth, (auth) => check.known('auth', auth, ['user', 'password']))
  return {
    endpoints: typeof endpoints === 'string' ? [endpoints] : check.texts('endpoints', endpoints),
    user: check.maybe(auth, (auth) => check.text('auth.user', auth.user)),
    password: check.maybe(auth, (auth) => check.text('auth.password', auth.password)),
    tls: check.maybe(options.tls, tlsIn),
    namespace: check.maybe(options.namespace, (prefix) => check.bytes('namespace', prefix)),
    connectTimeoutMs: check.maybe(options.connectTimeoutMs, (time) => check.millis('connectTimeoutMs', time)),
    requestTimeoutMs: check.maybe(options.requestTimeoutMs, (time) => check.millis('requestTimeoutMs', time)),
    autoSyncMs: check.maybe(options.autoSyncMs, (time) => check.millis('autoSyncMs', time)),
  }
}

/**
 * A connection to one store. Cheap to share; an open client does not keep the process alive, a call that
 * waits does.
 */
export class Client implements AsyncDisposable {
  readonly #native: native.Client
  /** Leases that nobody renews by itself. */
  readonly leases: Leases
  /** The members of the store. */
  readonly cluster: Cluster
  /** Maintenance of single members. */
  readonly maintenance: Maintenance
  /** Users and roles. */
  readonly auth: Auth

  private constructor(client: native.Client) {
    this.#native = client
    this.leases = new Leases(client)
    this.cluster = new Cluster(client)
    this.maintenance = new Maintenance(client)
    this.auth = new Auth(client.auth())
  }

  /** Makes a client and waits for one answer of the store, to see early whether the options are right. */
  static async connect(options: ClientOptions & CallOptions): Promise<Client> {
    const client = Client.create(options)
    try {
      await call(options, (cancel) => client.#native.verify(cancel))
    } catch (thrown) {
      client.#native.stop()
      throw thrown
    }
    return client
  }
  /** Makes a client and asks nobody yet. */
  static create(options: ClientOptions): Client {
    const given = connectIn(options)
    return new Client(atOnce(() => native.Client.create(given)))
  }

  /** The same store, with this prefix in front of every key. */
  namespace(prefix: Bytes): Client {
    const front = check.bytes('prefix', prefix)
    return new Client(atOnce(() => this.#native.namespace(front)))
  }
  /** The endpoints. */
  get endpoints(): string[] {
    return atOnce(() => this.#native.endpoints())
  }
  /** The id of the cluster that answers; 0 before the first answer. */
  get clusterId(): bigint {
    return this.#native.clusterId()
  }
  /** Whether {@link Client.close} was called. */
  get closed(): boolean {
    return this.#native.isStopped()
  }
  /** @internal For tests of leaks. */
  get watchStreamCount(): number {
    return this.#native.watchStreamCount()
  }
  /**
   * Ends the client, with its namespaces: calls are refused, streams end. Close sessions first: those that
   * are still open are left to their time.
   */
  async close(): Promise<void> {
    this.#native.stop()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Reads keys, linearizably if nothing else is said. */
  async get(keys: kv.KeysLike, options?: kv.GetOptions & CallOptions): Promise<kv.GetResult> {
    const get = kv.getIn(keys, options)
    return kv.getResult(await call(options, (cancel) => this.#native.get(get, cancel)))
  }
  /** Puts a key. Sent once: `AMBIGUOUS` if the answer is lost. */
  async put(key: Bytes, value: Bytes, options?: kv.PutOptions & CallOptions): Promise<kv.PutResult> {
    const put = kv.putIn(key, value, options)
    return kv.putResult(await call(options, (cancel) => this.#native.put(put, cancel)))
  }
  /** Deletes keys. Sent once, like a put. */
  async delete(keys: kv.KeysLike, options?: kv.DeleteOptions & CallOptions): Promise<kv.DeleteResult> {
    const del = kv.deleteIn(keys, options)
    return call(options, (cancel) => this.#native.delete(del, cancel))
  }
  /** A transaction. */
  txn(): kv.Txn {
    return new kv.Txn(async (txn, options) =>
      kv.txnResult(await call(options, (cancel) => this.#native.commit(txn, cancel))),
    )
  }
  /** Forgets history before this revision; with `physical` answers when the space is free. */
  compact(revision: Int64, options?: CallOptions & { physical?: boolean | undefined }): Promise<kv.Header> {
    check.known('options of compact', options, ['physical', 'signal'])
    const before = check.int64('revision', revision)
    const physical = check.truth('physical', options?.physical ?? false)
    return call(options, (cancel) => this.#native.compact(before, physical, cancel))
  }
  /** Watches keys. Every change after the promise resolved is delivered, once, in order, whole revisions. */
  watch(keys: kv.KeysLike, options?: WatchOptions): Promise<Stream<kv.WatchBatch>> {
    check.known('options of watch', options, [
      'fromRevision',
      'prev',
      'noPuts',
      'noDeletes',
      'progress',
      'failWhenFull',
      'buffer',
      'ref',
      'signal',
    ])
    const o = options ?? {}
    const watch: native.WatchIn = {
      keys: kv.keysOf('key', keys),
      fromRevision: check.maybe(o.fromRevision, (value) => check.int64('fromRevision', value)),
      prev: check.maybe(o.prev, (value) => check.truth('prev', value)),
      noPuts: check.maybe(o.noPuts, (value) => check.truth('noPuts', value)),
      noDeletes: check.maybe(o.noDeletes, (value) => check.truth('noDeletes', value)),
      progress: check.maybe(o.progress, (value) => check.truth('progress', value)),
      failWhenFull: check.maybe(o.failWhenFull, (value) => check.truth('failWhenFull', value)),
      bufferBatches: check.maybe(o.buffer, (buffer) =>
        check.whole('buffer.batches', buffer.batches, 1, 0xffff_ffff),
      ),
      bufferBytes: check.maybe(o.buffer, (buffer) =>
        check.whole('buffer.bytes', buffer.bytes, 1, 0xffff_ffff),
      ),
    }
    return opened(o, (cancel) => this.#native.watch(watch, cancel), kv.watchBatch)
  }

  /** Opens a session. */
  async session(options?: SessionOptions): Promise<Session> {
    check.known('options of session', options, ['ttl', 'allowShortTtl', 'signal'])
    const ttl = check.maybe(options?.ttl, (ttl) => check.ttl('ttl', ttl))
    const short = check.truth('allowShortTtl', options?.allowShortTtl ?? false)
    return new Session(await call(options, (cancel) => this.#native.session(ttl, short, cancel)))
  }
  /** Who leads in the election of this name. */
  async leader(name: string, options?: CallOptions): Promise<Leader | undefined> {
    const election = check.text('name', name)
    return (await call(options, (cancel) => this.#native.leader(election, cancel))) ?? undefined
  }
  /** Follows who leads, without being a candidate. */
  observe(name: string, options?: StreamOptions): Promise<Stream<LeaderEvent>> {
    const election = check.text('name', name)
    return opened(options, (cancel) => this.#native.observe(election, cancel), leaderEvent)
  }
  /** The services of this namespace; `zone` says where this process runs. */
  registry(namespace: string, options?: { zone?: string | undefined }): Registry {
    check.known('options of registry', options, ['zone'])
    const zone = check.text('zone', options?.zone ?? '')
    return new Registry(this.#native.registry(check.text('namespace', namespace), zone))
  }
  /** The configuration of this namespace. */
  config(namespace: string): Config {
    return new Config(this.#native.config(check.text('namespace', namespace)))
  }
}
