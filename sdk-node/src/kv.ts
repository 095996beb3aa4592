/** Keys, values and transactions. */

import type * as native from '#native'
import { type CallOptions, call } from './call.js'
import type { Bytes, Int64 } from './check.js'
import * as check from './check.js'

/** A set of keys; see {@link prefix}, {@link range}, {@link from} and {@link all}. */
export class Keys {
  /** @internal */
  constructor(
    /** @internal */ readonly kind: 'one' | 'prefix' | 'range' | 'from' | 'all',
    /** @internal */ readonly key?: Buffer,
    /** @internal */ readonly end?: Buffer,
  ) {}
}

/** One key, or a set of them. */
export type KeysLike = Bytes | Keys

/** All keys that begin with this. */
export function prefix(start: Bytes): Keys {
  return new Keys('prefix', check.bytes('prefix', start))
}
/** All keys from `first` on and before `end`. */
export function range(first: Bytes, end: Bytes): Keys {
  return new Keys('range', check.bytes('first', first), check.bytes('end', end))
}
/** All keys from `first` on. */
export function from(first: Bytes): Keys {
  return new Keys('from', check.bytes('first', first))
}
/** All keys. */
export function all(): Keys {
  return new Keys('all')
}

/** @internal */
export function keysOf(name: string, keys: KeysLike): Keys {
  return keys instanceof Keys ? keys : new Keys('one', check.bytes(name, keys))
}

/** Who answered, and at which revision of the store. */
export interface Header {
  clusterId: bigint
  memberId: bigint
  revision: bigint
  raftTerm: bigint
}

/** A key with its value at some revision. */
export interface KeyValue {
  /** The key, without the client's namespace. */
  key: Buffer
  value: Buffer
  /** When the key came to be; 0 in a deletion. */
  createRevision: bigint
  /** When this value was put. */
  modRevision: bigint
  /** How often it was put; 0 in a deletion. */
  version: bigint
  /** The lease it hangs on, or 0. */
  lease: bigint
}

/** Answer to a read. */
export interface GetResult {
  header: Header
  kvs: KeyValue[]
  /** The first of them. */
  kv: KeyValue | undefined
  /** Whether a limit held more back. */
  more: boolean
  /** How many keys there are, whatever the limit. */
  count: bigint
}

/** Answer to a put. */
export interface PutResult {
  header: Header
  /** What was there before, if asked for. */
  prev: KeyValue | undefined
}

/** Answer to a deletion. */
export interface DeleteResult {
  header: Header
  /** How many keys there were. */
  deleted: bigint
  /** What was deleted, if asked for. */
  prev: KeyValue[]
}

/** Answer to one operation of a transaction. */
export type OpResult =
  | ({ op: 'get' } & GetResult)
  | ({ op: 'put' } & PutResult)
  | ({ op: 'delete' } & DeleteResult)
  | ({ op: 'txn' } & TxnResult)

/** Answer to a transaction. */
export interface TxnResult {
  header: Header
  /** Whether all conditions held. */
  succeeded: boolean
  /** One answer for each operation that was done. */
  responses: OpResult[]
}

/** How to read. */
export interface GetOptions {
  /** At most so many keys. */
  limit?: number | undefined
  /** As it was at this revision. */
  revision?: Int64 | undefined
  /** By what the answer is sorted; by key if not said. */
  sortBy?: 'key' | 'version' | 'create' | 'mod' | 'value' | undefined
  /** Largest first. */
  descending?: boolean | undefined
  /** From one member's own state, which may be behind. */
  serializable?: boolean | undefined
  /** Without values. */
  keysOnly?: boolean | undefined
  /** Only how many there are. */
  countOnly?: boolean | undefined
  minModRevision?: Int64 | undefined
  maxModRevision?: Int64 | undefined
  minCreateRevision?: Int64 | undefined
  maxCreateRevision?: Int64 | undefined
}

/** How to put. */
export interface PutOptions {
  /** The lease to hang it on: an id, or a session, whose end removes the key. */
  lease?: Int64 | { readonly lease: bigint } | undefined
  /** Asks what was there before. */
  prev?: boolean | undefined
  /** Keeps the value that is there; the one given must be empty. */
  keepValue?: boolean | undefined
  /** Keeps the lease that it hangs on. */
  keepLease?: boolean | undefined
}

/** How to delete. */
export interface DeleteOptions {
  /** Asks what was there. */
  prev?: boolean | undefined
}

const GET_OPTIONS = [
  'limit',
  'revision',
  'sortBy',
  'descending',
  'serializable',
  'keysOnly',
  'countOnly',
  'minModRevision',
  'maxModRevision',
  'minCreateRevision',
  'maxCreateRevision',
  'signal',
]

