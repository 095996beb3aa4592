/**
 * Client for Folkmoot and etcd: keys, watches, locks, elections, service registry, typed configuration.
 *
 * @packageDocumentation
 */

export type * from './admin.js'
export type { CallOptions } from './call.js'
export type { Bytes, Int64 } from './check.js'
export {
  Client,
  type ClientOptions,
  type SessionOptions,
  type TlsOptions,
  type WatchOptions,
} from './client.js'
export type {
  Config,
  ConfigEvent,
  ConfigItem,
  ConfigOptions,
  ConfigReader,
  ConfigSource,
  Parser,
} from './config.js'
export {
  AmbiguousError,
  AuthError,
  ClosedError,
  CompactedError,
  ConfigError,
  ConflictError,
  DeadlineExceededError,
  FolkmootError,
  InvalidArgumentError,
  LockError,
  NotHeldError,
  NotLeaderError,
  OverflowError,
  RegistryError,
  SessionError,
  SessionLostError,
  TxnError,
  UnavailableError,
  WatchError,
  WouldBlockError,
} from './errors.js'
export {
  all,
  Compare,
  type DeleteOptions,
  type DeleteResult,
  from,
  type GetOptions,
  type GetResult,
  type Header,
  Keys,
  type KeysLike,
  type KeyValue,
  type OpResult,
  Ops,
  type PutOptions,
  type PutResult,
  prefix,
  type Relation,
  range,
  Txn,
  type TxnResult,
  type WatchBatch,
  type WatchEvent,
} from './kv.js'
export type {
  Balancer,
  Health,
  Instance,
  NewInstance,
  Pick,
  Policy,
  RegisterOptions,
  Registration,
  RegistrationEvent,
  Registry,
  ServiceEvent,
} from './registry.js'
export {
  type Contender,
  type Election,
  type FencingToken,
  type Held,
  type Leader,
  type LeaderEvent,
  Leadership,
  LockGuard,
  type Mutex,
  type MutexOptions,
  Session,
  type SessionEvents,
  type SessionState,
  type WaitOptions,
} from './session.js'
export { Stream, type StreamOptions } from './stream.js'
