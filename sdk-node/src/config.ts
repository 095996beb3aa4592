/** Typed configuration that never goes stale silently and keeps the last good value. */

import * as native from '#native'
import { atOnce, type CallOptions, call } from './call.js'
import type { Bytes, Int64 } from './check.js'
import * as check from './check.js'
import { errorOf, type FolkmootError } from './errors.js'
import { Stream, type StreamOptions } from './stream.js'

/**
 * Makes a typed value of parsed JSON, or throws: a function, or anything with a method `parse`, such as a
 * schema of zod. It may be called more than once for the same configuration.
 */
export type Parser<T> = ((value: unknown) => T) | { parse(value: unknown): T }

/** How to follow a namespace. */
export interface ConfigOptions<T> extends CallOptions {
  /** Namespaces that this one is laid over; of several the last lies lowest. */
  extends?: string[] | undefined
  /** Folder of the last good configuration, for a start while the store is down. */
  cacheDir?: string | undefined
  /** How long to wait for the store before the cache is used, in milliseconds. */
  initialTimeoutMs?: number | undefined
  /** How long changes must pause before they are taken together, in milliseconds. */
  debounceMs?: number | undefined
  /** Looks at a configuration that may be taken, and throws if it is no good. It has five seconds. */
  validate?: ((old: T | undefined, candidate: T) => void | Promise<void>) | undefined
}

/** Where a configuration comes from: the store, or the disk, from where it may be old. */
export type ConfigSource = 'live' | 'disk-cache'

/** What a reader tells. */
export type ConfigEvent<T> =
  | {
      type: 'changed'
      /** The present one. */
      value: T
      /** The one before, as this stream saw it; `undefined` at first. */
      old: T | undefined
      /** Where the two differ. */
      changedPaths: string[]
      revision: bigint
      source: ConfigSource
    }
  | {
      /** There is one, but it was refused, or does not parse; the last good one stays. */
      type: 'rejected'
      revision: bigint
      error: FolkmootError
    }

/** An item as it lies in the store. */
export interface ConfigItem {
  path: string
  value: Buffer
}

/** A namespace of configuration. */
export class Config {
  readonly #native: native.Config

  /** @internal */
  constructor(config: native.Config) {
    this.#native = config
  }

