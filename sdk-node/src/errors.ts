/**
 * The error tree. Every failure of a call is a {@link FolkmootError} with a stable `code`; a call that was
 * aborted rejects with the reason of its signal instead, and wrong types are a `TypeError` or `RangeError`.
 */

/** What every failed call rejects with. */
export class FolkmootError extends Error {
  override name = 'FolkmootError'
  /** Stable name of what happened, for example `UNAVAILABLE`. */
  readonly code: string
  /** Whether the same call may succeed later. */
  readonly retryable: boolean
  /** Whether the store may have been changed in spite of the error. */
  readonly maybeApplied: boolean
  /** The member that was asked, if one was. */
  readonly endpoint: string | undefined
  /** More about it; what there is depends on the code. */
  readonly details: Readonly<Record<string, unknown>>

  /** @internal */
  constructor(said: Said) {
    super(said.endpoint ? `${said.message} endpoint=${said.endpoint}` : said.message)
    this.code = said.code
    this.retryable = said.retryable
    this.maybeApplied = said.maybeApplied
    this.endpoint = said.endpoint ?? undefined
    this.details = said.details ?? {}
  }
}

/** @internal */
export interface Said {
  code: string
  message: string
  retryable: boolean
  maybeApplied: boolean
  endpoint?: string | null
  details?: Record<string, unknown>
}

/** Time ran out; a write may have been applied. */
export class DeadlineExceededError extends FolkmootError {
  override name = 'DeadlineExceededError'
}
/** No member could serve the call; nothing was applied. */
export class UnavailableError extends FolkmootError {
  override name = 'UnavailableError'
}
/** A write was sent and its answer was lost: it may have been applied, or may still be. */
export class AmbiguousError extends FolkmootError {
  override name = 'AmbiguousError'
}
/** Name, password or certificate were refused, or this user may not do that. */
export class AuthError extends FolkmootError {
  override name = 'AuthError'
}
/** A session, and with it everything held through it, cannot be used any more. */
export class SessionError extends FolkmootError {
  override name = 'SessionError'
}
/** The session has ended; everything held through it is lost. */
export class SessionLostError extends SessionError {
  override name = 'SessionLostError'
}
/** A lock or leadership is not held. */
export class LockError extends FolkmootError {
  override name = 'LockError'
}
/** The lock is not, or no longer, held. */
export class NotHeldError extends LockError {
  override name = 'NotHeldError'
}
/** The leadership is not, or no longer, held. */
export class NotLeaderError extends LockError {
  override name = 'NotLeaderError'
}
/** Somebody else holds it, and waiting was not asked for. */
export class WouldBlockError extends LockError {
  override name = 'WouldBlockError'
}
/** A transaction could not be done. */
export class TxnError extends FolkmootError {
  override name = 'TxnError'
}
/** What was read has changed meanwhile. */
export class ConflictError extends TxnError {
  override name = 'ConflictError'
}
/** A watch ended. */
export class WatchError extends FolkmootError {
  override name = 'WatchError'
}
/** The asked-for history is compacted away. */
export class CompactedError extends WatchError {
  override name = 'CompactedError'
  /** The oldest revision that can still be read. */
  get compactRevision(): bigint {
    return BigInt((this.details['compact_revision'] as number | undefined) ?? 0)
  }
}
/** The consumer of a watch was too slow for the policy it chose. */
export class OverflowError extends WatchError {
  override name = 'OverflowError'
  /** The revision from which to go on. */
  get resumeRevision(): bigint {
    return BigInt((this.details['resume_revision'] as number | undefined) ?? 0)
  }
}
/** A configuration does not parse, or was refused. */
export class ConfigError extends FolkmootError {
  override name = 'ConfigError'
}
/** There is no instance to pick, or an id is taken. */
export class RegistryError extends FolkmootError {
  override name = 'RegistryError'
}
/** The arguments make no sense for the store. */
export class InvalidArgumentError extends FolkmootError {
  override name = 'InvalidArgumentError'
}
/** The client, session or stream was closed. */
export class ClosedError extends FolkmootError {
  override name = 'ClosedError'
}

const CLASSES: Readonly<Record<string, new (said: Said) => FolkmootError>> = {
  DEADLINE_EXCEEDED: DeadlineExceededError,
  UNAVAILABLE: UnavailableError,
  AMBIGUOUS: AmbiguousError,
  AUTH_FAILED: AuthError,
  PERMISSION_DENIED: AuthError,
  SESSION_LOST: SessionLostError,
  FORKED: SessionError,
  NOT_HELD: NotHeldError,
  NOT_LEADER: NotLeaderError,
  WOULD_BLOCK: WouldBlockError,
  CONFLICT: ConflictError,
  TOO_MANY_OPS: TxnError,
  COMPACTED: CompactedError,
  OVERFLOW: OverflowError,
  CLUSTER_RESET: WatchError,
  INVALID_CONFIG: ConfigError,
  REJECTED: ConfigError,
  NO_INSTANCES: RegistryError,
  ALREADY_REGISTERED: RegistryError,
  INVALID_ARGUMENT: InvalidArgumentError,
  CLOSED: ClosedError,
}

/** @internal Makes an error of the text that the native layer gives. */
export function errorOf(text: string): FolkmootError {
  let said: Said
  try {
    said = JSON.parse(text) as Said
  } catch {
    said = { code: 'INTERNAL', message: text, retryable: false, maybeApplied: false }
  }
  return new (CLASSES[said.code] ?? FolkmootError)(said)
}

/** @internal The same for anything that the native layer throws. */
export function translated(thrown: unknown): unknown {
  if (!(thrown instanceof Error)) return thrown
  if (thrown instanceof FolkmootError) return thrown
  if (!thrown.message.startsWith('{"')) return thrown
  const error = errorOf(thrown.message)
  error.cause = thrown
  return error
}
