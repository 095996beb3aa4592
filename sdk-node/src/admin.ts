/** Leases, members, maintenance, users and roles. */

import type * as native from '#native'
import { type CallOptions, call } from './call.js'
import type { Int64 } from './check.js'
import * as check from './check.js'
import { type Header, type KeysLike, keysOf } from './kv.js'
import { opened, type Stream } from './stream.js'

/** A lease that was granted. */
export interface Lease {
  id: bigint
  /** How long it lives without being renewed, in seconds. */
  ttl: number
}

/** What is left of a lease. */
export interface LeaseTtl {
  /** How long it lives without being renewed, in seconds. */
  granted: number
  /** What of it is left, in seconds. */
  remaining: number
  /** The keys that hang on it, if asked for. */
  keys: Buffer[]
}

/** Leases that nobody renews by itself; use a session for one that is. */
export class Leases {
  readonly #native: native.Client
  /** @internal */
  constructor(client: native.Client) {
    this.#native = client
  }
  /** Grants a lease of so many seconds; with an id of the caller's if given. */
  async grant(ttl: number, options?: CallOptions & { id?: Int64 | undefined }): Promise<Lease> {
    check.known('options of grant', options, ['id', 'signal'])
    const time = check.ttl('ttl', ttl)
    const id = check.maybe(options?.id, (id) => check.int64('id', id))
    const lease = await call(options, (cancel) => this.#native.leaseGrant(time, id, cancel))
    return { id: lease.id, ttl: lease.ttlMs / 1000 }
  }
  /** Ends a lease and deletes its keys. Answers whether there was one. */
  revoke(id: Int64, options?: CallOptions): Promise<boolean> {
    const lease = check.int64('id', id)
    return call(options, (cancel) => this.#native.leaseRevoke(lease, cancel))
  }
  /** What is left of a lease; `undefined` if it does not exist. */
  async timeToLive(
    id: Int64,
    options?: CallOptions & { keys?: boolean | undefined },
  ): Promise<LeaseTtl | undefined> {
    check.known('options of timeToLive', options, ['keys', 'signal'])
    const lease = check.int64('id', id)
    const keys = check.truth('keys', options?.keys ?? false)
    const left = await call(options, (cancel) => this.#native.leaseTtl(lease, keys, cancel))
    if (left == null) return undefined
    return { granted: left.grantedMs / 1000, remaining: left.remainingMs / 1000, keys: left.keys }
  }
  /** Renews a lease once. */
  async renew(id: Int64, options?: CallOptions): Promise<Lease> {
    const given = check.int64('id', id)
    const lease = await call(options, (cancel) => this.#native.leaseRenew(given, cancel))
    return { id: lease.id, ttl: lease.ttlMs / 1000 }
  }
  /** The ids of all leases. */
  list(options?: CallOptions): Promise<bigint[]> {
    return call(options, (cancel) => this.#native.leases(cancel))
  }
}

/** A member of the store. */
export interface Member {
  id: bigint
  name: string
  /** Where other members reach it. */
  peerUrls: string[]
  /** Where clients reach it. */
  clientUrls: string[]
  /** Whether it only listens. */
  isLearner: boolean
}

/** The members of the store. */
export class Cluster {
  readonly #native: native.Client
  /** @internal */
  constructor(client: native.Client) {
    this.#native = client
  }
  /** All members. */
  members(options?: CallOptions): Promise<Member[]> {
    return call(options, (cancel) => this.#native.members(cancel))
  }
  /** Adds a member, which is to be started afterwards. */
  add(peerUrls: string[], options?: CallOptions & { learner?: boolean | undefined }): Promise<Member> {
    check.known('options of add', options, ['learner', 'signal'])
    const urls = check.texts('peerUrls', peerUrls)
    const learner = check.truth('learner', options?.learner ?? false)
    return call(options, (cancel) => this.#native.memberAdd(urls, learner, cancel))
  }
  /** Removes a member for good; answers with those that stay. */
  remove(id: bigint, options?: CallOptions): Promise<Member[]> {
    const member = check.id('id', id)
    return call(options, (cancel) => this.#native.memberRemove(member, cancel))
  }
  /** Says where other members reach a member. */
  update(id: bigint, peerUrls: string[], options?: CallOptions): Promise<Member[]> {
    const member = check.id('id', id)
    const urls = check.texts('peerUrls', peerUrls)
    return call(options, (cancel) => this.#native.memberUpdate(member, urls, cancel))
  }
  /** Lets a learner vote. */
  promote(id: bigint, options?: CallOptions): Promise<Member[]> {
    const member = check.id('id', id)
    return call(options, (cancel) => this.#native.memberPromote(member, cancel))
  }
}

/** How a member is. */
export interface MemberStatus {
  header: Header
  version: string
  dbSizeBytes: bigint
  dbSizeInUseBytes: bigint
  /** The member that it knows as leader; 0 for none. */
  leader: bigint
  raftIndex: bigint
  raftTerm: bigint
  raftAppliedIndex: bigint
  /** What it complains about. */
  errors: string[]
  isLearner: boolean
}

/** An alarm of a member: its quota is used up, or its data differ from the others'. */
export interface Alarm {
  memberId: bigint
  kind: 'no-space' | 'corrupt'
}

/** Maintenance of single members, by their endpoint. */
export class Maintenance {
  readonly #native: native.Client
  /** @internal */
  constructor(client: native.Client) {
    this.#native = client
  }
  /** How the member at this endpoint is. */
  status(endpoint: string, options?: CallOptions): Promise<MemberStatus> {
    const at = check.text('endpoint', endpoint)
    return call(options, (cancel) => this.#native.status(at, cancel))
  }
  /** All alarms. */
  async alarms(options?: CallOptions): Promise<Alarm[]> {
    return (await call(options, (cancel) => this.#native.alarms(cancel))) as Alarm[]
  }
  /** Ends an alarm; answers with those that were ended. */
  async disarm(alarm: Alarm, options?: CallOptions): Promise<Alarm[]> {
    check.record('alarm', alarm)
    const memberId = check.id('memberId', alarm.memberId)
    const kind = check.oneOf('kind', alarm.kind, ['no-space', 'corrupt'])
    return (await call(options, (cancel) => this.#native.alarmDisarm({ memberId, kind }, cancel))) as Alarm[]
  }
  /** Gives the space of the member at this endpoint back to its disk. */
  async defragment(endpoint: string, options?: CallOptions): Promise<void> {
    const at = check.text('endpoint', endpoint)
    await call(options, (cancel) => this.#native.defragment(at, cancel))
  }
  /** Hashes the keys of the member at this endpoint up to a revision, 0 for all. */
  hashKv(
    endpoint: string,
    revision: Int64 = 0,
    options?: CallOptions,
  ): Promise<{ header: Header; hash: number; compactRevision: bigint }> {
    const at = check.text('endpoint', endpoint)
    const upTo = check.int64('revision', revision)
    return call(options, (cancel) => this.#native.hashKv(at, upTo, cancel))
  }
  /** Makes another member the leader; the endpoint is the present leader's. */
  async moveLeader(endpoint: string, target: bigint, options?: CallOptions): Promise<void> {
    const at = check.text('endpoint', endpoint)
    const member = check.id('target', target)
    await call(options, (cancel) => this.#native.moveLeader(at, member, cancel))
  }
  /** A copy of the data of the member at this endpoint, piece by piece. */
  snapshot(endpoint: string, options?: CallOptions): Promise<Stream<Buffer>> {
    const at = check.text('endpoint', endpoint)
    return opened(
      options,
      (cancel) => this.#native.snapshot(at, cancel),
      (piece: Buffer) => piece,
    )
  }
}

/** What a role may do with which keys. */
export interface Permission {
  read: boolean
  write: boolean
  /** The first key. */
  key: Buffer
  /** The end of the range; empty for the one key, one zero for no end. */
  rangeEnd: Buffer
}

/** Users and roles. Keys are those of the store, without the client's namespace. */
export class Auth {
  readonly #native: native.Auth
  /** @internal */
  constructor(auth: native.Auth) {
    this.#native = auth
  }
  /** Switches auth on; needs a user `root` with the role `root`. */
  async enable(options?: CallOptions): Promise<void> {
    await call(options, (cancel) => this.#native.enable(cancel))
  }
  /** Switches auth off. */
  async disable(options?: CallOptions): Promise<void> {
    await call(options, (cancel) => this.#native.disable(cancel))
  }
  /** Whether auth is on. */
  isEnabled(options?: CallOptions): Promise<boolean> {
    return call(options, (cancel) => this.#native.isEnabled(cancel))
  }
  /** Adds a user; without a password one that comes by certificate only. */
  async userAdd(name: string, password?: string, options?: CallOptions): Promise<void> {
    const user = check.text('name', name)
    const secret = check.maybe(password, (password) => check.text('password', password))
    await call(options, (cancel) => this.#native.userAdd(user, secret, cancel))
  }
  /** Deletes a user. */
  async userDelete(name: string, options?: CallOptions): Promise<void> {
    const user = check.text('name', name)
    await call(options, (cancel) => this.#native.userDelete(user, cancel))
  }
  /** Sets a user's password. */
  async userChangePassword(name: string, password: string, options?: CallOptions): Promise<void> {
    const user = check.text('name', name)
    const secret = check.text('password', password)
    await call(options, (cancel) => this.#native.userChangePassword(user, secret, cancel))
  }
  /** A user's roles. */
  userRoles(name: string, options?: CallOptions): Promise<string[]> {
    const user = check.text('name', name)
    return call(options, (cancel) => this.#native.userRoles(user, cancel))
  }
  /** All users. */
  users(options?: CallOptions): Promise<string[]> {
    return call(options, (cancel) => this.#native.users(cancel))
  }
  /** Gives a user a role. */
  async userGrantRole(user: string, role: string, options?: CallOptions): Promise<void> {
    const [who, what] = [check.text('user', user), check.text('role', role)]
    await call(options, (cancel) => this.#native.userGrantRole(who, what, cancel))
  }
  /** Takes a role from a user. */
  async userRevokeRole(user: string, role: string, options?: CallOptions): Promise<void> {
    const [who, what] = [check.text('user', user), check.text('role', role)]
    await call(options, (cancel) => this.#native.userRevokeRole(who, what, cancel))
  }
  /** Adds a role. */
  async roleAdd(name: string, options?: CallOptions): Promise<void> {
    const role = check.text('name', name)
    await call(options, (cancel) => this.#native.roleAdd(role, cancel))
  }
  /** Deletes a role. */
  async roleDelete(name: string, options?: CallOptions): Promise<void> {
    const role = check.text('name', name)
    await call(options, (cancel) => this.#native.roleDelete(role, cancel))
  }
  /** All roles. */
  roles(options?: CallOptions): Promise<string[]> {
    return call(options, (cancel) => this.#native.roles(cancel))
  }
  /** Lets a role read these keys, write them, or both. */
  async roleGrant(
    role: string,
    keys: KeysLike,
    access: 'read' | 'write' | 'read-write',
    options?: CallOptions,
  ): Promise<void> {
    const name = check.text('role', role)
    const which = keysOf('keys', keys)
    const may = check.oneOf('access', access, ['read', 'write', 'read-write'])
    await call(options, (cancel) =>
      this.#native.roleGrant(name, which, may !== 'write', may !== 'read', cancel),
    )
  }
  /** Takes from a role what it may do with exactly these keys. */
  async roleRevoke(role: string, keys: KeysLike, options?: CallOptions): Promise<void> {
    const name = check.text('role', role)
    const which = keysOf('keys', keys)
    await call(options, (cancel) => this.#native.roleRevoke(name, which, cancel))
  }
  /** What a role may do. */
  rolePermissions(role: string, options?: CallOptions): Promise<Permission[]> {
    const name = check.text('role', role)
    return call(options, (cancel) => this.#native.rolePermissions(name, cancel))
  }
}