  /** The bytes of one item. */
  async get(path: string, options?: CallOptions): Promise<Buffer | undefined> {
    const item = check.text('path', path)
    return (await call(options, (cancel) => this.#native.get(item, cancel))) ?? undefined
  }
  /** All items, and the revision at which they were read. */
  async items(options?: CallOptions): Promise<{ items: ConfigItem[]; revision: bigint }> {
    const { items, revision } = await call(options, (cancel) => this.#native.items(cancel))
    return { items: items.map(({ path, value }) => ({ path, value: value ?? Buffer.alloc(0) })), revision }
  }
  /** Sets one item to bytes. */
  set(path: string, value: Bytes, options?: CallOptions & { basedOn?: Int64 | undefined }): Promise<bigint> {
    return this.publish({ [check.text('path', path)]: check.bytes('value', value) }, options)
  }
  /**
   * Changes items together, and answers with the revision; `null` removes one. Rejects with `CONFLICT` if
   * one of them was set after the revision `basedOn`.
   */
  async publish(
    items: Record<string, Bytes | null>,
    options?: CallOptions & { basedOn?: Int64 | undefined },
  ): Promise<bigint> {
    check.known('options of publish', options, ['basedOn', 'signal'])
    const changes = Object.entries(check.record('items', items)).map(([path, value]) => ({
      path,
      value: value === null ? undefined : check.bytes(`items.${path}`, value),
    }))
    const basedOn = check.maybe(options?.basedOn, (revision) => check.int64('basedOn', revision))
    return call(options, (cancel) => this.#native.publish(changes, basedOn, cancel))
  }

  /**
   * Reads the namespace and begins to follow it. Rejects if there is no good configuration, neither in the
   * store nor on disk.
   */
  async typed<T>(parser: Parser<T>, options?: ConfigOptions<T>): Promise<ConfigReader<T>> {
    check.known('options of typed', options, [
      'extends',
      'cacheDir',
      'initialTimeoutMs',
      'debounceMs',
      'validate',
      'signal',
    ])
    const values = new Values(parser)
    const validate = options?.validate
    check.maybe(validate, (validate) => check.callable('validate', validate))
    const settings: native.ConfigOptions = {
      extends: check.texts('extends', options?.extends ?? []),
      cacheDir: check.maybe(options?.cacheDir, (dir) => check.text('cacheDir', dir)),
      initialTimeoutMs: check.maybe(options?.initialTimeoutMs, (time) =>
        check.millis('initialTimeoutMs', time),
      ),
      debounceMs: check.maybe(options?.debounceMs, (time) => check.millis('debounceMs', time)),
    }
    const ask = (question: native.Question) => void judge(question, values, validate)
    const reader = await call(options, (cancel) => this.#native.open(settings, ask, cancel))
    return new ConfigReader(reader, values)
  }
}

async function judge<T>(
  question: native.Question,
  values: Values<T>,
  validate: ((old: T | undefined, candidate: T) => void | Promise<void>) | undefined,
): Promise<void> {
  const why = (thrown: unknown) => (thrown instanceof Error ? thrown.message : String(thrown))
  let candidate: T
  try {
    candidate = values.of(question.document)
  } catch (thrown) {
    return native.answerCandidate(question.number, undefined, why(thrown))
  }
  try {
    const old = question.old ? values.of(question.old) : undefined
    await validate?.(old, candidate)
    native.answerCandidate(question.number)
  } catch (thrown) {
    native.answerCandidate(question.number, why(thrown))
  }
}

/** The values that were made of documents; the latest are remembered, so that each is the same object. */
class Values<T> {
  readonly #parse: (value: unknown) => T
  readonly #known = new Map<number, T>()

  constructor(parser: Parser<T>) {
    if (typeof parser === 'function') {
      this.#parse = parser
    } else if (typeof (parser as { parse?: unknown } | undefined)?.parse === 'function') {
      this.#parse = (value) => parser.parse(value)
    } else {
      throw new TypeError('parser must be a function or have a method parse')
    }
  }

  of(document: native.Document): T {
    const known = this.#known.get(document.id)
    if (known !== undefined) return known
    const value = this.#parse(JSON.parse(document.json))
    this.#known.set(document.id, value)
    const first = this.#known.keys().next().value
    if (this.#known.size > 16 && first !== undefined) this.#known.delete(first)
    return value
  }
}

/** A configuration that follows the store. */
export class ConfigReader<T> implements AsyncDisposable {
  readonly #native: native.ConfigReader
  readonly #values: Values<T>

  /** @internal */
  constructor(reader: native.ConfigReader, values: Values<T>) {
    this.#native = reader
    this.#values = values
  }
  /** The last good configuration. */
  get current(): T {
    return this.#values.of(atOnce(() => this.#native.current()))
  }
  /** Where the last good configuration comes from, and as of which revision it is. */
  get state(): { revision: bigint; source: ConfigSource } {
    const { revision, source } = atOnce(() => this.#native.state())
    return { revision, source: source as ConfigSource }
  }
  /** The present configuration at first, then each later one, and each refusal. The last one is never left out. */
  watch(options?: StreamOptions): Stream<ConfigEvent<T>> {
    const event = (out: native.ConfigEvent): ConfigEvent<T> => {
      if (out.kind === 'rejected' || !out.new) {
        return { type: 'rejected', revision: out.revision, error: errorOf(out.error ?? '') }
      }
      return {
        type: 'changed',
        value: this.#values.of(out.new),
        old: out.old ? this.#values.of(out.old) : undefined,
        changedPaths: out.changedPaths,
        revision: out.revision,
        source: out.source as ConfigSource,
      }
    }
    return new Stream(
      atOnce(() => this.#native.watch()),
      event,
      options,
    )
  }
  /** Lets go of it; streams go on until they are closed themselves. */
  close(): void {
    this.#native.stop()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
  }
}