/** @internal */
export function getIn(keys: KeysLike, options: GetOptions | undefined): native.GetIn {
  check.known('options of get', options, GET_OPTIONS)
  const o = options ?? {}
  return {
    keys: keysOf('key', keys),
    limit: check.maybe(o.limit, (limit) => check.whole('limit', limit, 0, Number.MAX_SAFE_INTEGER)),
    revision: check.maybe(o.revision, (value) => check.int64('revision', value)),
    sort: check.maybe(o.sortBy, (by) =>
      check.oneOf('sortBy', by, ['key', 'version', 'create', 'mod', 'value']),
    ),
    descending: check.maybe(o.descending, (value) => check.truth('descending', value)),
    serializable: check.maybe(o.serializable, (value) => check.truth('serializable', value)),
    keysOnly: check.maybe(o.keysOnly, (value) => check.truth('keysOnly', value)),
    countOnly: check.maybe(o.countOnly, (value) => check.truth('countOnly', value)),
    minModRevision: check.maybe(o.minModRevision, (value) => check.int64('minModRevision', value)),
    maxModRevision: check.maybe(o.maxModRevision, (value) => check.int64('maxModRevision', value)),
    minCreateRevision: check.maybe(o.minCreateRevision, (value) => check.int64('minCreateRevision', value)),
    maxCreateRevision: check.maybe(o.maxCreateRevision, (value) => check.int64('maxCreateRevision', value)),
  }
}

/** @internal */
export function putIn(key: Bytes, value: Bytes, options: PutOptions | undefined): native.PutIn {
  check.known('options of put', options, ['lease', 'prev', 'keepValue', 'keepLease', 'signal'])
  const o = options ?? {}
  return {
    key: check.bytes('key', key),
    value: check.bytes('value', value),
    lease: check.maybe(o.lease, (lease) =>
      check.int64('lease', typeof lease === 'object' ? lease.lease : lease),
    ),
    prev: check.maybe(o.prev, (value) => check.truth('prev', value)),
    keepValue: check.maybe(o.keepValue, (value) => check.truth('keepValue', value)),
    keepLease: check.maybe(o.keepLease, (value) => check.truth('keepLease', value)),
  }
}

/** @internal */
export function deleteIn(keys: KeysLike, options: DeleteOptions | undefined): native.DeleteIn {
  check.known('options of delete', options, ['prev', 'signal'])
  return {
    keys: keysOf('key', keys),
    prev: check.maybe(options?.prev, (value) => check.truth('prev', value)),
  }
}

/** How two numbers or values are compared. */
export type Relation = '=' | '!=' | '>' | '<'

/** A condition of a transaction. Of several keys every one must satisfy it. */
export class Compare {
  private constructor(/** @internal */ readonly native: native.CompareIn) {}

  static #number(keys: KeysLike, relation: Relation, target: string, name: string, number: Int64): Compare {
    return new Compare({
      keys: keysOf('key', keys),
      with: check.oneOf('relation', relation, ['=', '!=', '>', '<']),
      target,
      number: check.int64(name, number),
    })
  }

  /** The value; never true if there is no such key. */
  static value(keys: KeysLike, relation: Relation, value: Bytes): Compare {
    return new Compare({
      keys: keysOf('key', keys),
      with: check.oneOf('relation', relation, ['=', '!=', '>', '<']),
      target: 'value',
      value: check.bytes('value', value),
    })
  }
  /** The revision at which the key came to be; 0 if there is none. */
  static createRevision(keys: KeysLike, relation: Relation, revision: Int64): Compare {
    return Compare.#number(keys, relation, 'create', 'revision', revision)
  }
  /** The revision of its value; 0 if there is none. */
  static modRevision(keys: KeysLike, relation: Relation, revision: Int64): Compare {
    return Compare.#number(keys, relation, 'mod', 'revision', revision)
  }
  /** How often it was put; 0 if there is none. */
  static version(keys: KeysLike, relation: Relation, version: Int64): Compare {
    return Compare.#number(keys, relation, 'version', 'version', version)
  }
  /** Its lease; 0 if there is none. */
  static lease(keys: KeysLike, relation: Relation, lease: Int64): Compare {
    return Compare.#number(keys, relation, 'lease', 'lease', lease)
  }
  /** There is such a key. */
  static exists(keys: KeysLike): Compare {
    return Compare.createRevision(keys, '>', 0n)
  }
  /** There is no such key. */
  static absent(keys: KeysLike): Compare {
    return Compare.createRevision(keys, '=', 0n)
  }
}

/** The operations of one branch of a transaction. */
export class Ops {
  /** @internal */
  readonly native: native.OpIn[] = []

