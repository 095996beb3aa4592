/** @internal Checks of arguments: a `TypeError` or `RangeError` that names the argument and the value. */

import { kind } from './call.js'

/** Bytes, or text that stands for its UTF-8. */
export type Bytes = string | Uint8Array

/** A 64-bit number: a `bigint`, or a number that is a safe integer. */
export type Int64 = bigint | number

const I64_MAX = (1n << 63n) - 1n

export function bytes(name: string, value: unknown): Buffer {
  if (typeof value === 'string') return Buffer.from(value, 'utf8')
  if (Buffer.isBuffer(value)) return value
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  throw new TypeError(`${name} must be a string, Buffer or Uint8Array; got ${kind(value)}`)
}

export function text(name: string, value: unknown): string {
  if (typeof value === 'string') return value
  throw new TypeError(`${name} must be a string; got ${kind(value)}`)
}

export function texts(name: string, value: unknown): string[] {
  if (!Array.isArray(value)) throw new TypeError(`${name} must be an array of strings; got ${kind(value)}`)
  return value.map((one, at) => text(`${name}[${at}]`, one))
}

export function truth(name: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value
  throw new TypeError(`${name} must be a boolean; got ${kind(value)}`)
}

export function int64(name: string, value: unknown): bigint {
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value))
      throw new RangeError(`${name} must be a safe integer or a bigint; got ${value}`)
    return BigInt(value)
  }
  if (typeof value !== 'bigint')
    throw new TypeError(`${name} must be a bigint or a number; got ${kind(value)}`)
  if (value > I64_MAX || value < -I64_MAX - 1n)
    throw new RangeError(`${name} must fit into 64 bits; got ${value}`)
  return value
}

/** The id of a cluster or member: 64 bits without a sign. */
export function id(name: string, value: unknown): bigint {
  if (typeof value !== 'bigint') throw new TypeError(`${name} must be a bigint; got ${kind(value)}`)
  if (value < 0n || value >= 1n << 64n)
    throw new RangeError(`${name} must fit into 64 bits without a sign; got ${value}`)
  return value
}

export function whole(name: string, value: unknown, min: number, max: number): number {
  if (typeof value !== 'number') throw new TypeError(`${name} must be a number; got ${kind(value)}`)
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new RangeError(`${name} must be an integer from ${min} to ${max}; got ${value}`)
  }
  return value
}

/** A time in milliseconds. */
export function millis(name: string, value: unknown): number {
  if (typeof value !== 'number')
    throw new TypeError(`${name} must be a number of milliseconds; got ${kind(value)}`)
  if (!(value >= 0 && value <= 1e12))
    throw new RangeError(`${name} must be a time of 0 ms or more; got ${value}`)
  return value
}

/** A time to live, in seconds; answers milliseconds. */
export function ttl(name: string, value: unknown): number {
  if (typeof value !== 'number')
    throw new TypeError(`${name} must be a number of seconds; got ${kind(value)}`)
  if (!(value > 0 && value <= 9_000_000_000)) {
    throw new RangeError(`${name} must be more than 0 and at most 9,000,000,000 seconds; got ${value}`)
  }
  return value * 1000
}

export function oneOf<T extends string>(name: string, value: unknown, allowed: readonly T[]): T {
  if (typeof value !== 'string') throw new TypeError(`${name} must be a string; got ${kind(value)}`)
  if (!(allowed as readonly string[]).includes(value)) {
    throw new RangeError(`${name} must be one of ${allowed.join(', ')}; got ${value}`)
  }
  return value as T
}

export function callable(name: string, value: unknown): void {
  if (typeof value !== 'function') throw new TypeError(`${name} must be a function; got ${kind(value)}`)
}

export function record(name: string, value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TypeError(`${name} must be an object; got ${kind(value)}`)
  }
  return value as Record<string, unknown>
}

/** Refuses names that mean nothing, which are mistakes more often than not. */
export function known(name: string, options: object | undefined, allowed: readonly string[]): void {
  if (options === undefined) return
  for (const key of Object.keys(record(name, options))) {
    if (!allowed.includes(key))
      throw new TypeError(`${name} has no option ${key}; there are ${allowed.join(', ')}`)
  }
}

/** Applies a check to what is there. */
export function maybe<T, R>(value: T | undefined | null, check: (value: T) => R): R | undefined {
  return value === undefined || value === null ? undefined : check(value)
}
