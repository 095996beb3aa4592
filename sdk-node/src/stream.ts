/** Streams: async iterators that lose nothing when a reader gives up. */

import { atOnce, type CallOptions, call } from './call.js'
import * as check from './check.js'
import { translated } from './errors.js'

/** How to read a stream. */
export interface StreamOptions extends CallOptions {
  /**
   * `false`: waiting for this stream alone does not keep the process alive. `true` if not said, as for
   * timers and sockets.
   */
  ref?: boolean | undefined
}

/** @internal */
export interface NativeStream<T> {
  ready(cancel?: number | undefined | null): Promise<void>
  readyWeak(callback: () => void): void
  take(): T | null | undefined
  done(): boolean
  stop(): void
}

/**
 * A stream of events. `for await` reads it, and `break` ends it. {@link Stream.read} reads one event and may
 * be given up by a signal without a loss; a `next()` that is raced against a timer and forgotten takes its
 * event with it.
 */
export class Stream<T> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #native: NativeStream<unknown>
  readonly #map: (item: never) => T
  readonly #signal: AbortSignal | undefined
  readonly #ref: boolean
  readonly #abort: () => void
  #turn: Promise<unknown> = Promise.resolve()

  /** @internal */
  constructor(native: NativeStream<unknown>, map: (item: never) => T, options?: StreamOptions) {
    this.#native = native
    this.#map = map
    this.#signal = options?.signal
    this.#ref = options?.ref ?? true
    check.truth('ref', this.#ref)
    this.#abort = () => native.stop()
    this.#signal?.addEventListener('abort', this.#abort, { once: true })
  }

  /** The next event; `undefined` at the end. Rejects with the signal's reason, and then nothing is lost. */
  read(options?: CallOptions): Promise<T | undefined> {
    // One reader after the other, so that events keep their order.
    const turn = this.#turn.then(() => this.#read(options))
    this.#turn = turn.catch(() => {})
    return turn
  }

  /** An event that is there already; `undefined` if none is. */
  tryRead(): T | undefined {
    try {
      const item = atOnce(() => this.#native.take())
      return item == null ? undefined : this.#map(item as never)
    } catch (thrown) {
      this.close()
      throw thrown
    }
  }

  async #read(options?: CallOptions): Promise<T | undefined> {
    for (;;) {
      options?.signal?.throwIfAborted()
      this.#signal?.throwIfAborted()
      const item = this.tryRead()
      if (item !== undefined) return item
      if (this.#native.done()) {
        this.#signal?.throwIfAborted()
        return undefined
      }
      await this.#ready(options)
    }
  }

  async #ready(options?: CallOptions): Promise<void> {
    if (this.#ref) return call(options, (cancel) => this.#native.ready(cancel))
    const signal = options?.signal
    let abort = () => {}
    try {
      await new Promise<void>((resolve, reject) => {
        abort = () => reject(signal?.reason)
        signal?.addEventListener('abort', abort, { once: true })
        this.#native.readyWeak(resolve)
      })
    } catch (thrown) {
      throw translated(thrown)
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  /** See {@link Stream.read}. */
  async next(): Promise<IteratorResult<T, undefined>> {
    const value = await this.read()
    return value === undefined ? { done: true, value: undefined } : { done: false, value }
  }

  /** Ends the stream; `break` in `for await` does it. */
  async return(): Promise<IteratorResult<T, undefined>> {
    this.close()
    return { done: true, value: undefined }
  }

  /** Ends the stream; whoever reads it gets its end. */
  close(): void {
    this.#signal?.removeEventListener('abort', this.#abort)
    this.#native.stop()
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
  }
}

/** @internal A stream whose opening takes a call; one that was opened too late is ended again. */
export async function opened<N extends NativeStream<unknown>, T>(
  options: StreamOptions | undefined,
  open: (cancel: number | undefined) => Promise<N>,
  map: (item: never) => T,
): Promise<Stream<T>> {
  const native = await call(options, open)
  const stream = new Stream(native, map, options)
  if (options?.signal?.aborted) {
    stream.close()
    throw options.signal.reason
  }
  return stream
}