  /** Reads. */
  get(keys: KeysLike, options?: GetOptions): this {
    this.native.push({ get: getIn(keys, options) })
    return this
  }
  /** Puts. */
  put(key: Bytes, value: Bytes, options?: PutOptions): this {
    this.native.push({ put: putIn(key, value, options) })
    return this
  }
  /** Deletes. */
  delete(keys: KeysLike, options?: DeleteOptions): this {
    this.native.push({ delete: deleteIn(keys, options) })
    return this
  }
  /** A transaction within; at most 128 operations in all. */
  txn(txn: Txn): this {
    if (!(txn instanceof Txn)) throw new TypeError('txn must be made by txn()')
    this.native.push({ txn: [txn.native] })
    return this
  }
}

/**
 * A transaction: if all conditions hold its operations are done, else those of {@link Txn.otherwise}, all at
 * one revision.
 */
export class Txn {
  readonly #commit: (txn: native.TxnIn, options: CallOptions | undefined) => Promise<TxnResult>
  readonly #compares: native.CompareIn[] = []
  readonly #success = new Ops()
  readonly #failure = new Ops()

  /** @internal */
  constructor(commit: (txn: native.TxnIn, options: CallOptions | undefined) => Promise<TxnResult>) {
    this.#commit = commit
  }

  /** Adds conditions. */
  when(...compares: Compare[]): this {
    for (const compare of compares) {
      if (!(compare instanceof Compare)) throw new TypeError('conditions are made by Compare')
      this.#compares.push(compare.native)
    }
    return this
  }
  /** Reads, if the conditions hold. */
  get(keys: KeysLike, options?: GetOptions): this {
    this.#success.get(keys, options)
    return this
  }
  /** Puts, if the conditions hold. */
  put(key: Bytes, value: Bytes, options?: PutOptions): this {
    this.#success.put(key, value, options)
    return this
  }
  /** Deletes, if the conditions hold. */
  delete(keys: KeysLike, options?: DeleteOptions): this {
    this.#success.delete(keys, options)
    return this
  }
  /** Does a transaction within, if the conditions hold. */
  txn(txn: Txn): this {
    this.#success.txn(txn)
    return this
  }
  /** What is done if one of the conditions does not hold. */
  otherwise(build: (ops: Ops) => unknown): this {
    check.callable('build', build)
    build(this.#failure)
    return this
  }
  /** Does it. Sent once: `AMBIGUOUS` if the answer of a transaction that writes is lost. */
  commit(options?: CallOptions): Promise<TxnResult> {
    return this.#commit(this.native, options)
  }
  /** @internal */
  get native(): native.TxnIn {
    return { compares: this.#compares, success: this.#success.native, failure: this.#failure.native }
  }
}

/** @internal */
export function getResult(out: native.GetOut): GetResult {
  return { header: out.header, kvs: out.kvs, kv: out.kvs[0], more: out.more, count: out.count }
}
/** @internal */
export function putResult(out: native.PutOut): PutResult {
  return { header: out.header, prev: out.prev ?? undefined }
}
/** @internal */
export function txnResult(out: native.TxnOut): TxnResult {
  const responses = out.responses.map((response): OpResult => {
    if (response.get) return { op: 'get', ...getResult(response.get) }
    if (response.put) return { op: 'put', ...putResult(response.put) }
    if (response.delete) return { op: 'delete', ...response.delete }
    const within = response.txn?.[0]
    if (within) return { op: 'txn', ...txnResult(within) }
    throw new TypeError('an answer of a kind that is not known here')
  })
  return { header: out.header, succeeded: out.succeeded, responses }
}

/** @internal A transaction that something fences. */
export function fencedTxn(held: {
  commit(txn: native.TxnIn, cancel?: number | undefined | null): Promise<native.TxnOut>
}): Txn {
  return new Txn(async (txn, options) => txnResult(await call(options, (cancel) => held.commit(txn, cancel))))
}

/** A change of one key. */
export interface WatchEvent {
  type: 'put' | 'delete'
  /** The key as it is now; of a deletion only `key` and `modRevision`. */
  kv: KeyValue
  /** What it was before, if asked for and still known. */
  prev: KeyValue | undefined
}

/** All changes of one revision. */
export interface WatchBatch {
  revision: bigint
  /** None if the store only says how far it is. */
  events: WatchEvent[]
}

/** @internal */
export function watchBatch(out: native.WatchBatch): WatchBatch {
  const events = out.events.map(
    (event): WatchEvent => ({
      type: event.isDelete ? 'delete' : 'put',
      kv: event.kv,
      prev: event.prev ?? undefined,
    }),
  )
  return { revision: out.revision, events }
}
