/** @internal How calls go to the native layer. */

import { cancelDrop, cancelFire, cancelNew } from '#native'
import { translated } from './errors.js'

/** Every call that waits takes these. */
export interface CallOptions {
  /** Gives the call up; it rejects with the signal's reason. A write that was sent may be applied. */
  signal?: AbortSignal | undefined
}

/** @internal */
export async function call<T>(
  options: CallOptions | undefined,
  native: (cancel: number | undefined) => Promise<T>,
): Promise<T> {
  const signal = options?.signal
  if (signal === undefined) {
    try {
      return await native(undefined)
    } catch (thrown) {
      throw translated(thrown)
    }
  }
  if (!(signal instanceof AbortSignal))
    throw new TypeError(`signal must be an AbortSignal; got ${kind(signal)}`)
  signal.throwIfAborted()
  const cancel = cancelNew()
  const abort = () => cancelFire(cancel)
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await native(cancel)
  } catch (thrown) {
    if (signal.aborted) throw signal.reason
    throw translated(thrown)
  } finally {
    signal.removeEventListener('abort', abort)
    cancelDrop(cancel)
  }
}

/** @internal The same for what does not wait. */
export function atOnce<T>(native: () => T): T {
  try {
    return native()
  } catch (thrown) {
    throw translated(thrown)
  }
}

/** @internal What a value is, for people. */
export function kind(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? (value.constructor?.name ?? 'an object') : typeof value
}
